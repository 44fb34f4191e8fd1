import contextlib
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import dispatch
from headfields.ops.hash_grid import hash_grid
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.ops.reference import hash_grid as reference
from tests.backends import BACKENDS

needs_native = pytest.mark.skipif(dispatch.native is None, reason="the compiled module is not installed")
INTERPOLATIONS = ["linear", "smoothstep"]
# Dense and hashed levels in each.
LAYOUT = HashGridLayout(levels=4, features=2, log2_table_size=7, base_resolution=2, finest_resolution=19)


def on(backend, *tensors):
    return [tensor.to("cuda" if backend == "cuda" else "cpu") for tensor in tensors]


@contextlib.contextmanager
def parallel(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(backend, points, table, layout, interpolation="linear"):
    """On the backend, or on the reference; the result comes back to the CPU."""
    if backend == "reference":
        return reference.hash_grid(points, table, layout, interpolation)
    points, table = on(backend, points, table)
    with dispatch.use_cpu_backend("warp" if backend == "warp" or dispatch.native is None else "native"):
        return hash_grid(points, table, layout, interpolation).cpu()


def derivatives(backend, points, table, layout, interpolation, weights):
    """Values, first gradients, and the gradients of a scalar made of all of these."""
    points, table = points.clone().requires_grad_(), table.clone().requires_grad_()
    cpu = "warp" if backend == "warp" or dispatch.native is None else "native"
    with dispatch.use_cpu_backend(cpu):
        out = run(backend, points, table, layout, interpolation)
        first = torch.autograd.grad((out * weights).sum(), (points, table), create_graph=True)
        mixed = first[0].sin().sum() + (first[1].float() * table.detach().float().cos()).sum() + out.square().sum()
        second = torch.autograd.grad(mixed, (points, table))
    return out, *first, *second


def away_from_borders(points, layout):
    """Moves coordinates off the cell borders of every level, where the gradient jumps."""
    for _ in range(20):
        near = torch.zeros_like(points, dtype=torch.bool)
        for n in layout.resolutions:
            near |= ((points * n) - (points * n).round()).abs() < 1e-3 * n
        points = torch.where(near, torch.rand_like(points), points)
    return points


def test_layout_by_hand():
    layout = HashGridLayout(levels=3, features=2, log2_table_size=6, base_resolution=2, finest_resolution=8)
    assert layout.growth == pytest.approx(2.0)
    assert layout.resolutions == (2, 4, 8)
    assert layout.dense == (True, False, False)  # 27 of 64 rows; 125; 729
    assert layout.offsets == (0, 27, 91, 155)
    assert layout.entries == 155 and layout.width == 6


def test_published_layouts_reach_their_finest_resolution():
    for levels in range(2, 20):
        resolutions = HashGridLayout(levels=levels, base_resolution=16, finest_resolution=2048).resolutions
        assert resolutions[0] == 16 and resolutions[-1] == 2048
        assert list(resolutions) == sorted(resolutions)


def test_values_by_hand():
    layout = HashGridLayout(
        levels=1, features=1, log2_table_size=4, base_resolution=2, finest_resolution=2, dimensions=2
    )
    table = torch.arange(9.0)[:, None]  # vertex (x, y) holds x + 3 y
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.25, 0.5], [0.5, 0.75]])
    expected = torch.tensor([[0.0], [8.0], [3.5], [5.5]])
    for backend in ("reference", "warp", *(["native"] if dispatch.native else [])):
        torch.testing.assert_close(run(backend, points, table, layout), expected)


def test_hash_by_hand():
    layout = HashGridLayout(levels=1, log2_table_size=4, base_resolution=100, finest_resolution=100)
    row = reference.hash_grid_rows(torch.tensor([[0.035, 0.075, 0.505]]), layout)[0, 0, 0]
    assert row == (3 ^ (7 * 2654435761) % 2**32 ^ (50 * 805459861) % 2**32) % 16


@needs_native
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_the_same_integers(dimensions, dtype):
    torch.manual_seed(dimensions)
    layout = HashGridLayout(8, 1, 12, 3, 4000, dimensions)
    points = torch.rand(500, dimensions, dtype=dtype) * 1.2 - 0.1
    points[:40] = torch.randint(0, 5, (40, dimensions)).to(dtype) / 4  # on cell borders, and the borders of the box
    rows = torch.empty(500, layout.levels, 2**dimensions, dtype=torch.int64)
    dispatch.native.hash_grid_rows(points, rows, layout.resolutions, layout.offsets, layout.log2_table_size, 2)
    assert torch.equal(rows, reference.hash_grid_rows(points, layout))


