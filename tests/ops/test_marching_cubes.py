"""Marching cubes: closed manifolds, equal on every backend, right against analytic shapes and other libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import marching_cubes
from headfields.ops._marching_table import EDGES, marching_table
from headfields.ops.marching_cubes import _crossed_edges, _edge_vertices, _surface
from headfields.ops.reference import marching_cubes as reference
from tests.tables import table

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def grid(size: int | tuple[int, int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    sizes = (size,) * 3 if isinstance(size, int) else size
    lines = [torch.linspace(-1, 1, n, dtype=dtype) for n in sizes]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random values with nothing inside at the border."""
    values = torch.ones(shape)
    inner = tuple(n - 2 for n in shape)
    values[1:-1, 1:-1, 1:-1] = torch.randn(inner, generator=torch.Generator().manual_seed(seed))
    return values


def edges_of(faces: torch.Tensor) -> torch.Tensor:
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def assert_closed_manifold(faces: torch.Tensor, vertices: int) -> None:
    directed = edges_of(faces)
    codes = directed[:, 0] * vertices + directed[:, 1]
    assert len(codes.unique()) == len(codes)  # each edge once in each direction ...
    assert codes.sort().values.equal((directed[:, 1] * vertices + directed[:, 0]).sort().values)
    assert faces.unique().equal(torch.arange(vertices))  # ... and no vertex without a face
    # The triangles at a vertex are one fan: the edges opposite to it form one ring.
    following = {}
    for a, b, c in faces.tolist():
        for middle, start, end in ((a, b, c), (b, c, a), (c, a, b)):
            following.setdefault(middle, {})[start] = end
    for ring in following.values():
        first = current = next(iter(ring))
        for _ in range(len(ring)):
            current = ring[current]
            if current == first:
                break
        else:
            raise AssertionError("a ring does not close")
        seen, current = 1, ring[first]
        while current != first:
            seen, current = seen + 1, ring[current]
        assert seen == len(ring)


def test_the_table_cuts_every_mixed_case():
    table = marching_table(torch.device("cpu"))
    corners = torch.arange(8)
    for case in range(256):
        inside = case >> corners & 1
        cut = {k for k, (axis, corner) in enumerate(EDGES) if inside[corner] != inside[corner | 4 >> axis]}
        used = set(table.triangles[case, : int(table.totals[case])].flatten().tolist())
        assert used == cut
    assert int(table.totals.max()) == 5


