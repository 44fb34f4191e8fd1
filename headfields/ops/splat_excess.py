"""How far Gaussians' positions or scales go beyond a threshold: what losses on attached Gaussians are means of."""

from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops._checks import check_floating, require_shapes
from headfields.ops.dispatch import use_warp
from headfields.ops.reference import splat_excess as reference
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch


def splat_excess(
    vectors: Float[Tensor, "*b n 3"], visible: Bool[Tensor, "b n"], threshold: float | int, each: bool
) -> Float[Tensor, ""]:
    """The mean, over the Gaussians that are in view, of how far their vectors go beyond a threshold.

    In Warp four launches, and one for the gradient, where PyTorch's operations make some thirty; on a CPU those.

    Args:
        vectors: (N, 3) of Gaussians that all frames share, or (B, N, 3).
        visible: (B, N) whether each is in view in each frame.
        threshold: what is free.
        each: whether every coordinate is compared with it and the length of what is left is counted, or the vector's
            length is compared.

    Returns:
        (), 0 where none is in view. Differentiable once: on a CPU to any order.

    Raises:
        TypeError: vectors are not floating point.
        ValueError: a shape does not fit.
    """
    check_floating("splat_excess", "vectors", vectors)
    if not use_warp(vectors):
        return reference.splat_excess(vectors, visible, float(threshold), each)[0]
    owned = vectors if vectors.ndim == 3 else vectors[None]
    value: Tensor = _splat_excess(owned, visible, float(threshold), each)[0]
    return value


def _check(op: str, vectors: Tensor, visible: Tensor) -> None:
    fits = vectors.ndim == 3 and vectors.shape[2] == 3 and visible.ndim == 2 and visible.shape[1] == vectors.shape[1]
    fits = fits and len(vectors) in (1, len(visible)) and visible.dtype == torch.bool
    require_shapes(op, fits, vectors=vectors, visible=visible)


@torch.library.custom_op("headfields::splat_excess", mutates_args=())
def _splat_excess(vectors: Tensor, visible: Tensor, threshold: float, each: bool) -> tuple[Tensor, Tensor]:
    """The mean and the number that it is of."""
    _check("splat_excess", vectors, visible)
    if not use_warp(vectors):
        return reference.splat_excess(vectors, visible, threshold, each)
    vectors, visible = vectors.detach().contiguous(), visible.contiguous()
    parts = vectors.new_empty(2, *vectors.shape[:2])
    launch("splat_excess.excess", tuple(vectors.shape[:2]), vectors, visible, threshold, each, parts)
    total, count = parts.flatten(1).sum(1).unbind()
    count = count.clamp_min(1)
    return total / count, count


@torch.library.custom_op("headfields::splat_excess_backward", mutates_args=())
def _splat_excess_backward(
    grad: Tensor, count: Tensor, vectors: Tensor, visible: Tensor, threshold: float, each: bool
) -> Tensor:
    """The gradient of the vectors."""
    _check("splat_excess_backward", vectors, visible)
    fits = grad.shape == count.shape == () and grad.dtype == count.dtype == vectors.dtype
    require_shapes("splat_excess_backward", fits, grad=grad, count=count, vectors=vectors)
    if not use_warp(vectors):
        return _plain_backward(grad, count, vectors, visible, threshold, each)
    grad, count, vectors, visible = (x.detach().contiguous() for x in (grad, count, vectors, visible))
    out = torch.empty_like(vectors)
    launch("splat_excess.excess_gradient", tuple(vectors.shape[:2]), grad.view(1), count.view(1), vectors, visible,
           threshold, each, out)  # fmt: skip
    return out


def _plain_backward(
    grad: Tensor, count: Tensor, vectors: Tensor, visible: Tensor, threshold: float, each: bool
) -> Tensor:
    _, pull = torch.func.vjp(lambda x: reference.splat_excess(x, visible, threshold, each)[0], vectors)
    gradient: Tensor = pull(grad)[0]
    return gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(output[1], *inputs[:2])
    ctx.options = inputs[2:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None, None]:
    return None if grad is None else _splat_excess_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor | None) -> NoReturn:
    raise NotImplementedError(
        "splat_excess: a second derivative is requested, and the kernels have one; splat_excess of "
        "headfields.ops.reference.splat_excess has all of them"
    )


register_op(
    _splat_excess, lambda vectors, *_: (vectors.new_empty(()), vectors.new_empty(())), reference.splat_excess,
    derivative=_backward, setup=_save,
)  # fmt: skip
register_op(
    _splat_excess_backward, lambda grad, count, vectors, *_: vectors.new_empty(vectors.shape), None,
    derivative=_no_second_derivative,
    remedy="splat_excess of headfields.ops.reference.splat_excess has every derivative",
)  # fmt: skip
