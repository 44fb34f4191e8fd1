"""Structural similarity of images as a map, differentiable: what the metric, the loss and D-SSIM are means of."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.precision import full_precision

__all__ = ["WINDOW", "ssim_map"]

WINDOW = 11
"""Side of the Gaussian window in pixels, as in Wang et al. 2004."""
_SIGMA = 1.5  # of the window, pixels
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 for values in [0, 1]


def ssim_map(
    images: Float[Tensor, "p c h w"], truths: Float[Tensor, "p c h w"], border: Literal["reflect", "zeros"] = "reflect"
) -> Float[Tensor, "p c h w"]:
    """Structural similarity (Wang et al. 2004, equation 13) of each pixel's window.

    The window is a Gaussian of 11 × 11 pixels, sigma 1.5, and the constants are K1 = 0.01, K2 = 0.03 for values in
    [0, 1]. Of its five weighted means, those of x² and y² are needed as a sum only, so there are four convolutions, all
    in two calls. (PyTorch's 11 × 11 convolution takes half the time on the CPU of one by rows and one by columns:
    measured at 256², one thread, 5.1 and 12.0 ms for 15 channels.)

    Args:
        images: (P, C, H, W), in [0, 1].
        truths: (P, C, H, W), of the same dtype and device.
        border: what windows see beyond the image: its reflection (torchmetrics), or zeros (the released code of 3D
            Gaussian Splatting).

    Returns:
        (P, C, H, W) in [-1, 1], 1 where the windows are equal. Differentiable to any order in both; under autocast
        computed in the images' dtype.

    Raises:
        ValueError: the shapes differ, the border is another, or a side is too small for a reflection (6 pixels).

    >>> import torch
    >>> from headfields.metrics.structural_similarity import ssim_map
    >>> ssim_map(torch.zeros(1, 1, 7, 6), torch.zeros(1, 1, 7, 6)).sum()
    tensor(42.)
    """
    if images.shape != truths.shape or images.ndim != 4:
        raise ValueError(
            f"ssim_map: images has shape {tuple(images.shape)} and truths {tuple(truths.shape)}; expected (P, C, H, W) "
            "for both"
        )
    reach = WINDOW // 2
    if border not in ("reflect", "zeros") or (border == "reflect" and min(images.shape[2:]) <= reach):
        raise ValueError(
            f"ssim_map: border is {border!r} and images has shape {tuple(images.shape)}; expected 'reflect', for sides "
            f"of more than {reach} pixels, or 'zeros'"
        )
    if not images.numel():
        return images * truths
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    row = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    window = torch.outer(row, row) / row.sum() ** 2
    channels = images.shape[1]

    def means(stacked: Tensor) -> Tensor:
        count = stacked.shape[1]
        if border == "zeros":
            return _Blur.apply(stacked, window)
        stacked = functional.pad(stacked, (reach,) * 4, mode="reflect")
        return functional.conv2d(stacked, window.expand(count, 1, WINDOW, WINDOW), groups=count)

    with full_precision(images):
        moments = torch.cat([images, images.square() + truths.square(), images * truths], dim=1)
        mean, squares, product = means(moments).split(channels, dim=1)
        mean_of_truth = means(truths)
        of_means = mean * mean_of_truth
        squares_of_means = mean.square() + mean_of_truth.square()
        covariance, variances = product - of_means, squares - squares_of_means
        return ((2 * of_means + _C1) * (2 * covariance + _C2)) / ((squares_of_means + _C1) * (variances + _C2))


class _Blur(torch.autograd.Function):
    """Weighted means with zeros beyond the border, whose derivative is itself, as the window is symmetric.

    PyTorch's derivative of a grouped convolution takes three times as long as this one.
    """

    @staticmethod
    def forward(ctx: Any, stacked: Tensor, window: Tensor) -> Tensor:
        ctx.save_for_backward(window)
        count = stacked.shape[1]
        return functional.conv2d(
            stacked, window.expand(count, 1, *window.shape), padding=window.shape[0] // 2, groups=count
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (window,) = ctx.saved_tensors
        return _Blur.apply(grad, window), None  # itself differentiable
