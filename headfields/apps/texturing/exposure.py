"""Exposure gains of views, from the points that several of them see. Our own choice."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.srgb import linear_from_srgb, srgb_from_linear

__all__ = ["even_out", "view_gains"]

_DARK = 0.01  # linear light; noise dominates below
_PRIOR = 10.0  # weight, in points, of a gain of 1
_LEAST = 20  # least number of points that two views share


def even_out(color: Float[Tensor, "*batch 3"], gain: Float[Tensor, ""] | float) -> Float[Tensor, "*batch 3"]:
    """The sRGB colors (..., 3) of a view, with its gain divided out."""
    return srgb_from_linear(linear_from_srgb(color) / gain).clamp(0, 1)


def view_gains(
    light: Float[Tensor, "t k 3"], weight: Float[Tensor, "t k"], view: Int[Tensor, "t k"], views: int
) -> Float[Tensor, " views"]:
    """The exposure gain of each view, with geometric mean 1.

    For each pair of views that share enough points, the median difference of their log brightness; then the gains that
    explain these best, by least squares weighted with the number of points.

    Args:
        light: (T, K, 3) linear colors of T points in up to K views each.
        weight: (T, K), zero where there is no sample.
        view: (T, K) the view of each sample.
        views: number of views.
    """
    brightness = light.mean(-1)
    use = (weight > 0) & (brightness > _DARK) & (light.amax(-1) < 0.98)
    level = brightness.clamp(min=_DARK).log().double()
    left, right = torch.triu_indices(view.shape[1], view.shape[1], 1)
    both = use[:, left] & use[:, right]
    first, second = view[:, left][both], view[:, right][both]
    difference = (level[:, left] - level[:, right])[both]
    swap = first > second
    key = torch.where(swap, second * views + first, first * views + second)
    difference = torch.where(swap, -difference, difference)
    order = torch.argsort(difference)
    order = order[torch.argsort(key[order], stable=True)]
    pairs, counts = key[order].unique_consecutive(return_counts=True)
    middle = counts.cumsum(0) - counts + counts // 2
    median = difference[order][middle] if len(pairs) else difference
    frequent = counts >= _LEAST
    pairs, median, share = pairs[frequent], median[frequent], counts[frequent].double()
    a, b = pairs // views, pairs % views
    matrix = torch.eye(views, dtype=torch.float64) * _PRIOR
    right_side = torch.zeros(views, dtype=torch.float64)
    for i, j, d, w in zip(a.tolist(), b.tolist(), median.tolist(), share.tolist(), strict=True):
        matrix[i, i] += w
        matrix[j, j] += w
        matrix[i, j] -= w
        matrix[j, i] -= w
        right_side[i] += w * d
        right_side[j] -= w * d
    log_gains = torch.linalg.solve(matrix, right_side) if views else right_side
    return (log_gains - log_gains.mean()).exp().to(light) if views else log_gains.to(light)
