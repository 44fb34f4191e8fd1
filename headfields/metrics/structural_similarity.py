"""Structural similarity of images as a map, differentiable: what the metric, the loss and D-SSIM are means of."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.ops.blur import blur
from headfields.ops.reference.l1_dssim import WINDOW, similarity, window
from headfields.records.precision import full_precision

__all__ = ["WINDOW", "ssim_map"]


def ssim_map(
    images: Float[Tensor, "p c h w"], truths: Float[Tensor, "p c h w"], border: Literal["reflect", "zeros"] = "reflect"
) -> Float[Tensor, "p c h w"]:
    """Structural similarity (Wang et al. 2004, equation 13) of each pixel's window.

    The window is a Gaussian of 11 × 11 pixels, sigma 1.5, and the constants are K1 = 0.01, K2 = 0.03 for values in
    [0, 1]. Of its five weighted means, those of x² and y² are needed as a sum only, so there are four convolutions, all
    in two calls.

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
    row = window(images)
    channels = images.shape[1]

    def means(stacked: Tensor) -> Tensor:
        count = stacked.shape[1]
        if border == "zeros":
            return blur(stacked.flatten(0, 1), row).unflatten(0, stacked.shape[:2])
        stacked = functional.pad(stacked, (reach,) * 4, mode="reflect")
        return functional.conv2d(stacked, torch.outer(row, row).expand(count, 1, WINDOW, WINDOW), groups=count)

    with full_precision(images):
        moments = torch.cat([images, images.square() + truths.square(), images * truths], dim=1)
        mean, squares, product = means(moments).split(channels, dim=1)
        return similarity(mean, means(truths), squares, product)
