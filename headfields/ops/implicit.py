"""Implicit differentiation: the gradient of an equation's root by the equation's parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape, require_shapes
from headfields.ops.registration import like, register_op


def implicit_root(
    root: Float[Tensor, "n d"], residual: Float[Tensor, "n d"], inverse_jacobian: Float[Tensor, "n d d"]
) -> Float[Tensor, "n d"]:
    """Roots of F(x; θ) = 0 with their gradient by θ, which is -J⁻¹ ∂F/∂θ, J = ∂F/∂x (the implicit function theorem).

    The value is root - J⁻¹ residual: one more Newton step, so approximate roots will do.

    Args:
        root: (N, D) where F is nearly zero, found by any means; taken as a constant.
        residual: (N, D) F at these constant roots, as a function of θ; gradients flow to it alone.
        inverse_jacobian: (N, D, D) J⁻¹ there, as a constant. Where it is 0, the root stays, without a gradient.

    Returns:
        (N, D); N = 0 is legal.

    Differentiable once. A second derivative would need those of F, and raises.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        NotImplementedError: when differentiated twice.

    >>> import torch, headfields as hf
    >>> square = torch.tensor(9.0, requires_grad=True)  # x² - square = 0 at x = 3, where J = 2 x = 6
    >>> root = torch.tensor([[3.0]])
    >>> hf.ops.implicit_root(root, root**2 - square, torch.tensor([[[1 / 6]]])).sum().backward()
    >>> round(square.grad.item(), 4)  # dx / dsquare = 1 / 6
    0.1667
    """
    op = "implicit_root"
    check_floating(op, "root", root)
    check_shape(op, "root", root, "N D")
    count, width = root.shape
    check_floating(op, "residual", residual)
    check_shape(op, "residual", residual, f"{count} {width}")
    check_floating(op, "inverse_jacobian", inverse_jacobian)
    check_shape(op, "inverse_jacobian", inverse_jacobian, f"{count} {width} {width}")
    check_same_device(op, root=root, residual=residual, inverse_jacobian=inverse_jacobian)
    return _root(root.detach(), residual, inverse_jacobian.detach())


@torch.library.custom_op("headfields::implicit_root", mutates_args=())
def _root(root: Tensor, residual: Tensor, inverse_jacobian: Tensor) -> Tensor:
    fits = root.ndim == 2 and residual.shape == root.shape and inverse_jacobian.shape == (*root.shape, root.shape[1])
    require_shapes("implicit_root", fits, root=root, residual=residual, inverse_jacobian=inverse_jacobian)
    return root - (inverse_jacobian * residual[:, None]).sum(-1)  # no product that autocast would round


@torch.library.custom_op("headfields::implicit_root_backward", mutates_args=())
def _backward(grad: Tensor, inverse_jacobian: Tensor) -> Tensor:
    return -(inverse_jacobian * grad[..., None]).sum(-2)


def _first(ctx, grad):
    (inverse_jacobian,) = ctx.saved_tensors
    return None, _backward(grad, inverse_jacobian), None


def _second(ctx, grad):
    raise NotImplementedError(
        "implicit_root is differentiable once: a second derivative of a root needs second derivatives of its equation. "
        "A field of distances with SkinningRoots needs SkinningRoots(..., derivatives=2), which has them; elsewhere "
        "detach the inverted points where they enter a term that is differentiated twice"
    )


_REVERSE = "a root is differentiable once: use reverse mode (torch.autograd.grad)"
register_op(_root, like(0), None, derivative=_first, keep=(2,), rows=(0, 1, 2), remedy=_REVERSE)
register_op(_backward, like(0), None, derivative=_second, rows=(0, 1), remedy=_REVERSE)
