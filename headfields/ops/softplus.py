"""Softplus, the smooth ReLU of networks that are differentiated twice: signed distances and deformations."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.ops._checks import check_floating, require_shapes
from headfields.ops.dispatch import native, use_native
from headfields.ops.needed_gradients import needed_gradients
from headfields.ops.registration import like, register_op


def softplus(x: Float[Tensor, "*batch"], beta: float | int = 100.0) -> Float[Tensor, "*batch"]:
    """log(1 + exp(beta · x)) / beta, element by element.

    On a CPU with the compiled module, in float32, it and its first two derivatives take one pass each with vector
    instructions. PyTorch's, which runs everywhere else, takes about as long there as the matrix product before it.

    Args:
        x: (...) numbers; NaN gives NaN.
        beta: sharpness of the bend at 0, positive. Signed-distance networks use 100.

    Returns:
        (...) in the dtype of x.

    Differentiable to any order.

    Raises:
        TypeError: x is not floating point.
        ValueError: beta is not positive and finite.
    """
    check_floating("softplus", "x", x)
    if not 0 < beta < math.inf:
        raise ValueError(f"softplus: beta is {beta}; expected a positive number")
    if x.dtype != torch.float32 or not use_native(x):
        return functional.softplus(x, float(beta))
    return _softplus(x, float(beta))


@torch.library.custom_op("headfields::softplus", mutates_args=())
def _softplus(x: Tensor, beta: float) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    native.softplus(x.detach().contiguous().view(-1), beta, out.view(-1), torch.get_num_threads())
    return out


@torch.library.custom_op("headfields::softplus_derivative", mutates_args=())
def _derivative(grad: Tensor, x: Tensor, beta: float, second: bool) -> Tensor:
    """grad times the first, or the second, derivative at x."""
    require_shapes("softplus_derivative", grad.shape == x.shape, grad=grad, x=x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    tensors = (tensor.detach().contiguous().view(-1) for tensor in (grad, x))
    native.softplus_derivative(*tensors, beta, second, out.view(-1), torch.get_num_threads())
    return out


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _derivative(grad, *ctx.saved_tensors, *ctx.rest, False), None


def _derivative_backward(ctx: Any, out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    (grad, x), (beta, second) = ctx.saved_tensors, ctx.rest
    needs_grad, needs_x = needed_gradients(ctx, 2)
    to_grad = _derivative(out, x, beta, second) if needs_grad else None
    to_x = None
    if needs_x and not second:
        to_x = _derivative(out * grad, x, beta, True)
    elif needs_x:  # the third derivative and those beyond are PyTorch's
        above, below = torch.sigmoid(beta * x), torch.sigmoid(-beta * x)  # 1 - above would cancel
        to_x = out * grad * beta**2 * above * below * (below - above)
    return to_grad, to_x, None, None


def _plain_derivative(grad: Tensor, x: Tensor, beta: float, second: bool) -> Tensor:
    above = torch.sigmoid(beta * x)
    return grad * beta * above * torch.sigmoid(-beta * x) if second else grad * above


register_op(_softplus, like(0), functional.softplus, derivative=_backward, elementwise=True)
register_op(_derivative, like(1), _plain_derivative, derivative=_derivative_backward, elementwise=True)
