"""Where a head is: a rotation and a translation between a frame's world and the space of the prior."""

from jaxtyping import Float
from torch import Tensor

from headfields.ops.rigid import rigid_transform
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera, Rays

__all__ = ["head_camera", "head_rays", "world_points"]


def head_rays(rays: Rays, rotation: Float[Tensor, "3"], translation: Float[Tensor, "3"]) -> Rays:
    """Rays of a frame's world in the space of the head: x → R x + t, and what the camera sees of normals there.

    Args:
        rays: N rays in the world, meters.
        rotation: (3,) axis times angle, radians.
        translation: (3,) meters.

    Differentiable to any order.
    """
    turn = rotation_matrices(rotation)
    seen = None if rays.camera_rotation is None else rays.camera_rotation @ turn.T
    return Rays(rays.origins @ turn.T + translation, rays.directions @ turn.T, rays.frame, seen)


def world_points(
    points: Float[Tensor, "n 3"], rotation: Float[Tensor, "3"], translation: Float[Tensor, "3"]
) -> Float[Tensor, "n 3"]:
    """Points (N, 3) of the space of the head in the frame's world: the inverse of what `head_rays` does.

    Args:
        points: meters.
        rotation, translation: of `head_rays`.

    Differentiable to any order.
    """
    return (points - translation) @ rotation_matrices(rotation)


def head_camera(camera: Camera, rotation: Float[Tensor, "3"], translation: Float[Tensor, "3"]) -> Camera:
    """The camera of a frame's world, for what is in the space of the head.

    Args:
        camera: one camera.
        rotation, translation: of `head_rays`.
    """
    turn = rotation_matrices(rotation)
    to_world = rigid_transform(turn.T, -(turn.T @ translation))
    return camera.replace(world_to_camera=camera.world_to_camera @ to_world)
