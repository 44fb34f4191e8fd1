"""Volume-rendering quadrature on packed samples, in plain PyTorch: the definition of `headfields.ops.compositing`.

Rays are padded to the longest one, so every sum and product runs along an axis of its own and autograd differentiates
it to any order.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ray_offsets(ray: Int[Tensor, " m"], rays: int) -> Int[Tensor, " offsets"]:
    """(rays + 1,) offset of each ray's first sample; the samples of ray r are offsets[r]:offsets[r + 1]."""
    return torch.searchsorted(ray, torch.arange(rays + 1, device=ray.device, dtype=ray.dtype)).long()


def _pad(
    values: Float[Tensor, " m"], offsets: Int[Tensor, " offsets"]
) -> tuple[Float[Tensor, "n s"], Bool[Tensor, "n s"]]:
    """The samples as one row per ray, padded with zeros, and the mask of the samples."""
    counts = offsets.diff()
    width = int(counts.max()) if counts.numel() else 0
    column = torch.arange(width, device=values.device)
    present = column < counts[:, None]
    place = torch.where(present, offsets[:-1, None] + column, 0)
    if not values.numel():
        return values.sum() + values.new_zeros(present.shape), present  # zeros that keep the graph
    return torch.where(present, values[place], 0.0), present


def exclusive_sum(values: Float[Tensor, " m"], offsets: Int[Tensor, " offsets"], reverse: bool) -> Float[Tensor, " m"]:
    """Per ray, the sum of the values before each sample (after it, if `reverse`)."""
    dense, present = _pad(values, offsets)
    if reverse:
        dense = dense.flip(1)
    running = torch.cat([torch.zeros_like(dense[:, :1]), dense[:, :-1]], dim=1).cumsum(1)
    if reverse:
        running = running.flip(1)
    return running[present]


def weighted_sum(
    weights: Float[Tensor, " m"], values: Float[Tensor, "m c"], offsets: Int[Tensor, " offsets"], append_total: bool
) -> Float[Tensor, "n columns"]:
    """Per ray, the sum of weights * values; with `append_total`, one more column: the sum of the weights."""
    rays = offsets.numel() - 1
    if append_total:
        values = torch.cat([values, torch.ones_like(weights)[:, None]], dim=1)
    ray = torch.repeat_interleave(torch.arange(rays, device=weights.device), offsets.diff())
    return values.new_zeros(rays, values.shape[1]).index_add(0, ray, weights[:, None] * values)


def ray_weights(
    values: Float[Tensor, " m"], offsets: Int[Tensor, " offsets"], values_are_alpha: bool
) -> Float[Tensor, " m"]:
    """w_i = T_i a_i with T_i = prod_{j<i} (1 - a_j).

    The values are a if `values_are_alpha`, else optical depths x with a = 1 - exp(-x).
    """
    if not values_are_alpha:
        transmittance = torch.exp(-exclusive_sum(values, offsets, False))
        return transmittance * -torch.expm1(-values)
    dense, present = _pad(values, offsets)
    transmitted = torch.cat([torch.ones_like(dense[:, :1]), 1 - dense[:, :-1]], dim=1)
    return transmitted.cumprod(1)[present] * values


def ray_weights_backward(
    grad: Float[Tensor, " m"], values: Float[Tensor, " m"], offsets: Int[Tensor, " offsets"], values_are_alpha: bool
) -> Float[Tensor, " m"]:
    """The gradient of L = sum grad * ray_weights with respect to the values, without autograd.

    dL/da_i = T_i (g_i - R_i), where g is `grad` and R_i its composite over the samples behind sample i. For optical
    depths x, multiplied by da_i/dx_i = 1 - a_i.
    """
    return _derivatives(torch.zeros_like(values), grad, values, offsets, values_are_alpha)[0]


def ray_weights_double(
    direction: Float[Tensor, " m"],
    grad: Float[Tensor, " m"],
    values: Float[Tensor, " m"],
    offsets: Int[Tensor, " offsets"],
    values_are_alpha: bool,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """The derivatives of `sum direction * ray_weights_backward` with respect to `grad` and the values."""
    return _derivatives(direction, grad, values, offsets, values_are_alpha)[1:]


def _derivatives(
    direction: Float[Tensor, " m"],
    grad: Float[Tensor, " m"],
    values: Float[Tensor, " m"],
    offsets: Int[Tensor, " offsets"],
    values_are_alpha: bool,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Returns dL/dv, and the directional derivatives of w and dL/dv.

    One forward and one backward pass along each ray.
    """
    (v, present), (g, _), (h, _) = _pad(values, offsets), _pad(grad, offsets), _pad(direction, offsets)
    transmitted, absorbed = (1 - v, v) if values_are_alpha else (torch.exp(-v), -torch.expm1(-v))
    slope = torch.ones_like(v) if values_are_alpha else transmitted
    d_absorbed, d_slope = slope * h, torch.zeros_like(v) if values_are_alpha else -transmitted * h
    reach, d_reach = torch.ones_like(v), torch.zeros_like(v)
    for k in range(1, v.shape[1]):
        reach[:, k] = reach[:, k - 1] * transmitted[:, k - 1]
        d_reach[:, k] = d_reach[:, k - 1] * transmitted[:, k - 1] - reach[:, k - 1] * d_absorbed[:, k - 1]
    behind, d_behind = torch.zeros_like(v), torch.zeros_like(v)
    for k in range(v.shape[1] - 2, -1, -1):
        difference = g[:, k + 1] - behind[:, k + 1]
        behind[:, k] = g[:, k + 1] * absorbed[:, k + 1] + transmitted[:, k + 1] * behind[:, k + 1]
        d_behind[:, k] = d_absorbed[:, k + 1] * difference + transmitted[:, k + 1] * d_behind[:, k + 1]
    difference = g - behind
    d_values = slope * reach * difference
    d_weights = d_reach * absorbed + reach * d_absorbed
    dd_values = d_slope * reach * difference + slope * (d_reach * difference - reach * d_behind)
    return d_values[present], d_weights[present], dd_values[present]