ROWS = [(dimensions, "native") for dimensions in (1, 2, 3, 4)]
ROWS += [(3, "warp"), *(pytest.param(dimensions, "warp", marks=pytest.mark.slow) for dimensions in (1, 2, 4))]
ROWS += [pytest.param(dimensions, "cuda", marks=pytest.mark.cuda) for dimensions in (1, 2, 3, 4)]


@pytest.mark.parametrize(("dimensions", "backend"), ROWS)
def test_rows_seen_through_the_values(dimensions, backend):
    # A table that holds its own row number tells at each vertex which row was read, exactly.
    layout = HashGridLayout(6, 1, 12, 3, 500, dimensions)
    table = torch.arange(layout.entries, dtype=torch.float32)[:, None]
    for level, n in enumerate(layout.resolutions):
        vertices = torch.randint(0, n, (200, dimensions)).float()
        points = vertices / n
        held = (points * n) == vertices  # where the division does not round back, the point is no vertex
        points = points[held.all(1)]
        seen = run(backend, points, table, layout)[:, level]
        assert torch.equal(seen.long(), reference.hash_grid_rows(points, layout)[:, level, 0])


# Warp compiles kernels for each of these; the rest of them in the slow tests.
SHAPES = [(1, 2), (2, 3), (3, 1), (3, 2), (3, 4), (3, 5), (3, 8), (3, 16), (4, 2), (4, 8)]
QUICK = [(2, 3, torch.float32), (3, 2, torch.float32), (3, 8, torch.float32), (3, 8, torch.float16)]
CASES = [
    pytest.param(
        backend, dimensions, features, dtype,
        marks=pytest.mark.slow if backend == "warp" and (dimensions, features, dtype) not in QUICK else (),
    )
    for backend in ("native", "warp") for dimensions, features in SHAPES for dtype in (torch.float32, torch.float16)
]  # fmt: skip
CASES += [pytest.param("cuda", *shape, torch.float32, marks=pytest.mark.cuda) for shape in SHAPES]


