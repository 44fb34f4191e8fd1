import math

import numpy as np
import pytest
import torch

from headfields.ops import dispatch
from headfields.ops.reference import spherical_harmonics as reference
from headfields.ops.spherical_harmonics import spherical_harmonics
from tests.backends import BACKENDS

needs_native = pytest.mark.skipif(dispatch.native is None, reason="the compiled module is not installed")


def run(backend, directions, degree):
    if backend == "reference":
        return reference.spherical_harmonics(directions, degree)
    if backend == "cuda":
        return spherical_harmonics(directions.cuda(), degree).cpu()
    with dispatch.use_cpu_backend(backend):
        return spherical_harmonics(directions, degree)


def unit(*shape, dtype=torch.float32):
    return torch.nn.functional.normalize(torch.randn(*shape, 3, dtype=dtype), dim=-1)


def test_first_values_by_hand():
    x, y, z = 0.48, 0.6, 0.64
    have = spherical_harmonics(torch.tensor([x, y, z], dtype=torch.float64), 3)
    first, second = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    expected = [
        math.sqrt(1 / (4 * math.pi)), -first * y, first * z, -first * x,
        second * x * y, -second * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -second * x * z,
        second / 2 * (x * x - y * y),
    ]  # fmt: skip
    torch.testing.assert_close(have, torch.tensor(expected, dtype=torch.float64))


def test_against_scipy():
    sph_harm_y = pytest.importorskip("scipy", "1.15", reason="the oracle is of SciPy 1.15").special.sph_harm_y
    torch.manual_seed(0)
    directions = unit(20, dtype=torch.float64)
    x, y, z = directions.numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    values = run("reference", directions, 8).numpy()
    for l in range(8):
        for m in range(l + 1):
            complex_value = sph_harm_y(l, m, polar, azimuth)  # with the Condon-Shortley sign
            scale = math.sqrt(2) if m else 1.0
            np.testing.assert_allclose(values[:, l * (l + 1) + m], scale * complex_value.real, atol=1e-12)
            if m:
                np.testing.assert_allclose(values[:, l * (l + 1) - m], scale * complex_value.imag, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degree", range(1, 9))
def test_agrees_with_the_reference(backend, degree):
    torch.manual_seed(degree)
    directions, weights = unit(131).requires_grad_(), torch.randn(131, degree**2)
    results = []
    for where in (backend, "reference"):
        out = run(where, directions, degree)
        # The squares give the reference a graph at degree 1, where it is constant.
        (first,) = torch.autograd.grad((out * weights).sum() + directions.square().sum(), directions, create_graph=True)
        loss = first.square().sum() / degree**3 + out.square().sum()
        results.append((out, first, torch.autograd.grad(loss, directions)[0]))
    for have, want in zip(*results, strict=True):
        torch.testing.assert_close(have, want, atol=1e-6 * degree**4, rtol=1e-4)


@pytest.mark.parametrize("where", [pytest.param("native", marks=needs_native), "reference"])
@pytest.mark.parametrize("degree", [2, 4, 8])
def test_gradcheck(where, degree):
    torch.manual_seed(degree)
    directions = unit(2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: run(where, d, degree), (directions,))
    assert torch.autograd.gradgradcheck(lambda d: run(where, d, degree), (directions,), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (0,), (1,), (67,)])
def test_batch_shapes_keep_a_gradient(backend, batch):
    directions = unit(*batch).requires_grad_()
    out = run(backend, directions, 4)
    assert out.shape == (*batch, 16)
    out.sum().backward()
    assert directions.grad.shape == directions.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_with_its_direction(backend):
    directions = unit(3)
    clean = run(backend, directions, 4)
    directions[1, 0] = torch.nan
    spoilt = run(backend, directions, 4)
    assert spoilt[1].isnan().any() and torch.equal(spoilt[[0, 2]], clean[[0, 2]])


def test_third_derivative_raises():
    directions = unit(3).requires_grad_()
    (first,) = torch.autograd.grad(spherical_harmonics(directions, 4).square().sum(), directions, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), directions, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_opcheck(backend):
    directions, grad = unit(5).requires_grad_(), torch.randn(5, 9, requires_grad=True)
    ops = torch.ops.headfields
    with dispatch.use_cpu_backend(backend):
        torch.library.opcheck(ops.spherical_harmonics, (directions, 3))
        torch.library.opcheck(ops.spherical_harmonics_backward, (grad, directions, 3))
        plain = (grad.detach(), directions.detach(), torch.randn(5, 3), 3)
        torch.library.opcheck(ops.spherical_harmonics_backward_backward, plain)


def test_compiles_in_one_graph(unchecked):
    directions = unit(9).requires_grad_()
    compiled = torch.compile(lambda d: spherical_harmonics(d, 4).sin(), fullgraph=True, backend="aot_eager")
    (have,) = torch.autograd.grad(compiled(directions).sum(), directions)
    (want,) = torch.autograd.grad(spherical_harmonics(directions, 4).sin().sum(), directions)
    torch.testing.assert_close(have, want)


def test_errors_name_argument_and_remedy(unchecked):
    with pytest.raises(ValueError, match="degree is 9; expected 1 to 8"):
        spherical_harmonics(unit(2), 9)
    with pytest.raises(ValueError, match="directions has shape"):
        spherical_harmonics(torch.rand(2, 2), 3)
    with pytest.raises(TypeError, match=r"directions.float\(\)"):
        spherical_harmonics(unit(2).half(), 3)
