"""Occupancy grids, in plain PyTorch: the definition of `headfields.ops.occupancy`."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops.reference import sampling
from headfields.ops.reference.sampling import Packed


def lookup(
    points: Float[Tensor, "m 3"], occupied: Bool[Tensor, "x y z"], aabb: Float[Tensor, "2 3"]
) -> Bool[Tensor, " m"]:
    """Whether the cell that holds each point is occupied; False outside the box."""
    size = torch.tensor(occupied.shape, device=points.device)
    place = (points - aabb[0]) * (size / (aabb[1] - aabb[0]))
    inside = ((place >= 0) & (place < size)).all(-1)
    cell = place.where(inside[:, None], torch.zeros_like(place)).long()
    if occupied.numel() == 0:
        return inside
    return inside & occupied[cell[:, 0], cell[:, 1], cell[:, 2]]


def march(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    occupied: Bool[Tensor, "x y z"],
    aabb: Float[Tensor, "2 3"],
    step: float,
    cone_angle: float,
    jitter: Float[Tensor, " n"] | None,
) -> Packed:
    """The intervals of each ray's step lattice whose middles lie in occupied cells."""
    ray, start, end = sampling.uniform_step(near, far, step, cone_angle, jitter)
    middle = 0.5 * (start + end)
    keep = lookup(origins[ray] + middle[:, None] * directions[ray], occupied, aabb)
    return ray[keep], start[keep], end[keep]