@pytest.mark.parametrize(("backend", "dimensions", "features", "dtype"), CASES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_agrees_with_the_reference(backend, interpolation, dtype, dimensions, features):
    torch.manual_seed(0)
    layout = HashGridLayout(4, features, 7, 2, 19, dimensions)
    points = away_from_borders(torch.rand(131, dimensions) * 1.1 - 0.05, layout)
    table, weights = torch.randn(layout.entries, features).to(dtype), torch.randn(131, layout.width)
    expected = derivatives("reference", points, table, layout, interpolation, weights)
    for have, want in zip(derivatives(backend, points, table, layout, interpolation, weights), expected, strict=True):
        assert have.dtype == want.dtype
        # The reference adds half-precision gradients in half precision.
        tolerance = 8e-3 if have.dtype == torch.float16 else 2e-4
        assert (have - want).abs().max() <= tolerance * want.abs().max()


@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(0, 9), st.integers(1, 12), st.integers(0, 40), st.integers(1, 4),
    st.integers(0, 70), st.sampled_from(INTERPOLATIONS),
)  # fmt: skip
def test_any_layout(levels, features, log2_size, base, more, dimensions, count, interpolation):
    layout = HashGridLayout(levels, features, log2_size, base, base + more, dimensions)
    points, table = torch.rand(count, dimensions), torch.randn(layout.entries, features)
    expected = run("reference", points, table, layout, interpolation)
    # Of odd numbers of features Warp's kernels are the same: fewer are compiled.
    for backend in (*(["warp"] if features % 2 else []), *(["native"] if dispatch.native else [])):
        have = run(backend, points, table, layout, interpolation)
        torch.testing.assert_close(have, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("where", [pytest.param("native", marks=needs_native), "reference"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dimensions", [1, 3, 4])
def test_gradcheck(where, interpolation, dimensions):
    torch.manual_seed(1)
    layout = HashGridLayout(2, 2, 4, 2, 5, dimensions)
    points = away_from_borders(torch.rand(3, dimensions, dtype=torch.float64), layout).requires_grad_()
    table = torch.randn(layout.entries, 2, dtype=torch.float64, requires_grad=True)

    def function(points, table):
        return run(where, points, table, layout, interpolation)

    assert torch.autograd.gradcheck(function, (points, table))
    assert torch.autograd.gradgradcheck(function, (points, table), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (0,), (1,), (3, 0), (67,)])
def test_batch_shapes_keep_a_gradient(backend, batch):
    points = torch.rand(*batch, 3, requires_grad=True)
    table = torch.randn(LAYOUT.entries, 2, requires_grad=True)
    out = run(backend, points, table, LAYOUT)
    assert out.shape == (*batch, LAYOUT.width)
    torch.testing.assert_close(out, run("reference", points, table, LAYOUT))
    to_points, to_table = torch.autograd.grad(out.square().sum(), (points, table), create_graph=True)
    assert to_points.shape == points.shape and to_table.shape == table.shape
    second = torch.autograd.grad(to_points.square().sum() + to_table.square().sum(), table)[0]
    assert second.isfinite().all()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_eikonal_loss_reaches_the_table(backend):
    torch.manual_seed(2)
    points = torch.rand(50, 3, requires_grad=True)
    table = torch.randn(LAYOUT.entries, 2, requires_grad=True)
    distance = run(backend, points, table, LAYOUT, "smoothstep").sum(1)
    (normal,) = torch.autograd.grad(distance.sum(), points, create_graph=True)
    (normal.norm(dim=1) - 1).square().mean().backward()
    assert table.grad.abs().sum() > 0
    step = 1e-3
    with torch.no_grad():
        lower = table - step * table.grad / table.grad.norm()
    points = points.detach().requires_grad_()
    distance = run(backend, points, lower, LAYOUT, "smoothstep").sum(1)
    (after,) = torch.autograd.grad(distance.sum(), points)
    assert (after.norm(dim=1) - 1).square().mean() < (normal.norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_outside_is_clamped_without_gradient(backend, interpolation):
    points = torch.tensor([[-0.3, 0.4, 0.2], [0.7, 7.0, 0.1], [0.3, 0.6, float("inf")], [0.3, 0.6, -float("inf")]])
    table = torch.randn(LAYOUT.entries, 2)
    points.requires_grad_()
    out = run(backend, points, table, LAYOUT, interpolation)
    torch.testing.assert_close(out, run("reference", points.clamp(0, 1), table, LAYOUT, interpolation))
    (gradient,) = torch.autograd.grad(out.sum(), points)
    outside = (points < 0) | (points > 1)
    assert (gradient[outside] == 0).all() and (gradient[~outside] != 0).all()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_nan_stays_with_its_point(backend):
    torch.manual_seed(3)
    good = torch.rand(70, 3)
    points = torch.cat((good, good))
    points[70:, 1] = torch.nan
    table, weights = torch.randn(LAYOUT.entries, 2), torch.randn(140, LAYOUT.width)
    table.requires_grad_(), points.requires_grad_()
    out = run(backend, points, table, LAYOUT)
    assert out[70:].isnan().all() and out[:70].isfinite().all()
    to_points, to_table = torch.autograd.grad(out, (points, table), weights, create_graph=True)
    assert (to_points[70:] == 0).all()
    alone = run("reference", good, table, LAYOUT)
    torch.testing.assert_close(to_table, torch.autograd.grad(alone, table, weights[:70])[0])
    (second,) = torch.autograd.grad(to_points.square().sum(), table)
    assert second.isfinite().all()


@needs_native
def test_threads_do_not_change_a_bit():
    torch.manual_seed(4)
    points, table = torch.rand(5000, 3, requires_grad=True), torch.randn(LAYOUT.entries, 2, requires_grad=True)
    results = []
    for threads in (1, 3):
        with parallel(threads):
            out = hash_grid(points, table, LAYOUT)
            results.append((out, *torch.autograd.grad(out.square().sum(), (points, table))))
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


@needs_native
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_batches_are_written_as_small_ones_are(features, dtype):
    # Rows of more than 4 MB together are written in whole cache lines; those of a few points one by one.
    torch.manual_seed(features)
    layout = HashGridLayout(16, features, 9, 2, 300)
    points = torch.rand((1 << 22) // (4 * layout.width) + 83, 3) * 1.1 - 0.05
    points[1000, 1] = torch.nan
    table, tangent = torch.randn(2, layout.entries, features).to(dtype)
    grad, direction = torch.randn(len(points), layout.width), torch.randn_like(points)

    def rows(part, threads):
        with parallel(threads):
            second = (layout.key, True, [True, False, False])
            return torch.cat([
                hash_grid(points[part], table, layout),
                torch.ops.headfields.hash_grid_backward_backward(
                    grad[part], points[part], table, direction[part], tangent, *second
                )[0],
            ], 1)  # fmt: skip

    whole = rows(slice(None), 2)
    assert whole[1000, : layout.width].isnan().all() and (whole[1000, layout.width :] == 0).all()
    pieces = torch.cat([rows(slice(first, first + 1001), 1) for first in range(0, len(points), 1001)])
    assert torch.equal(whole.nan_to_num(7.0), pieces.nan_to_num(7.0))


@needs_native
def test_gradient_of_more_points_than_are_arranged_at_once():
    layout = HashGridLayout(32, 1, 9, 2, 300)
    points = torch.rand((1 << 24) // (4 * layout.width) + 70, 3)
    table = torch.zeros(layout.entries, 1, requires_grad=True)
    hash_grid(points, table, layout).sum().backward()
    # The weights of a point's corners add up to one.
    of_level = [part.sum() for part in table.grad.double().split([b - a for a, b in pairwise(layout.offsets)])]
    torch.testing.assert_close(torch.stack(of_level), torch.full((32,), float(len(points))).double(), rtol=1e-5, atol=0)


def test_half_precision_table_follows_the_float_one():
    torch.manual_seed(5)
    points, table = torch.rand(100, 3), torch.randn(LAYOUT.entries, 2).half()
    out = hash_grid(points, table, LAYOUT)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, hash_grid(points, table.float(), LAYOUT))
    edge = torch.tensor([0.0, -0.0, 6e-8, 6.1e-5, 65504.0, -1.0]).half()
    layout = HashGridLayout(1, 1, 3, 1, 1, 1)
    for value in edge:  # subnormals and the largest number come through exactly
        assert hash_grid(torch.zeros(1, 1), torch.stack((value, value * 0))[:, None], layout).item() == value.item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_table_read_in_half_precision_has_the_derivatives_of_float32(backend, interpolation):
    """Those of the definition at the rounded rows, in float32; gradients that float16 would lose are kept."""
    torch.manual_seed(7)
    points = away_from_borders(torch.rand(131, 3) * 1.1 - 0.05, LAYOUT)
    table, weights = torch.randn(LAYOUT.entries, 2), 1e-6 * torch.randn(131, LAYOUT.width)
    rounded = table.half()

    def of(function, table):
        x, y = on(backend, points, table)
        x, y = x.requires_grad_(), y.requires_grad_()
        with dispatch.use_cpu_backend("warp" if backend == "warp" or dispatch.native is None else "native"):
            out = function(x, y)
            first = torch.autograd.grad((out * weights.to(x)).sum(), (x, y), create_graph=True)
            mixed = (1e6 * first[0]).sin().sum() + (1e6 * first[1]).cos().sum() + out.square().sum()
            return [t.cpu() for t in (out, *first, *torch.autograd.grad(mixed, (x, y)))]

    have = of(lambda x, y: hash_grid(x, y, LAYOUT, interpolation, rounded.to(x.device)), table)
    want = of(lambda x, y: reference.hash_grid(x, y, LAYOUT, interpolation), rounded.float())
    for mine, defined in zip(have, want, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - defined).abs().max() <= 2e-4 * defined.abs().max()
    assert bool((have[2] != 0).any()) and have[2].abs().max() < 1e-4
    plain = of(lambda x, y: hash_grid(x, y, LAYOUT, interpolation), table)
    assert not torch.equal(have[0], plain[0]), "the rounded rows are read"
    # In forward mode and under torch.func it is the definition.
    tangent, where = torch.randn(LAYOUT.entries, 2), points[:9]
    _, along = torch.func.jvp(lambda y: hash_grid(where, y, LAYOUT, interpolation, rounded), (table,), (tangent,))
    torch.testing.assert_close(along, reference.hash_grid(where, tangent, LAYOUT, interpolation))
    to_table = torch.func.grad(lambda y: hash_grid(where, y, LAYOUT, interpolation, rounded).sum())(table)
    rows = rounded.float().requires_grad_()
    torch.testing.assert_close(
        to_table, torch.autograd.grad(reference.hash_grid(where, rows, LAYOUT, interpolation).sum(), rows)[0]
    )


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_unwanted_gradients_are_not_made(backend):
    points, table = torch.rand(5, 3), torch.randn(LAYOUT.entries, 2)
    grad, key = torch.randn(5, LAYOUT.width), LAYOUT.key
    with dispatch.use_cpu_backend(backend):
        both = torch.ops.headfields.hash_grid_backward(grad, points, table, key, False, [True, True])
        only = torch.ops.headfields.hash_grid_backward(grad, points, table, key, False, [True, False])
    assert torch.equal(only[0], both[0]) and only[1].numel() == 0 and both[1].shape == table.shape


def test_views_that_wide_loads_cannot_read():
    # A table within another tensor begins at any float; a gradient too.
    torch.manual_seed(6)
    layout = HashGridLayout(4, 8, 7, 2, 19)
    points, held = torch.rand(20, 3), torch.randn(layout.entries * 8 + 1)
    table, grad = held[1:].view(-1, 8), torch.randn(20 * layout.width + 1)[1:].view(20, -1)
    assert table.data_ptr() % 16 and grad.data_ptr() % 16
    with dispatch.use_cpu_backend("warp"):
        seen, module = [], sys.modules["headfields.ops.hash_grid"]
        launch = module.launch
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "launch", lambda *given: (seen.extend(given), launch(*given)))
            torch.ops.headfields.hash_grid_backward(grad, points, table, layout.key, False, [True, True])
            have = hash_grid(points, table, layout)
    tensors = [tensor for tensor in seen if isinstance(tensor, torch.Tensor) and tensor.ndim == 1]
    assert len(tensors) == 8 and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
    torch.testing.assert_close(have, reference.hash_grid(points, table, layout))


def test_third_derivative_raises():
    points, table = torch.rand(5, 3, requires_grad=True), torch.randn(LAYOUT.entries, 2, requires_grad=True)
    out = hash_grid(points, table, LAYOUT, "smoothstep")
    (first,) = torch.autograd.grad(out.square().sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), points, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_opcheck(backend):
    points, table = torch.rand(7, 3, requires_grad=True), torch.randn(LAYOUT.entries, 2, requires_grad=True)
    grad, key = torch.randn(7, LAYOUT.width, requires_grad=True), LAYOUT.key
    ops = torch.ops.headfields
    with dispatch.use_cpu_backend(backend):
        torch.library.opcheck(ops.hash_grid, (points, table, key, True))
        torch.library.opcheck(ops.hash_grid_backward, (grad, points, table, key, True, [True, True]))
        plain = [tensor.detach() for tensor in (grad, points, table, torch.randn(7, 3), torch.randn_like(table))]
        torch.library.opcheck(ops.hash_grid_backward_backward, (*plain, key, True, [True, True, True]))
        rounded = table.detach().half()
        torch.library.opcheck(ops.hash_grid_rounded, (points, table, rounded, key, True))
        torch.library.opcheck(ops.hash_grid_rounded_backward, (grad, points, table, rounded, key, True, [True, True]))


def test_compiles_in_one_graph(unchecked):
    points, table = torch.rand(9, 3, requires_grad=True), torch.randn(LAYOUT.entries, 2, requires_grad=True)
    compiled = torch.compile(lambda p, t: hash_grid(p, t, LAYOUT).sin(), fullgraph=True, backend="aot_eager")
    have = torch.autograd.grad(compiled(points, table).sum(), (points, table))
    want = torch.autograd.grad(hash_grid(points, table, LAYOUT).sin().sum(), (points, table))
    torch.testing.assert_close(have, want)


def test_errors_name_argument_and_remedy(unchecked):
    points, table = torch.rand(4, 3), torch.randn(LAYOUT.entries, 2)
    with pytest.raises(ValueError, match="hash_grid: table has shape"):
        hash_grid(points, table[1:], LAYOUT)
    with pytest.raises(ValueError, match="hash_grid: points has shape"):
        hash_grid(points[:, :2], table, LAYOUT)
    with pytest.raises(TypeError, match=r"points.float\(\)"):
        hash_grid(points.half(), table, LAYOUT)
    with pytest.raises(TypeError, match=r"table has dtype torch\.float64"):
        hash_grid(points, table.double(), LAYOUT)
    for rounded in (table, table[1:].half()):
        with pytest.raises(TypeError, match=r"hash_grid: rounded .* expected table.detach\(\).half\(\)"):
            hash_grid(points, table, LAYOUT, rounded=rounded)
    for wrong in ({"levels": 0}, {"features": 0}, {"dimensions": 5}, {"log2_table_size": 31}, {"finest_resolution": 4}):
        with pytest.raises(ValueError, match=f"HashGridLayout: {next(iter(wrong))}"):
            HashGridLayout(**wrong)
