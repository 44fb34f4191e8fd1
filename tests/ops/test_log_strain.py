"""The squared logarithmic strain: against singular values where those have derivatives, limits elsewhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import log_strain
from headfields.ops.log_strain import _energy, _gradient, _second
from headfields.ops.reference.log_strain import log_strain as reference
from tests.shapes import rotation
from tests.tables import table


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@table("batch", [(), (2,), (1, 2), (0,), (7,)])
@table("dtype", [torch.float32, torch.float64])
def test_it_is_the_sum_of_squared_logarithms(batch, dtype):
    jacobians = random(*batch, 3, 3).to(dtype).requires_grad_()
    result, expected = log_strain(jacobians), reference(jacobians)
    assert result.dtype == dtype and result.shape == batch
    torch.testing.assert_close(result, expected, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-5)
    gradients = [torch.autograd.grad(value.sum(), jacobians)[0] for value in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3 if dtype == torch.float32 else 1e-7, atol=1e-4)


def test_second_derivatives_where_singular_values_differ():
    jacobians = torch.diag_embed(torch.tensor([[0.5, 1.0, 1.7], [0.9, 1.05, 1.2]], dtype=torch.float64))
    jacobians = (rotation(0) @ jacobians @ rotation(1)).requires_grad_()
    along = random(2, 3, 3, seed=4)
    second = []
    for function in (log_strain, reference):
        (gradient,) = torch.autograd.grad(function(jacobians).sum(), jacobians, create_graph=True)
        second.append(torch.autograd.grad((gradient * along).sum(), jacobians)[0])
    torch.testing.assert_close(*second, rtol=1e-8, atol=1e-8)


@table("values", [(1, 1, 1), (1.3, 1.3, 1.3), (1.2, 1.2, 0.7), (1, 1 + 1e-9, 1 - 1e-7), (1, 2, 9)])
def test_derivatives_where_singular_values_are_equal(values):
    jacobians = rotation(2) @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ rotation(3)
    jacobians = jacobians[None].requires_grad_()
    assert torch.autograd.gradcheck(log_strain, (jacobians,))
    assert torch.autograd.gradgradcheck(log_strain, (jacobians,), fast_mode=True)


def test_at_a_rotation_it_is_the_squared_linear_strain():
    """The limit: for J = R(I + εA), ‖log Σ‖² = ε²‖sym A‖² + O(ε³)."""
    turn, along = rotation(5), random(3, 3, seed=6)
    strain = 0.5 * (along + along.T)
    jacobian = turn.clone().requires_grad_()
    energy = log_strain(jacobian)
    (gradient,) = torch.autograd.grad(energy, jacobian, create_graph=True)
    assert float(energy.detach()) < 1e-28 and float(gradient.detach().abs().max()) < 1e-14
    (second,) = torch.autograd.grad((gradient * (turn @ along)).sum(), jacobian)
    torch.testing.assert_close(second, 2 * turn @ strain, rtol=1e-9, atol=1e-9)
    small = log_strain(turn @ (torch.eye(3, dtype=torch.float64) + 1e-5 * along))
    assert float(small) == pytest.approx(1e-10 * float(strain.square().sum()), rel=1e-3)
    # Plain singular values have no second derivative here, which is why there is an operation.
    still = torch.eye(3, dtype=torch.float64).requires_grad_()
    (plain,) = torch.autograd.grad(reference(still), still, create_graph=True)
    assert not bool(torch.autograd.grad(plain.sum(), still)[0].isfinite().all())


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.integers(0, 1000))
def test_rotations_on_either_side_change_nothing(logs, seed):
    stretch = torch.diag(torch.tensor(logs, dtype=torch.float64).exp())
    expected = sum(value * value for value in logs)
    for jacobian in (stretch, rotation(seed) @ stretch @ rotation(seed + 1), -stretch):
        assert float(log_strain(jacobian)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_singular_and_non_finite_matrices():
    flat = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    zero, nan, inf = torch.zeros(3, 3).double(), torch.full((3, 3), math.nan).double(), flat * math.inf
    jacobians = torch.stack([flat, zero, nan, inf, torch.eye(3).double()]).requires_grad_()
    energy = log_strain(jacobians)
    torch.testing.assert_close(energy[:2].detach(), torch.tensor([1.0, 3.0]).double() * math.log(1e-6) ** 2)
    assert energy[2].isnan() and energy[3].isnan() and float(energy[4]) == 0
    (gradient,) = torch.autograd.grad(energy[[0, 1, 4]].sum(), jacobians, create_graph=True)
    assert bool(gradient[[0, 1, 4]].isfinite().all()) and not bool(gradient[:2].any())
    (second,) = torch.autograd.grad(gradient[[0, 1, 4]].sum(), jacobians)
    assert bool(second[[0, 1, 4]].isfinite().all())


def test_opcheck_and_compile(unchecked):
    c = random(4, 3, 3)
    c = c @ c.mT
    torch.library.opcheck(_energy, (c.requires_grad_(),))
    torch.library.opcheck(_gradient, (random(4).requires_grad_(), c))
    torch.library.opcheck(_second, (random(4, 3, 3), random(4), c.detach()))
    jacobians = random(5, 3, 3)
    compiled = torch.compile(log_strain, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(jacobians), log_strain(jacobians))


def test_a_third_derivative_raises():
    jacobian = random(1, 3, 3).requires_grad_()
    (first,) = torch.autograd.grad(log_strain(jacobian).sum(), jacobian, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), jacobian, create_graph=True)
    with pytest.raises(NotImplementedError, match="log_strain: a third derivative is requested"):
        torch.autograd.grad(second.sum(), jacobian)


@pytest.mark.cuda
def test_on_cuda():
    jacobians = random(9, 3, 3).float()
    torch.testing.assert_close(log_strain(jacobians.cuda()).cpu(), log_strain(jacobians))


def test_errors_name_the_argument(unchecked):
    with pytest.raises(ValueError, match=r"log_strain: jacobians has shape \(2, 3\); expected \(..., 3, 3\)"):
        log_strain(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"log_strain: jacobians has dtype torch\.int64"):
        log_strain(torch.zeros(3, 3, dtype=torch.int64))
