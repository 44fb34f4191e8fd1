"""Rigid pose of points from their pixels in one image (perspective-n-point)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops.rigid import nearest_rotation, rigid_transform
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera

__all__ = ["landmark_pose"]


def landmark_pose(
    points: Float[Tensor, "l 3"],
    pixels: Float[Tensor, "l 2"],
    camera: Camera,
    visible: Bool[Tensor, " l"] | None = None,
    steps: int = 50,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, ""]]:
    """The rigid motion of points in front of a camera under which they are seen at given pixels.

    Starts from the scaled orthographic projection that fits best and goes on by Levenberg and Marquardt's method.

    Args:
        points: (L, 3) meters.
        pixels: (L, 2) x right, y down.
        camera: whose intrinsics count; where it stands does not.
        visible: (L,) which of them count; all that are finite if None.
        steps: at most.

    Returns:
        (4, 4) from the space of the points to the camera's, and the root of the mean squared distance in pixels.

    Raises:
        ValueError: fewer than 6 points count, or they lie in a plane that is seen edge on.

    Source: the start is DeMenthon and Davis 1995 ("POS"), section 3.
    """
    here = torch.isfinite(pixels).all(dim=1) if visible is None else visible & torch.isfinite(pixels).all(dim=1)
    if int(here.sum()) < 6:
        raise ValueError(f"landmark_pose: {int(here.sum())} points of {len(points)} are there; at least 6 are needed")
    source, target = points[here].double(), pixels[here].double()
    k = camera.intrinsics.reshape(-1, 3, 3)[0].double()
    homogeneous = torch.cat([target, torch.ones_like(target[:, :1])], dim=1)
    image = (homogeneous @ torch.linalg.inv(k).T)[:, :2]
    middle, seen = source.mean(dim=0), image.mean(dim=0)
    affine = torch.linalg.lstsq(source - middle, image - seen).solution.T  # (2, 3): rows of scale · R
    first, second = affine
    scale = 0.5 * (first.norm() + second.norm())
    if not bool(scale > 1e-9):
        raise ValueError("landmark_pose: the points are seen at one place; no pose can be found")
    third = torch.linalg.cross(first, second) / scale
    rotation, _ = nearest_rotation(torch.stack([first, second, third]) / scale)
    depth = 1 / scale
    translation = torch.cat([seen, seen.new_ones(1)]) * depth - rotation @ middle
    damping = 1e-3
    residual, jacobian = _linearized(source, image, rotation, translation)
    for _ in range(steps):
        normal = jacobian.T @ jacobian
        step = torch.linalg.solve(normal + damping * normal.diagonal().diag(), -(jacobian.T @ residual))
        turned, moved = rotation_matrices(step[:3]) @ rotation, translation + step[3:]
        other, slopes = _linearized(source, image, turned, moved)
        if bool(torch.isfinite(other).all()) and bool(other.square().sum() <= residual.square().sum()):
            rotation, translation, residual, jacobian = turned, moved, other, slopes
            damping = max(damping / 10, 1e-9)
            if float(step.norm()) < 1e-10:
                break
        else:
            damping *= 10
            if damping > 1e9:
                break
    pose = rigid_transform(rotation, translation)
    local = source @ rotation.T + translation
    seen_at = local @ k.T
    error = (seen_at[:, :2] / seen_at[:, 2:] - target).square().sum(dim=1).mean().sqrt()
    return pose.to(points.dtype), error.to(points.dtype)


def _linearized(source: Tensor, image: Tensor, rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
    """Differences (2 L,) in the image plane at distance 1, and their derivatives (2 L, 6) by a turn and a shift."""
    turned = source @ rotation.T
    x, y, z = (turned + translation).unbind(dim=1)
    z = z.clamp_min(1e-6)
    residual = torch.stack([x / z, y / z], dim=1) - image
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    by_point = torch.stack(
        [torch.stack([one / z, zero, -x / z**2], dim=1), torch.stack([zero, one / z, -y / z**2], dim=1)], dim=1
    )
    a, b, c = turned.unbind(dim=1)
    by_turn = torch.stack([zero, c, -b, -c, zero, a, b, -a, zero], dim=1).unflatten(1, (3, 3))  # -[R x]ₓ
    return residual.flatten(), torch.cat([by_point @ by_turn, by_point], dim=2).flatten(0, 1)
