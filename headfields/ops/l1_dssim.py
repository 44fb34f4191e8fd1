"""The loss that Gaussians are trained with, of whole images: L1 and D-SSIM in a few launches of a GPU."""

from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, require_shapes
from headfields.ops.dispatch import use_warp
from headfields.ops.reference import l1_dssim as reference
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch


def l1_dssim(
    images: Float[Tensor, "b h w d"], truths: Float[Tensor, "b h w d"], dssim: float | int
) -> Float[Tensor, ""]:
    """(1 - λ) L1 + λ (1 - SSIM), means over all numbers; windows of 11 × 11 pixels, zeros beyond the border.

    In Warp three launches, and two for the gradient, where PyTorch's operations make some eighty.

    Args:
        images: (B, H, W, D), in [0, 1].
        truths: the same shape. No gradient.
        dssim: λ, in [0, 1].

    Returns:
        (), 0 of images without numbers. Differentiable once in `images`; a second derivative raises.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: the shapes or dtypes differ.
    """
    check_floating("l1_dssim", "images", images)
    check_floating("l1_dssim", "truths", truths)
    value: Tensor = _l1_dssim(images, truths.detach(), float(dssim))[0]
    return value


@torch.library.custom_op("headfields::l1_dssim", mutates_args=())
def _l1_dssim(images: Tensor, truths: Tensor, dssim: float) -> tuple[Tensor, Tensor]:
    """The loss, and the slopes that its gradient reads."""
    fits = images.ndim == 4 and images.shape == truths.shape and images.dtype == truths.dtype
    require_shapes("l1_dssim", fits, images=images, truths=truths)
    if not images.numel():
        return images.new_zeros(()), images.new_empty(*images.shape, 3)
    images, truths = images.detach().contiguous(), truths.detach().contiguous()
    if not use_warp(images):
        return reference.l1_dssim(images, truths, dssim)
    shape = tuple(images.shape)
    sums, values, slopes = images.new_empty(*shape, 4), torch.empty_like(images), images.new_empty(*shape, 3)
    launch("l1_dssim.sum_rows", shape, images, truths, sums)
    launch("l1_dssim.sum_columns", shape, images, truths, sums, dssim, values, slopes)
    return values.mean(), slopes


@torch.library.custom_op("headfields::l1_dssim_backward", mutates_args=())
def _l1_dssim_backward(grad: Tensor, images: Tensor, truths: Tensor, slopes: Tensor, dssim: float) -> Tensor:
    """The gradient of the images."""
    fits = images.ndim == 4 and images.shape == truths.shape and slopes.shape == (*images.shape, 3)
    fits = fits and grad.shape == () and len({x.dtype for x in (grad, images, truths, slopes)}) == 1
    require_shapes("l1_dssim_backward", fits, grad=grad, images=images, truths=truths, slopes=slopes)
    if not images.numel():
        return torch.zeros_like(images)
    grad, images, truths, slopes = (x.detach().contiguous() for x in (grad, images, truths, slopes))
    if not use_warp(images):
        return _plain_backward(grad, images, truths, slopes, dssim)
    shape, sums, out = tuple(images.shape), torch.empty_like(slopes), torch.empty_like(images)
    launch("l1_dssim.spread_rows", shape, slopes, sums)
    share = 1 / images.numel()
    launch("l1_dssim.spread_columns", shape, grad.view(1), images, truths, sums, dssim, share, out)
    return out


def _plain_backward(grad: Tensor, images: Tensor, truths: Tensor, slopes: Tensor, dssim: float) -> Tensor:
    _, pull = torch.func.vjp(lambda x: reference.l1_dssim(x, truths, dssim)[0], images)
    gradient: Tensor = pull(grad)[0]
    return gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.dssim = inputs[2]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
    return None if grad is None else _l1_dssim_backward(grad, *ctx.saved_tensors, ctx.dssim), None, None


def _no_second_derivative(ctx: Any, *grads: Tensor | None) -> NoReturn:
    raise NotImplementedError(
        "l1_dssim: a second derivative is requested, and the operation has one; l1_dssim of "
        "headfields.ops.reference.l1_dssim has all of them"
    )


register_op(
    _l1_dssim, lambda images, truths, dssim: (images.new_empty(()), images.new_empty(*images.shape, 3)),
    reference.l1_dssim, derivative=_backward, setup=_save,
)  # fmt: skip
register_op(
    _l1_dssim_backward, lambda grad, images, *_: images.new_empty(images.shape), None,
    derivative=_no_second_derivative, remedy="l1_dssim of headfields.ops.reference.l1_dssim has every derivative",
)  # fmt: skip
