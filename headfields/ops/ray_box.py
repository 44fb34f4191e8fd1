"""Intersection of rays with a box (slab method) or a sphere: near and far distances."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_record, check_same_device, check_shape
from headfields.records import Rays

__all__ = ["ray_box", "ray_sphere"]


def ray_box(rays: Rays, box: Float[Tensor, "2 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distances at which rays enter (at least 0) and leave a box; (0, 0), an empty interval, where they miss it.

    Args:
        rays: N rays in the frame of the box; a component of a direction below 1e-12 counts as 1e-12.
        box: (2, 3) minimum and maximum corners, meters.

    Returns:
        Near and far, (N,) each, meters, and finite: near < far, or both 0 for a miss and for a ray that is not finite.
        Differentiable in rays and box to any order, except where the face changes.

    Raises:
        TypeError, ValueError: an argument is something else, or of another shape, dtype or device.

    Source: the slab method (Kay and Kajiya 1986, "Ray tracing complex scenes").

    >>> import torch, headfields as hf
    >>> origins, directions = torch.tensor([[0.0, 0, -3], [5, 0, -3]]), torch.tensor([[0.0, 0, 1]]).expand(2, 3)
    >>> rays = hf.Rays(origins, directions, torch.zeros(2, dtype=torch.long))  # the second one misses
    >>> near, far = hf.ops.ray_box(rays, torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    >>> near.tolist(), far.tolist()
    ([2.0, 0.0], [4.0, 0.0])
    """
    check_record("ray_box", "rays", rays, Rays)
    check_floating("ray_box", "box", box)
    check_shape("ray_box", "box", box, "2 3")
    check_same_device("ray_box", rays=rays.origins, box=box)
    origins, directions, sound = _finite(rays)
    slope = 1.0 / torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    ends = (box[:, None] - origins) * slope
    near = ends.amin(dim=0).amax(dim=-1).clamp_min(0.0)
    far = ends.amax(dim=0).amin(dim=-1)
    miss = ~(near < far) | ~sound
    return near.masked_fill(miss, 0.0), far.masked_fill(miss, 0.0)


def ray_sphere(
    rays: Rays, center: Float[Tensor, "3"], radius: float | int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distances at which rays enter (at least 0) and leave a sphere; (0, 0), an empty interval, where they miss it.

    Args:
        rays: N rays with unit directions.
        center: (3,) of the sphere, meters.
        radius: meters.

    Returns:
        Near and far, (N,) each, meters, and finite: near < far, or both 0 for a miss and for a ray that is not finite.
        Differentiable in rays and center to any order.
    """
    origins, directions, sound = _finite(rays)
    to_center = center - origins
    along = (to_center * directions).sum(dim=-1)
    offset = to_center - along[:, None] * directions  # not the difference of squares, which cancels far away
    inside = radius**2 - offset.square().sum(dim=-1)
    miss = ~((inside > 0) & (along + inside.clamp_min(0).sqrt() > 0)) | ~sound
    half = torch.where(miss, torch.ones_like(inside), inside).sqrt()
    near, far = (along - half).clamp_min(0.0), along + half
    return near.masked_fill(miss, 0.0), far.masked_fill(miss, 0.0)


def _finite(rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """Origins and directions with numbers in place of those that are not finite, and which rays are, (N,)."""
    sound = (rays.origins.isfinite() & rays.directions.isfinite()).all(dim=-1)
    origins = torch.where(sound[:, None], rays.origins, 0.0)
    return origins, torch.where(sound[:, None], rays.directions, 1.0), sound
