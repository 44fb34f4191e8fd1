"""Weighted means of images in a square, separable window: what structural similarity is made of."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.ops._checks import check_floating, require_shapes
from headfields.ops.dispatch import native, use_native
from headfields.ops.registration import like, register_op


def blur(images: Float[Tensor, "n h w"], weights: Float[Tensor, " k"]) -> Float[Tensor, "n h w"]:
    """The means of images in a window of k × k pixels with weights w_i w_j, and zeros beyond the border.

    In C++ on a CPU in float32, by rows and then by columns; elsewhere PyTorch's convolution.

    Args:
        images: (N, H, W); any number of images, channels among them.
        weights: (k,) symmetric, k odd; the same dtype and device. No gradient.

    Returns:
        (N, H, W). Differentiable to any order in the images: the derivative is the operation itself.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: a shape does not fit, or k is even.
    """
    check_floating("blur", "images", images)
    check_floating("blur", "weights", weights)
    result: Tensor = torch.ops.headfields.blur(images, weights.detach())
    return result


def _plain(images: Tensor, weights: Tensor) -> Tensor:
    if not images.numel():
        return torch.zeros_like(images)
    window = torch.outer(weights, weights)[None, None]
    # One convolution of k × k takes less time on a GPU, and in PyTorch on a CPU, than one by rows and one by columns.
    count = images.shape[0]
    window = window.expand(count, 1, *window.shape[2:])
    return functional.conv2d(images[None], window, padding=len(weights) // 2, groups=count)[0]


@torch.library.custom_op("headfields::blur", mutates_args=())
def _blur(images: Tensor, weights: Tensor) -> Tensor:
    fits = images.ndim == 3 and weights.ndim == 1 and len(weights) % 2 == 1 and images.dtype == weights.dtype
    require_shapes("blur", fits, images=images, weights=weights)
    if images.dtype != torch.float32 or not use_native(images, "blur"):
        return _plain(images, weights)
    images = images.detach().contiguous()
    out = torch.empty_like(images)
    native.blur(images, weights.detach().contiguous(), out, torch.get_num_threads())
    return out


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (weights,) = ctx.saved_tensors
    return torch.ops.headfields.blur(grad, weights), None


register_op(_blur, like(0), _plain, derivative=_backward, keep=(1,), rows=(0,))
