"""Distances to opacities and densities: by hand, against the integral, derivatives, and what is not finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from headfields.ops import neus_alpha, weights_from_alpha, weights_from_density
from headfields.ops.surface_alpha import laplace_density, unclamped_alpha
from tests.tables import table

ALPHAS = {"neus": neus_alpha, "unclamped": unclamped_alpha}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def made(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    """Distances, slopes and lengths as along rays of a head."""
    generator = torch.Generator().manual_seed(seed)
    distance = 0.02 * torch.randn(shape, generator=generator, dtype=torch.float64)
    slope = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    length = 0.001 + 0.004 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (distance, slope, length)]


def test_neus_by_hand():
    s, d, slope, length = 300.0, 0.002, -0.5, 0.004
    before, after = sigmoid(s * (d + 0.001)), sigmoid(s * (d - 0.001))
    result = neus_alpha(torch.tensor([d]), torch.tensor([slope]), torch.tensor([length]), s)
    torch.testing.assert_close(result, torch.tensor([1 - after / before]))
    assert neus_alpha(torch.tensor([d]), torch.tensor([0.5]), torch.tensor([length]), s) == 0  # on its way out


def test_annealing_lets_rays_out_count_as_in():
    d, slope, length = (torch.tensor([x]) for x in (0.001, 0.4, 0.004))
    whole = neus_alpha(d, torch.tensor([-0.3]), length, 300.0)  # relu(1/2 - 0.4 / 2) = 0.3
    torch.testing.assert_close(neus_alpha(d, slope, length, 300.0, anneal=0.0), whole)
    half = neus_alpha(d, torch.tensor([-0.15]), length, 300.0)
    torch.testing.assert_close(neus_alpha(d, slope, length, 300.0, anneal=torch.tensor(0.5)), half)


def test_unclamped_by_hand():
    s, d, length = 300.0, 0.002, 0.004
    before, after = sigmoid(s * (d + 0.001)), sigmoid(s * (d - 0.001))
    arguments = torch.tensor([d]), torch.tensor([-0.5]), torch.tensor([length])
    torch.testing.assert_close(
        unclamped_alpha(*arguments, s), torch.tensor([(before - after + 1e-5) / (before + 1e-5)])
    )
    assert unclamped_alpha(arguments[0], torch.tensor([0.5]), arguments[2], s) == 0  # negative, clipped
    deep = unclamped_alpha(torch.tensor([-1.0]), torch.tensor([0.5]), arguments[2], s)
    torch.testing.assert_close(deep, torch.ones(1))


def test_laplace_by_hand():
    distance = torch.tensor([-10.0, -0.01, 0.0, 0.01, 10.0])
    psi = [1.0, 1 - 0.5 * math.exp(-2), 0.5, 0.5 * math.exp(-2), 0.0]
    torch.testing.assert_close(laplace_density(distance, 200.0), 200 * torch.tensor(psi))
    torch.testing.assert_close(laplace_density(distance, 200.0, scale=3.0), 3 * torch.tensor(psi))


def ray_into_a_ball(count: int, s: float) -> tuple[torch.Tensor, ...]:
    """Middles, slopes, lengths and distances along a ray through the middle of a ball of 10 cm, from 20 cm off it."""
    edges = torch.linspace(0.1, 0.3, count + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    return middle, (middle - 0.3).sign(), edges.diff(), (middle - 0.3).abs() - 0.1


@pytest.mark.parametrize("s", [100.0, 1000.0])
def test_neus_is_unbiased_and_the_telescope_is_exact(s):
    """Weights of a ray straight in are the differences of the sigmoid, so they are largest where the distance is 0."""
    middle, slope, length, distance = ray_into_a_ball(400, s)
    weights = weights_from_alpha(neus_alpha(distance, slope, length, s))
    assert abs(float(middle[weights.argmax()]) - 0.2) < 5e-4
    edges = torch.cat([distance + length / 2, distance[-1:] - length[-1:] / 2])
    expected = -torch.sigmoid(s * edges).diff() / torch.sigmoid(s * edges[0])
    torch.testing.assert_close(weights, expected)


def test_volsdf_sees_the_surface_too():
    middle, _, length, distance = ray_into_a_ball(400, 1000.0)
    weights = weights_from_density(laplace_density(distance, 1000.0), middle - length / 2, middle + length / 2)
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64), atol=1e-3, rtol=0)
    assert abs(float((weights * middle).sum()) - 0.2) < 2e-3


@table("shape", [(), (2,), (1, 2), (0,), (7,)])
@table("name", ALPHAS)
def test_shapes_and_ranges(name, shape):
    arguments = [tensor.requires_grad_() for tensor in made(*shape)]
    sharpness = torch.tensor(400.0, requires_grad=True)
    alpha = ALPHAS[name](*arguments, sharpness)
    assert alpha.shape == shape and bool(((alpha >= 0) & (alpha <= 1)).all())
    alpha.sum().backward()
    assert sharpness.grad is not None and all(tensor.grad is not None for tensor in arguments)
    torch.testing.assert_close(ALPHAS[name](*arguments, sharpness.expand(shape)), alpha)


@pytest.mark.parametrize("name", ALPHAS)
def test_derivatives_of_the_alphas(name):
    distance, slope, length = made(6, dtype=torch.float64, seed=3)
    slope = -slope.abs() - 0.1  # away from where the clamps have their corners
    inputs = [distance, slope, length, torch.tensor(150.0, dtype=torch.float64)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert gradcheck(ALPHAS[name], inputs)
    assert gradgradcheck(ALPHAS[name], inputs, fast_mode=True)


def test_derivatives_of_the_density():
    inputs = [made(6, dtype=torch.float64)[0], torch.tensor(150.0, dtype=torch.float64)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert gradcheck(laplace_density, inputs)
    assert gradgradcheck(laplace_density, inputs, fast_mode=True)
    at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(laplace_density(at_zero, 10.0).sum(), at_zero)
    assert slope.item() == pytest.approx(-50.0)


@given(st.floats(-1e4, 1e4), st.floats(-2, 2), st.floats(0, 1), st.floats(1e-3, 1e6))
def test_nothing_overflows(distance, slope, length, sharpness):
    inputs = [torch.tensor([value], requires_grad=True) for value in (distance, slope, length)]
    s = torch.tensor(sharpness, requires_grad=True)
    for values in (neus_alpha(*inputs, s), unclamped_alpha(*inputs, s), laplace_density(inputs[0], s) / sharpness):
        assert bool(((values >= -1e-6) & (values <= 1)).all())
        gradients = torch.autograd.grad(values.sum(), [*inputs, s], allow_unused=True)
        assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_nan_stays_alone():
    distance, slope, length = made(3)
    distance[1] = math.nan
    for values in (*(alpha(distance, slope, length, 50.0) for alpha in ALPHAS.values()), laplace_density(distance, 5)):
        assert values.isnan().tolist() == [False, True, False]
    far = neus_alpha(torch.tensor([math.inf]), torch.tensor([-1.0]), torch.tensor([0.1]), 50.0)
    assert far == 0


@pytest.mark.parametrize("name", ALPHAS)
def test_it_compiles_in_one_piece(name, unchecked):
    arguments, sharpness = made(5), torch.tensor(200.0)
    compiled = torch.compile(ALPHAS[name], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments, sharpness), ALPHAS[name](*arguments, sharpness))


def test_bad_arguments_are_named(unchecked):
    distance, slope, length = made(4)
    with pytest.raises(ValueError, match=r"neus_alpha: slope has shape \(3,\), but distance has \(4,\)"):
        neus_alpha(distance, slope[:3], length, 1.0)
    with pytest.raises(ValueError, match=r"unclamped_alpha: sharpness has shape \(2,\)"):
        unclamped_alpha(distance, slope, length, torch.ones(2))
    with pytest.raises(TypeError, match=r"laplace_density: distance has dtype torch.int64"):
        laplace_density(distance.long(), 1.0)
