"""Interlevel loss: a coarse histogram of weights is to bound a fine one from above (Mip-NeRF 360)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headfields.ops._checks import check_floating, check_same_device, check_samples, check_shape
from headfields.ops.compositing import accumulate, exclusive_sum, ray_offsets
from headfields.records import Samples

_LEAST_WEIGHT = torch.finfo(torch.float32).eps  # added to the divisor, so that a weight of 0 costs 0


def interlevel(
    weights: Float[Tensor, " m"],
    samples: Samples,
    coarse_weights: Float[Tensor, " k"],
    coarse: Samples,
    rays: int,
    *,
    offsets: Int[Tensor, " offsets"] | None = None,
    coarse_offsets: Int[Tensor, " coarse_offsets"] | None = None,
) -> Float[Tensor, " n"]:
    """Σ_i max(0, w_i − Σ_j ŵ_j)² / w_i of each ray, j the coarse intervals that overlap fine interval i.

    It teaches the network that places samples (ŵ) to have weight wherever the fine one (w) has, and is 0 where it has.
    The fine weights are constants, as in the paper; differentiable to second order in the coarse weights.

    Args:
        weights: (M,) of the fine samples. No gradient reaches them.
        samples: M samples of N rays, sorted by ray and then by distance; the intervals of a ray do not overlap.
        coarse_weights: (K,) of the coarse samples.
        coarse: K samples of the same rays, in order too.
        rays: N; rays without fine samples have 0.
        offsets, coarse_offsets: `ray_offsets(samples.ray, rays)` of `headfields.ops.compositing` and that of the coarse
            samples, to save computing them again.

    Returns:
        (N,).

    Raises:
        ValueError: weights are not one for each sample, or samples are not sorted.
        TypeError: weights are not floating-point, or `samples`, `coarse` or `rays` are something else.

    Source: Barron et al. 2022, "Mip-NeRF 360", equations 13 and 14.

    >>> import torch, headfields as hf
    >>> ray, edges = torch.tensor([0, 0]), torch.tensor([0.0, 1.0, 2.0])
    >>> samples = hf.Samples(ray, edges[:-1], edges[1:])
    >>> whole = hf.Samples(ray[:1], edges[:1], edges[2:])
    >>> fine, coarse = torch.tensor([0.5, 0.5]), torch.tensor([0.25])
    >>> hf.ops.interlevel(fine, samples, coarse, whole, rays=1)  # 2 · ¼² / ½
    tensor([0.2500])
    """
    check_samples("interlevel", samples, rays)
    check_samples("interlevel", coarse, rays, "coarse")
    for name, values, at in (("weights", weights, samples), ("coarse_weights", coarse_weights, coarse)):
        check_floating("interlevel", name, values)
        check_shape("interlevel", name, values, str(len(at)))
    check_same_device("interlevel", weights=weights, coarse_weights=coarse_weights, samples=samples.start)
    offsets = ray_offsets(samples.ray, rays) if offsets is None else offsets
    coarse_offsets = ray_offsets(coarse.ray, rays) if coarse_offsets is None else coarse_offsets
    weights = weights.detach().to(coarse_weights.dtype)
    if len(coarse):
        first, last = _overlapping(samples, coarse, coarse_offsets[rays])
        before = pad(exclusive_sum(coarse_weights, offsets=coarse_offsets), (0, 1))
        bound = torch.where(last >= first, before[last] + pad(coarse_weights, (0, 1))[last] - before[first], 0.0)
    else:
        bound = coarse_weights.sum() + torch.zeros_like(weights)  # 0, with the graph
    excess = (weights - bound).clamp_min(0)
    return accumulate(weights / (weights + _LEAST_WEIGHT) ** 2, excess.square()[:, None], offsets=offsets)[:rays, 0]


def _overlapping(samples: Samples, coarse: Samples, count: Int[Tensor, ""]) -> tuple[Tensor, Tensor]:
    """The first and the last coarse interval (M,) that overlap each fine one; last < first where there is none.

    Args:
        samples, coarse: in order.
        count: rows of `coarse` that are samples; the others are padding.
    """
    fine_start, fine_end = samples.start.detach().double(), samples.end.detach().double()
    start, end = coarse.start.detach().double(), coarse.end.detach().double()
    # One sorted axis for all rays: each gets a stretch of its own, longer than all distances.
    distances = torch.cat([fine_start, fine_end, start, end])
    stretch = 1 + 2 * (distances.max() - distances.min())
    own, theirs = samples.ray.double() * stretch, coarse.ray.double() * stretch
    theirs = theirs.masked_fill(torch.arange(len(coarse), device=theirs.device) >= count, torch.inf)
    first = torch.searchsorted(end + theirs, fine_start + own, right=True)
    last = torch.searchsorted(start + theirs, fine_end + own, right=False) - 1
    return first, last
