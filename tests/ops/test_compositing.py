"""Quadrature on packed samples: values and derivatives against the reference, over backends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from headfields.ops import compositing
from headfields.ops.dispatch import native, use_cpu_backend
from headfields.ops.reference import compositing as reference
from headfields.records import Samples
from tests.tables import table

OPS = torch.ops.headfields
COUNTS = [[], [0], [1], [0, 0], [3, 0, 7, 1], [0, 33, 0, 0, 5, 300]]


def pack(counts: list[int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    counts_ = torch.tensor(counts, dtype=torch.long)
    ray = torch.repeat_interleave(torch.arange(len(counts)), counts_).to(device)
    return ray, compositing.ray_offsets(ray, len(counts))


def first_gradients(function, inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    weight = torch.linspace(-1, 2, out.numel(), device=out.device, dtype=out.dtype).reshape(out.shape)
    return out.detach(), torch.autograd.grad((out * weight).sum(), inputs)


def agree(ours, theirs, inputs, rtol=2e-5, atol=2e-6):
    """Ours in float32 against the reference in float64."""
    value, gradients = first_gradients(ours, inputs)
    expected, wanted_gradients = first_gradients(theirs, [x.double() for x in inputs])
    torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=atol)
    for gradient, want in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), want, rtol=rtol, atol=atol * 10)


@table("counts", COUNTS)
def test_every_operation_agrees_with_its_reference(device, counts):
    torch.manual_seed(0)
    ray, offsets = pack(counts, device)
    m, n = ray.numel(), len(counts)
    density, values = torch.rand(m, device=device) * 40, torch.randn(m, 5, device=device)
    start = torch.rand(m, device=device)
    end = start + 0.02 * torch.rand(m, device=device)
    alpha = torch.rand(m, device=device) * 0.5
    agree(
        lambda d, s, e: compositing.weights_from_density(d, s, e, ray, n),
        lambda d, s, e: reference.ray_weights(d * (e - s), offsets, False),
        [density, start, end],
        rtol=2e-4,
    )
    agree(
        lambda a: compositing.weights_from_alpha(a, offsets=offsets),
        lambda a: reference.ray_weights(a, offsets, True),
        [alpha],
    )
    agree(
        lambda x: compositing.exclusive_sum(x, ray, n),
        lambda x: reference.exclusive_sum(x, offsets, False),
        [density],
    )
    agree(
        lambda w, v: compositing.accumulate(w, v, ray, n),
        lambda w, v: reference.weighted_sum(w, v, offsets, False),
        [alpha, values],
        atol=1e-5,
    )
    agree(
        lambda w: compositing.accumulate(w, None, ray, n),
        lambda w: reference.weighted_sum(w, w.new_empty(m, 0), offsets, True)[:, 0],
        [alpha],
    )


@table("channels", [1, 2, 3, 4, 6])
@table("total", [False, True])
def test_weighted_sum_for_each_number_of_channels(device, channels, total):
    _, offsets = pack([3, 0, 9, 1], device)
    torch.manual_seed(channels)
    weights, values = torch.rand(13, device=device), torch.randn(13, channels, device=device)
    agree(
        lambda w, v: torch.ops.headfields.weighted_sum(w, v, offsets, total),
        lambda w, v: reference.weighted_sum(w, v, offsets, total),
        [weights, values],
    )


@table("alpha", [False, True])
def test_second_derivatives_of_the_weights_in_float32(device, alpha):
    _, offsets = pack([4, 0, 9, 1], device)
    torch.manual_seed(1)
    values, grad, direction = torch.rand(3, 14, device=device).unbind(0)
    ours = OPS.ray_weights_double(direction, grad, values, offsets, alpha)
    at, cotangent = values.double().requires_grad_(), grad.double().requires_grad_()
    (first,) = torch.autograd.grad(reference.ray_weights(at, offsets, alpha), at, cotangent, create_graph=True)
    expected = torch.autograd.grad(first, (cotangent, at), direction.double())
    for got, want in zip(ours, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


@table("alpha", [False, True])
@table("counts", [[], [0, 1, 0, 4, 3]])
def test_gradcheck_of_the_weights(device, counts, alpha):
    _, offsets = pack(counts, device)
    values = torch.rand(sum(counts), dtype=torch.float64, device=device).requires_grad_()
    function = lambda v: torch.ops.headfields.ray_weights(v, offsets, alpha)  # noqa: E731
    assert gradcheck(function, values)
    assert gradgradcheck(function, values, fast_mode=True)


@table("total", [False, True])
def test_gradcheck_of_the_sums(device, total):
    _, offsets = pack([2, 0, 3], device)
    weights = torch.rand(5, dtype=torch.float64, device=device).requires_grad_()
    values = torch.rand(5, 2, dtype=torch.float64, device=device).requires_grad_()
    weighted = lambda w, v: torch.ops.headfields.weighted_sum(w, v, offsets, total)  # noqa: E731
    running = lambda w: torch.ops.headfields.exclusive_sum(w * w, offsets, total)  # noqa: E731
    assert gradcheck(weighted, (weights, values)) and gradgradcheck(weighted, (weights, values), fast_mode=True)
    assert gradcheck(running, weights) and gradgradcheck(running, weights, fast_mode=True)


def test_sums_have_third_derivatives():
    """`weighted_sum_backward` is differentiated in turn by the same two operations, so the order is not limited."""
    _, offsets = pack([2, 0, 3])
    weights = torch.rand(5, dtype=torch.float64).requires_grad_()
    values = torch.rand(5, 2, dtype=torch.float64).requires_grad_()

    def second(w: Tensor, v: Tensor) -> Tensor:
        out = torch.ops.headfields.weighted_sum(w, v * v, offsets, True).pow(3).sum()
        (first,) = torch.autograd.grad(out, w, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), v, create_graph=True)[0]

    assert gradcheck(second, (weights, values))


def test_a_third_derivative_of_the_weights_is_refused():
    _, offsets = pack([3])
    x = torch.rand(3, dtype=torch.float64).requires_grad_()
    weights = torch.ops.headfields.ray_weights(x, offsets, True)
    (first,) = torch.autograd.grad(weights.pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"weights_from_alpha.*third derivative"):
        torch.autograd.grad(second.sum(), x)


def test_opaque_alpha_has_the_exact_gradient(device):
    """w = (a, (1 - a) b, (1 - a)(1 - b) c) at b = 1: the derivative to b is (0, 1 - a, -(1 - a) c)."""
    alpha = torch.tensor([0.25, 1.0, 0.5], device=device, requires_grad=True)
    weights = compositing.weights_from_alpha(alpha)
    torch.testing.assert_close(weights.detach().cpu(), torch.tensor([0.25, 0.75, 0.0]))
    (gradient,) = torch.autograd.grad(weights, alpha, torch.tensor([0.0, 1.0, 2.0], device=device))
    torch.testing.assert_close(gradient.cpu(), torch.tensor([-1.0, 0.75 - 2 * 0.75 * 0.5, 0.0]))


def test_extreme_density(device):
    """Infinity is opaque, zero is nothing, a tiny density keeps its digits, and all gradients are finite."""
    density = torch.tensor([0.0, 1e-6, float("inf"), 3.0, 200.0], device=device, requires_grad=True)
    edges = torch.arange(6.0, device=device)
    weights = compositing.weights_from_density(density, edges[:-1], edges[1:])
    torch.testing.assert_close(
        weights.detach().cpu(), torch.tensor([0.0, 1e-6, 1.0, 0.0, 0.0]), rtol=2e-6, atol=0, check_dtype=False
    )
    weights.pow(2).sum().backward()
    assert density.grad.isfinite().all()


def test_nan_stays_on_its_ray(device):
    _, offsets = pack([2, 3], device)
    x = torch.tensor([0.1, float("nan"), 0.1, 0.2, 0.3], device=device, requires_grad=True)
    weights = torch.ops.headfields.ray_weights(x, offsets, False)
    (gradient,) = torch.autograd.grad(weights.sum(), x)
    assert weights[1].isnan() and weights[2:].isfinite().all() and gradient[2:].isfinite().all()


@table("batch", [(), (2,), (1, 2), (0,)])
@table("count", [0, 1, 5])
def test_dense_is_a_view_of_packed(device, batch, count):
    torch.manual_seed(0)
    density = torch.rand(*batch, count, device=device).requires_grad_()
    edges = torch.rand(*batch, count + 1, device=device).cumsum(-1)
    color = torch.rand(*batch, count, 3, device=device)
    weights = compositing.weights_from_density(density, edges[..., :-1], edges[..., 1:])
    assert weights.shape == density.shape and weights.grad_fn is not None
    optical = density * edges.diff(dim=-1)
    before = optical.cumsum(-1) - optical
    torch.testing.assert_close(weights, torch.exp(-before) * -torch.expm1(-optical), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(compositing.exclusive_sum(optical), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compositing.accumulate(weights, color), (weights[..., None] * color).sum(-2))
    torch.testing.assert_close(compositing.accumulate(weights), weights.sum(-1))
    alpha = -torch.expm1(-optical)
    torch.testing.assert_close(compositing.weights_from_alpha(alpha), weights, rtol=1e-4, atol=1e-6)


@table("counts", [[], [0, 0], [2, 0, 3]])
def test_composite(device, counts):
    ray, offsets = pack(counts, device)
    n, m = len(counts), sum(counts)
    start = torch.arange(m, dtype=torch.float32, device=device)
    samples = Samples(ray, start, start + 1)
    weights = torch.full((m,), 0.25, device=device, requires_grad=True)
    rgb = torch.rand(m, 3, device=device, requires_grad=True)
    background = torch.rand(n, 3, device=device)
    color, opacity, depth = compositing.composite(weights, rgb, samples, n, background)
    rays = [(ray == r) for r in range(n)]
    for r, own in enumerate(rays):
        torch.testing.assert_close(opacity[r].item(), 0.25 * int(own.sum()))
        torch.testing.assert_close(depth[r], 0.25 * (start[own] + 0.5).sum())
        want = 0.25 * rgb[own].sum(0) + (1 - opacity[r]) * background[r]
        torch.testing.assert_close(color[r], want)
    gradients = torch.autograd.grad(color.sum() + opacity.sum() + depth.sum(), (weights, rgb))
    assert gradients[0].shape == (m,) and gradients[1].shape == (m, 3)
    black = compositing.composite(weights, rgb, samples, n, offsets=offsets)[0]
    torch.testing.assert_close(black, color - (1 - opacity[:, None]) * background)


def test_half_precision_is_computed_in_float32(device):
    alpha = torch.rand(7, device=device).to(torch.bfloat16)
    assert compositing.weights_from_alpha(alpha).dtype == torch.float32
    assert compositing.accumulate(alpha, alpha[:, None]).dtype == torch.float32


def test_non_contiguous_input(device):
    _, offsets = pack([4, 3], device)
    wide = torch.rand(7, 6, device=device)
    weights, values = wide[:, 0], wide[:, 1:4]
    torch.testing.assert_close(
        torch.ops.headfields.weighted_sum(weights, values, offsets, False),
        torch.ops.headfields.weighted_sum(weights.contiguous(), values.contiguous(), offsets, False),
    )
    torch.testing.assert_close(
        compositing.weights_from_alpha(weights, offsets=offsets),
        compositing.weights_from_alpha(weights.contiguous(), offsets=offsets),
    )


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(0, 10_000), st.booleans())
def test_any_packing(counts, seed, alpha):
    """Weights are at least 0, add up to at most 1 a ray, and match the reference."""
    _, offsets = pack(counts)
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(sum(counts), generator=generator)
    weights = torch.ops.headfields.ray_weights(values, offsets, alpha)
    torch.testing.assert_close(weights, reference.ray_weights(values, offsets, alpha), rtol=1e-4, atol=1e-6)
    assert (weights >= 0).all()
    assert (compositing.accumulate(weights, offsets=offsets) <= 1 + 1e-5).all()


def test_opcheck(device):
    dtype = torch.float32
    _, offsets = pack([2, 0, 3], device)
    x = torch.rand(5, dtype=dtype, device=device).requires_grad_()
    v = torch.rand(5, 2, dtype=dtype, device=device).requires_grad_()
    g = torch.rand(3, 3, dtype=dtype, device=device).requires_grad_()
    torch.library.opcheck(OPS.ray_offsets.default, (torch.tensor([0, 0, 2], device=device), 4))
    torch.library.opcheck(OPS.exclusive_sum.default, (x, offsets, False))
    torch.library.opcheck(OPS.weighted_sum.default, (x, v, offsets, True))
    torch.library.opcheck(OPS.weighted_sum_backward.default, (g, x, v, offsets, True))
    torch.library.opcheck(OPS.ray_weights.default, (x, offsets, False))
    torch.library.opcheck(OPS.ray_weights_backward.default, (x.detach(), x, offsets, True))
    torch.library.opcheck(OPS.ray_weights_double.default, (x.detach(), x.detach(), x.detach(), offsets, False))


def test_compiles_in_one_graph(device, unchecked):
    ray, offsets = pack([2, 0, 3], device)
    start = torch.rand(5, device=device)
    samples = Samples(ray, start, start + 0.1)

    def render(density: Tensor, rgb: Tensor) -> Tensor:
        weights = compositing.weights_from_density(density, start, start + 0.1, ray, 3)
        return compositing.composite(weights, rgb, samples, 3, offsets=offsets)[0]

    density, rgb = torch.rand(5, device=device).requires_grad_(), torch.rand(5, 3, device=device)
    compiled = torch.compile(render, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(density, rgb), render(density, rgb))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(density, rgb).sum(), density),
        torch.autograd.grad(render(density, rgb).sum(), density),
    )


def test_offsets(device):
    ray = torch.tensor([1, 1, 4], device=device)
    assert compositing.ray_offsets(ray, 6).tolist() == [0, 0, 2, 2, 2, 3, 3]
    assert compositing.ray_offsets(ray.int(), 5).tolist() == [0, 0, 2, 2, 2, 3]
    assert compositing.ray_offsets(ray[:0], 0).tolist() == [0]


@table(
    ("ray", "rays", "message"),
    [
        ([0, 2, 1], 3, r"not sorted \(ray\[2\] is 1 after 2\)"),
        ([0, 3], 3, r"ray\[1\] is 3 with rays = 3"),
        ([-1, 0], 3, r"ray\[0\] is -1"),
        ([0], 0, r"ray\[0\] is 0 with rays = 0"),
    ],
)
def test_bad_rays_are_named(device, ray, rays, message):
    with pytest.raises(ValueError, match=message):
        compositing.ray_offsets(torch.tensor(ray, device=device), rays)


def test_errors_say_what_to_do(unchecked):
    x, ray = torch.rand(4), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"rays is None"):
        compositing.exclusive_sum(x, ray)
    with pytest.raises(ValueError, match=r"start has shape \(3,\)"):
        compositing.weights_from_density(x, x[:3], x, ray, 1)
    with pytest.raises(ValueError, match=r"values has shape \(3, 2\)"):
        compositing.accumulate(x, torch.rand(3, 2), ray, 1)
    with pytest.raises(ValueError, match=r"background has shape"):
        compositing.composite(x, torch.rand(4, 3), Samples(ray, x, x), 1, torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"ray has shape"):
        compositing.exclusive_sum(x, ray[:3], 1)
    if native is not None:
        with use_cpu_backend("native"), pytest.raises(ValueError, match=r"offsets do not fit"):
            compositing.exclusive_sum(x, offsets=torch.tensor([0, 3]))