@table("shape", [(2, 2, 2), (3, 2, 5), (9, 12, 7), (5, 4, 64), (3, 7, 65), (33, 8, 190)])
@table("share", [0.0, 0.1, 0.5, 1.0])
@table("dtype", [torch.float32, torch.float64])
def test_backends_agree_with_the_reference(device, shape, share, dtype):
    values, level = torch.rand(shape, dtype=dtype), torch.tensor(share, dtype=dtype)
    values[:, 0, ::3] = torch.nan
    values[:, 1, ::3], values[:, 1, 1::3] = torch.inf, -torch.inf
    edge, faces = _crossed_edges(values.to(device), level.to(device))
    wanted_edge, wanted_faces = reference.crossed_edges(values < level)
    assert edge.cpu().equal(wanted_edge) and faces.cpu().equal(wanted_faces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vertices_are_those_of_the_definition_to_the_bit(device, dtype):
    values = noise((9, 12, 7), 4).to(dtype)
    values[4, 5:8, 3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
    level = torch.tensor(0.1, dtype=dtype)
    edge, _ = _crossed_edges(values, level)
    for got, want in zip(
        _edge_vertices(values.to(device), level.to(device), edge.to(device)),
        reference.edge_vertices(values, level, edge), strict=True,
    ):  # fmt: skip
        assert got.cpu().equal(want)


@pytest.mark.parametrize("threads", [1, 3])
def test_strided_grids_and_threads(threads):
    values = torch.randn(40, 30, 20)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        turned = marching_cubes(values.permute(2, 0, 1))
    finally:
        torch.set_num_threads(before)
    plain = marching_cubes(values.permute(2, 0, 1).contiguous())
    assert turned.faces.equal(plain.faces) and turned.vertices.equal(plain.vertices)


@given(st.tuples(*[st.integers(3, 9)] * 3), st.integers(0, 10_000))
def test_noise_gives_a_closed_manifold(shape, seed):
    surface = marching_cubes(noise(shape, seed))
    assert_closed_manifold(surface.faces, len(surface.vertices))


def test_sphere(device):
    points = grid(48)
    surface = marching_cubes((points.norm(dim=-1) - 0.7).to(device), bounds=BOX.to(device))
    vertices, faces = surface.vertices.cpu(), surface.faces.cpu()
    assert_closed_manifold(faces, len(vertices))
    assert (vertices.norm(dim=-1) - 0.7).abs().max() < 2e-3
    a, b, c = vertices[faces].double().unbind(1)
    volume = float((a * torch.linalg.cross(b, c)).sum() / 6)
    assert volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=5e-3)  # positive: seen from outside, counter-clockwise
    assert len(vertices) - len(faces) // 2 == 2
    assert surface.fraction.min() >= 0 and surface.fraction.max() <= 1


def test_torus_and_level():
    points = grid((40, 44, 21))
    ring = ((points[..., :2].norm(dim=-1) - 0.6) ** 2 + points[..., 2] ** 2).sqrt()
    surface = marching_cubes(ring, 0.25, BOX)
    assert_closed_manifold(surface.faces, len(surface.vertices))
    assert len(surface.vertices) == len(surface.faces) // 2  # genus 1


def test_density_by_the_negative():
    density = (0.5 - grid(20).norm(dim=-1)) * 100
    one, other = marching_cubes(-density, -10.0), marching_cubes(grid(20).norm(dim=-1), 0.4)
    assert one.faces.equal(other.faces)
    torch.testing.assert_close(one.vertices, other.vertices, atol=1e-4, rtol=0)


def test_skimage_agrees_on_a_smooth_shape():
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is not installed")
    values = grid(30)[..., 0].sin() * 3 + grid(30).square().sum(-1) - 0.61
    ours = marching_cubes(values)
    theirs, faces, _, _ = measure.marching_cubes(values.numpy(), 0.0)
    assert len(ours.vertices) == len(theirs) and abs(len(ours.faces) - len(faces)) <= 4
    order = np.lexsort(np.round(theirs, 3).T)
    mine = ours.vertices.numpy()
    np.testing.assert_allclose(mine[np.lexsort(np.round(mine, 3).T)], theirs[order], atol=2e-3)


def test_trimesh_finds_it_watertight():
    trimesh = pytest.importorskip("trimesh")
    surface = marching_cubes(noise((16, 17, 18), 3))
    mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


def test_open_at_the_border():
    surface = marching_cubes(grid(6)[..., 0] - 0.1)
    assert len(surface.vertices) == 36 and len(surface.faces) == 50
    assert (surface.vertices[:, 0] - 2.75).abs().max() < 1e-5
    normal = torch.linalg.cross(
        *(surface.vertices[surface.faces[:, k]] - surface.vertices[surface.faces[:, 0]] for k in (1, 2))
    )
    assert (normal[:, 0] > 0).all()  # to where the values grow


@table("shape", [(0, 0, 0), (1, 5, 5), (5, 1, 5), (5, 5, 0), (4, 4, 4)])
def test_nothing_there(device, shape):
    values = torch.ones(shape, device=device, requires_grad=True)
    surface = marching_cubes(values)
    assert surface.vertices.shape == (0, 3) and surface.faces.shape == (0, 3) and surface.ends.shape == (0, 2)
    (gradient,) = torch.autograd.grad(surface.vertices.sum(), values)
    assert gradient.equal(torch.zeros(shape, device=device))


def test_nan_and_infinity():
    values = grid(12).norm(dim=-1) - 0.7
    values[6, 6, 6] = -torch.inf  # deep inside: seen by no edge that is cut
    assert marching_cubes(values).vertices.isfinite().all()
    values = values.clone()
    values[values > 0] = torch.nan
    values.requires_grad_()
    surface = marching_cubes(values)
    assert_closed_manifold(surface.faces, len(surface.vertices))
    assert (surface.fraction == 0.5).all()  # nobody says where between the two ends
    (gradient,) = torch.autograd.grad(surface.vertices.sum(), values)
    assert gradient.eq(0).all()
    infinite = torch.where(grid(12).norm(dim=-1) < 0.7, -torch.inf, torch.inf)
    assert marching_cubes(infinite).vertices.equal(surface.vertices)
    assert not len(marching_cubes(torch.full((4, 4, 4), torch.nan)).faces)


def test_a_value_at_the_level_keeps_the_surface_closed():
    values = grid(9).abs().amax(-1) - 0.5  # a cube whose faces pass through grid points
    assert (values == 0).any()
    surface = marching_cubes(values, bounds=BOX)
    assert_closed_manifold(surface.faces, len(surface.vertices))
    assert surface.vertices.abs().amax() == 0.5


def test_gradcheck():
    values = noise((5, 4, 6), 1).double()
    level = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    box = torch.tensor([[-1.0, 0.0, 2.0], [0.5, 1.5, 3.0]], dtype=torch.float64, requires_grad=True)
    values.requires_grad_()

    def vertices(values, level, box):
        return marching_cubes(values, level, box).vertices

    assert torch.autograd.gradcheck(vertices, (values, level, box))
    assert torch.autograd.gradgradcheck(vertices, (values, level, box), fast_mode=True)


def test_gradient_moves_the_sphere():
    """A sphere's radius grows by what the values shrink by."""
    distance = grid(40, torch.float64).norm(dim=-1)
    radius = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    surface = marching_cubes(distance - radius, bounds=BOX.double())
    (gradient,) = torch.autograd.grad(surface.vertices.norm(dim=-1).sum(), radius)
    assert float(gradient) / len(surface.vertices) == pytest.approx(1.0, abs=0.05)


def test_interpolate():
    points = grid(10)
    surface = marching_cubes(points.norm(dim=-1) - 0.6, bounds=BOX)
    torch.testing.assert_close(surface.interpolate(points), surface.vertices, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes(dtype):
    surface = marching_cubes((grid(8).norm(dim=-1) - 0.6).to(dtype))
    assert surface.vertices.dtype == dtype and surface.vertices.isfinite().all() and len(surface.faces)


def test_opcheck():
    arguments = (torch.rand(5, 6, 7), torch.tensor(0.5))
    torch.library.opcheck(torch.ops.headfields.crossed_edges.default, arguments)


def test_compile(unchecked):
    values, level = noise((6, 6, 6), 5), torch.tensor(0.1)
    compiled = torch.compile(_surface, fullgraph=True, backend="aot_eager")
    # The number of edges is known when the operation has run; PyTorch 2.6 breaks the graph there unless it is told.
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for got, want in zip(compiled(values, level, BOX), _surface(values, level, BOX), strict=True):
            torch.testing.assert_close(got, want)


@table(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(3, 3, 3, dtype=torch.long),), TypeError, "values has dtype torch.int64"),
        ((torch.zeros(3, 3),), ValueError, r"values has shape \(3, 3\)"),
        ((torch.zeros(3, 3, 3), float("nan")), ValueError, "level is NaN"),
        ((torch.zeros(3, 3, 3), torch.zeros(2)), ValueError, r"level has shape \(2,\)"),
        ((torch.zeros(3, 3, 3), 0.0, torch.zeros(3, 2)), ValueError, r"bounds has shape \(3, 2\)"),
    ],
)
def test_errors(unchecked, arguments, error, words):
    with pytest.raises(error, match=f"marching_cubes: {words}"):
        marching_cubes(*arguments)
