"""The rigid head pose: transforms of cameras, rays and points between a frame's world space and head space.

Head space is the space of the prior.
"""

from jaxtyping import Float
from torch import Tensor

from headfields.ops.rigid import rigid_transform
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera, Rays

__all__ = ["head_camera", "head_rays", "world_points"]


def head_rays(rays: Rays, rotation: Float[Tensor, "3"], translation: Float[Tensor, "3"]) -> Rays:
    """Transforms rays from world to head space, x → R x + t; `camera_rotation` is updated too.

    Args:
        rays: N rays in world space, meters.
        rotation: (3,) axis-angle, radians.
        translation: (3,) meters.

    Differentiable to any order.
    """
    matrix = rotation_matrices(rotation)
    camera_rotation = None if rays.camera_rotation is None else rays.camera_rotation @ matrix.T
    return Rays(rays.origins @ matrix.T + translation, rays.directions @ matrix.T, rays.frame, camera_rotation)


def world_points(
    points: Float[Tensor, "n 3"], rotation: Float[Tensor, "3"], translation: Float[Tensor, "3"]
) -> Float[Tensor, "n 3"]:
    """Transforms points (N, 3) from head to world space: the inverse of `head_rays`.

    Args:
        points: (N, 3) in head space, meters.
        rotation, translation: head pose, as for `head_rays`.

    Differentiable to any order.

    >>> import math, torch
    >>> from headfields.apps.tracking.prior.pose import world_points
    >>> quarter = torch.tensor([0.0, 0.0, math.pi / 2])
    >>> x, y, z = world_points(torch.tensor([[0.0, 1.0, 0.5]]), quarter, torch.tensor([0.0, 0.0, 0.5]))[0].tolist()
    >>> round(x, 3), abs(round(y, 3)), z
    (1.0, 0.0, 0.0)
    """
    return (points - translation) @ rotation_matrices(rotation)


def head_camera(camera: Camera, rotation: Float[Tensor, "3"], translation: Float[Tensor, "3"]) -> Camera:
    """Transforms a camera from world to head space.

    Args:
        camera: one camera.
        rotation, translation: head pose, as for `head_rays`.
    """
    matrix = rotation_matrices(rotation)
    to_world = rigid_transform(matrix.T, -(matrix.T @ translation))
    return camera.replace(world_to_camera=camera.world_to_camera @ to_world)
