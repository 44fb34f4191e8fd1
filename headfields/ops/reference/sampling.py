"""Sample placement along rays, in plain PyTorch: the definition of `headfields.ops.sampling`."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Packed = tuple[Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]


def _rays(offsets: Int[Tensor, " offsets"]) -> Int[Tensor, " m"]:
    return torch.repeat_interleave(torch.arange(offsets.numel() - 1, device=offsets.device), offsets.diff())


def _segment_cumsum(values: Float[Tensor, " m"], offsets: Int[Tensor, " offsets"]) -> Float[Tensor, " m"]:
    """Inclusive running sum within each ray."""
    present = torch.arange(int(offsets.diff().max()) if offsets.numel() > 1 else 0) < offsets.diff()[:, None].cpu()
    present = present.to(values.device)
    return values.new_zeros(present.shape).masked_scatter(present, values).cumsum(1)[present]


def inverse_cdf(
    start: Float[Tensor, " m"],
    end: Float[Tensor, " m"],
    weights: Float[Tensor, " m"],
    offsets: Int[Tensor, " offsets"],
    quantiles: Float[Tensor, "n q"],
) -> Float[Tensor, "n q"]:
    """Distances at which the piecewise-uniform distribution of the weights reaches each quantile; 0 on empty rays.

    The sample that a quantile falls in is the first whose inclusive cumulative weight exceeds it, else the last that
    has weight, so a sample of zero weight never holds a result. Rays whose weights sum to 0, or to no finite number,
    are uniform in length.
    """
    ray, rays = _rays(offsets), offsets.numel() - 1
    # The sums start from zero within each ray and run in order, as in a kernel.
    mass = weights.clamp(min=0)
    total = mass.new_zeros(rays).index_add(0, ray, mass)
    usable = (total > 0) & total.isfinite()
    mass = torch.where(usable[ray], mass, end - start)
    inclusive = _segment_cumsum(mass, offsets)
    previous = torch.cat([inclusive.new_zeros(1), inclusive])[:-1]
    first = torch.zeros_like(ray, dtype=torch.bool)
    first[offsets[:-1][offsets.diff() > 0]] = True
    exclusive = torch.where(first, torch.zeros_like(previous), previous)
    result = quantiles.new_zeros(quantiles.shape)
    for index in (offsets.diff() > 0).nonzero()[:, 0].tolist():
        own = slice(int(offsets[index]), int(offsets[index + 1]))
        growing = (inclusive[own] > exclusive[own]).nonzero()[:, 0]
        last = int(growing[-1]) if growing.numel() else 0
        target = quantiles[index] * inclusive[own][-1]
        at = torch.searchsorted(inclusive[own].contiguous(), target.contiguous(), right=True).clamp(max=last)
        width = inclusive[own][at] - exclusive[own][at]
        fraction = ((target - exclusive[own][at]) / width.where(width > 0, torch.ones_like(width))).clamp(0, 1)
        low, high = start[own][at], end[own][at]
        result[index] = torch.minimum(low + fraction * (high - low), high)
    return result


def merge(
    offsets_a: Int[Tensor, " offsets"],
    start_a: Float[Tensor, " a"],
    end_a: Float[Tensor, " a"],
    offsets_b: Int[Tensor, " offsets"],
    start_b: Float[Tensor, " b"],
    end_b: Float[Tensor, " b"],
) -> Packed:
    """The union of both sets' intervals, split at every edge."""
    ray_a, ray_b = _rays(offsets_a), _rays(offsets_b)
    at = torch.cat([start_a, end_a, start_b, end_b])
    ray = torch.cat([ray_a, ray_a, ray_b, ray_b])
    one_a, one_b = torch.ones_like(ray_a), torch.ones_like(ray_b)
    opened = torch.cat([one_a, -one_a, one_b, -one_b])
    order = at.argsort(stable=True)
    order = order[ray[order].argsort(stable=True)]
    at, ray, covered = at[order], ray[order], opened[order].cumsum(0)
    keep = (covered[:-1] > 0) & (ray[:-1] == ray[1:]) & (at[:-1] < at[1:])
    return ray[:-1][keep], at[:-1][keep], at[1:][keep]


def step_edges(
    near: Float[Tensor, " n"], step: float, cone_angle: float, jitter: Float[Tensor, " n"] | None, count: int
) -> Float[Tensor, "n edges"]:
    """The first `count` + 1 edges of each ray's step lattice.

    `edge(0) = near`, `edge(1) = near + (1 - jitter) h(near)` and `edge(k + 1) = edge(k) + h(edge(k))` with
    `h(t) = max(step, cone_angle * t)`, in closed form: linear up to the first edge past step / cone_angle, geometric
    from there.
    """
    part = torch.ones_like(near) if jitter is None else 1 - jitter
    first = near + part * (near * cone_angle).clamp(min=step)
    index = torch.arange(count, device=near.device, dtype=near.dtype)
    edges = first[:, None] + index * step
    if cone_angle > 0:
        turn = step / cone_angle
        linear = torch.ceil((turn - first) / step).clamp(min=0)[:, None]
        geometric = (first[:, None] + linear * step) * torch.exp((index - linear) * math.log1p(cone_angle))
        edges = torch.where(index <= linear, edges, geometric)
    return torch.cat([near[:, None], edges], dim=1)


def step_count(
    near: Float[Tensor, " n"], far: Float[Tensor, " n"], step: float, cone_angle: float
) -> Float[Tensor, " n"]:
    """About how many intervals `uniform_step` gives each ray, to within 2, in float64; 0 where the range is empty."""
    hit = (near < far) & near.isfinite() & far.isfinite()
    near, far = torch.where(hit, near, 0.0).double(), torch.where(hit, far, 0.0).double()
    if cone_angle == 0:
        return (far - near) / step
    turn = step / cone_angle
    linear = (far.clamp(max=turn) - near).clamp(min=0) / step
    growing = far.clamp(min=turn).log() - near.clamp(min=turn).log()
    return linear + growing / math.log1p(cone_angle)


def uniform_step(
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    step: float,
    cone_angle: float,
    jitter: Float[Tensor, " n"] | None,
) -> Packed:
    """The intervals of each ray's step lattice, the last cut off at `far`; none for an empty or infinite range."""
    hit = (near < far) & near.isfinite() & far.isfinite()
    most = float(step_count(near, far, step, cone_angle).max()) if near.numel() else 0.0
    edges = step_edges(near, step, cone_angle, jitter, math.ceil(most) + 3)
    start, end = edges[:, :-1], torch.minimum(edges[:, 1:], far[:, None])
    keep = hit[:, None] & (start < end)
    return keep.nonzero()[:, 0], start[keep], end[keep]
