"""Structural similarity of windows, and the loss that Gaussians are trained with, in plain PyTorch: any float dtype."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

WINDOW = 11
"""Side of the Gaussian window in pixels, as in Wang et al. 2004."""
SIGMA = 1.5
"""Standard deviation of the window, pixels."""
C1, C2 = 0.01**2, 0.03**2
"""(K1 L)² and (K2 L)² for values in [0, 1]."""


def window(like: Tensor) -> Float[Tensor, " k"]:
    """A row of the window: its weights are the products of two."""
    reach = WINDOW // 2
    offset = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    row = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    return row / row.sum()


def similarity(mean: Tensor, mean_of_truth: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    """Wang et al. 2004, equation 13, of windows' weighted means: of x, of y, of x² + y², of x y."""
    of_means = mean * mean_of_truth
    squares_of_means = mean.square() + mean_of_truth.square()
    covariance, variances = product - of_means, squares - squares_of_means
    return ((2 * of_means + C1) * (2 * covariance + C2)) / ((squares_of_means + C1) * (variances + C2))


def l1_dssim(
    images: Float[Tensor, "b h w d"], truths: Float[Tensor, "b h w d"], dssim: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "b h w d 3"]]:
    """The loss, and the derivatives of the similarity by the windows' means of x, x² + y² and x y, which have none."""
    row = window(images)
    kernel = torch.outer(row, row)[None, None]

    def means(values: Tensor) -> Tensor:
        planes = values.movedim(-1, 1).flatten(0, 1)[:, None]
        return functional.conv2d(planes, kernel, padding=WINDOW // 2)[:, 0]

    moments = [means(values) for values in (images, truths, images.square() + truths.square(), images * truths)]
    value = (1 - dssim) * (images - truths).abs().mean() + dssim * (1 - similarity(*moments).mean())
    with torch.no_grad():
        slopes = _slopes(*(moment.detach() for moment in moments))
    b, h, w, d = images.shape
    return value, slopes.reshape(b, d, h, w, 3).movedim(1, 3).contiguous()


def _slopes(mean: Tensor, mean_of_truth: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    """The derivatives (..., 3) of `similarity` by the first, third and fourth argument."""
    of_means = mean * mean_of_truth
    squares_of_means = mean.square() + mean_of_truth.square()
    first, second = 2 * of_means + C1, 2 * (product - of_means) + C2
    third, fourth = squares_of_means + C1, squares - squares_of_means + C2
    value = first * second / (third * fourth)
    by_mean = 2 * mean_of_truth * (second - first) / (third * fourth) - 2 * mean * value * (1 / third - 1 / fourth)
    return torch.stack([by_mean, -value / fourth, 2 * first / (third * fourth)], dim=-1)
