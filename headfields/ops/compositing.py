"""Volume-rendering quadrature on packed samples: weights along a ray, and what they add up to.

The quadrature of Max, "Optical models for direct volume rendering" (1995), as NeRF writes it (Mildenhall et al. 2020,
equation 3): `w_i = T_i (1 - exp(-sigma_i delta_i))`, `T_i = exp(-sum_{j<i} sigma_j delta_j)`. Nothing is divided by a
transmittance or a weight, so opaque samples and empty rays have finite values and gradients.

Samples are packed: `ray` (M,) holds each sample's ray, in order, and rays without samples are legal, as are N = 0 and
M = 0. Every function takes `offsets`, the result of `ray_offsets(ray, rays)`, so that it is worked out once for a call
of several. Where `ray` is left out the last axis of the input runs along the ray and all others are batch.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_same_device, check_shape
from headfields.ops.reference import compositing as reference
from headfields.records import Samples


def ray_offsets(ray: Int[Tensor, " m"], rays: int) -> Int[Tensor, " offsets"]:
    """Where each ray's samples begin: (rays + 1,) int64; ray r owns samples `offsets[r]:offsets[r + 1]`.

    Raises:
        ValueError: `ray` is not sorted, or holds an index outside [0, rays).
    """
    check_integer("ray_offsets", "ray", ray)
    check_shape("ray_offsets", "ray", ray, "m")
    if ray.numel():
        if int(ray[0]) < 0 or int(ray[-1]) >= rays or bool((ray[1:] < ray[:-1]).any()):
            raise ValueError("ray_offsets: bad")
    return reference.ray_offsets(ray, rays)


def _packing(op, tensor, ray, rays, offsets):
    """Flat values, offsets"""
    if offsets is None and ray is None:
        count = tensor.shape[-1]
        rays = tensor[..., 0].numel() if count else tensor.shape[:-1].numel()
        return torch.arange(rays + 1, device=tensor.device) * count
    return ray_offsets(ray, rays) if offsets is None else offsets


def exclusive_sum(values, ray=None, rays=None, *, offsets=None):
    offsets = _packing("exclusive_sum", values, ray, rays, offsets)
    return reference.exclusive_sum(values.reshape(-1), offsets, False).reshape(values.shape)


def accumulate(weights, values=None, ray=None, rays=None, *, offsets=None):
    if ray is None and offsets is None:
        return weights.sum(-1) if values is None else (weights[..., None] * values).sum(-2)
    offsets = _packing("accumulate", weights, ray, rays, offsets)
    if values is None:
        return reference.weighted_sum(weights, weights.new_empty(weights.shape[0], 0), offsets, True)[:, 0]
    return reference.weighted_sum(weights, values, offsets, False)


def weights_from_density(density, start, end, ray=None, rays=None, *, offsets=None):
    offsets = _packing("weights_from_density", density, ray, rays, offsets)
    optical = density * (end - start)
    return reference.ray_weights(optical.reshape(-1), offsets, False).reshape(density.shape)


def weights_from_alpha(alpha, ray=None, rays=None, *, offsets=None):
    offsets = _packing("weights_from_alpha", alpha, ray, rays, offsets)
    return reference.ray_weights(alpha.reshape(-1), offsets, True).reshape(alpha.shape)


def composite(weights, rgb, samples: Samples, rays: int, background=None, *, offsets=None):
    offsets = _packing("composite", weights, samples.ray, rays, offsets)
    sums = reference.weighted_sum(weights, torch.cat([rgb, samples.middle[:, None]], dim=1), offsets, True)
    opacity = sums[:, 4]
    colour = sums[:, :3]
    if background is not None:
        colour = colour + (1 - opacity)[:, None] * background
    return colour, opacity, sums[:, 3]
