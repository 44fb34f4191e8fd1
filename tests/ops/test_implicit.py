"""The gradient of a root, against finite differences of the root itself."""

import pytest
import torch

from headfields.ops import implicit_root


def solved(theta):
    """x with x³ + x = θ in each coordinate, by Newton's method, as `implicit_root` takes it."""
    with torch.no_grad():
        x = theta.detach().clone()
        for _ in range(60):
            x -= (x**3 + x - theta) / (3 * x**2 + 1)
        inverse = torch.diag_embed(1 / (3 * x**2 + 1))
    return implicit_root(x, x**3 + x - theta, inverse)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_value_and_gradient(count):
    theta = torch.randn(count, 3, dtype=torch.float64, requires_grad=True)
    root = solved(theta)
    torch.testing.assert_close(root**3 + root, theta)
    assert torch.autograd.gradcheck(solved, theta)


def test_second_derivatives_raise_rather_than_be_wrong():
    theta = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(solved(theta).square().sum(), theta, create_graph=True)
    with pytest.raises(NotImplementedError, match="implicit_root is differentiable once"):
        first.sum().backward()


def test_zeros_for_the_inverse_give_the_root_back_without_a_gradient():
    residual = torch.randn(2, 3, requires_grad=True)
    root = torch.randn(2, 3)
    result = implicit_root(root, residual, torch.zeros(2, 3, 3))
    result.sum().backward()
    assert torch.equal(result, root) and not bool(residual.grad.any())


def test_the_operation_is_registered_as_it_should_be(unchecked):
    arguments = (torch.randn(2, 3), torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, 3))
    torch.library.opcheck(torch.ops.headfields.implicit_root.default, arguments)
    compiled = torch.compile(implicit_root, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), implicit_root(*arguments))


def test_errors(unchecked):
    with pytest.raises(ValueError, match=r"implicit_root: inverse_jacobian has shape \(2, 3\); expected \(2, 3, 3\)"):
        implicit_root(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="implicit_root: residual"):
        implicit_root(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 3))
