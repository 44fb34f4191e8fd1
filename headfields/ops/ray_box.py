"""Intersection of rays with a box (slab method) or a sphere: near and far distances."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records import Rays

__all__ = ["ray_box", "ray_sphere"]


def ray_box(rays: Rays, box: Float[Tensor, "2 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distances at which rays enter (at least 0) and leave a box; (inf, -inf) where they miss it.

    Args:
        rays: N rays in the frame of the box; a component of a direction below 1e-12 counts as 1e-12.
        box: (2, 3) minimum and maximum corners, meters.

    Returns:
        Near and far, (N,) each, meters. Differentiable in rays and box to any order, except where the face changes.

    Source: the slab method (Kay and Kajiya 1986, "Ray tracing complex scenes").

    >>> import torch, headfields as hf
    >>> origins, directions = torch.tensor([[0.0, 0, -3], [5, 0, -3]]), torch.tensor([[0.0, 0, 1]]).expand(2, 3)
    >>> rays = hf.Rays(origins, directions, torch.zeros(2, dtype=torch.long))  # the second one misses
    >>> near, far = hf.ops.ray_box(rays, torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    >>> near.tolist(), far.tolist()
    ([2.0, inf], [4.0, -inf])
    """
    slope = 1.0 / torch.where(rays.directions.abs() < 1e-12, torch.full_like(rays.directions, 1e-12), rays.directions)
    ends = (box[:, None] - rays.origins) * slope
    near = ends.amin(dim=0).amax(dim=-1).clamp_min(0.0)
    far = ends.amax(dim=0).amin(dim=-1)
    miss = near >= far
    return near.masked_fill(miss, torch.inf), far.masked_fill(miss, -torch.inf)


def ray_sphere(
    rays: Rays, center: Float[Tensor, "3"], radius: float | int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distances at which rays enter (at least 0) and leave a sphere; (inf, -inf) where they miss it.

    Args:
        rays: N rays with unit directions.
        center: (3,) of the sphere, meters.
        radius: meters.

    Returns:
        Near and far, (N,) each, meters. Differentiable in rays and center to any order.
    """
    to_center = center - rays.origins
    along = (to_center * rays.directions).sum(dim=-1)
    offset = to_center - along[:, None] * rays.directions  # not the difference of squares, which cancels far away
    inside = radius**2 - offset.square().sum(dim=-1)
    miss = (inside <= 0) | (along + inside.clamp_min(0).sqrt() <= 0)
    half = torch.where(miss, torch.ones_like(inside), inside).sqrt()
    near, far = (along - half).clamp_min(0.0), along + half
    return near.masked_fill(miss, torch.inf), far.masked_fill(miss, -torch.inf)
