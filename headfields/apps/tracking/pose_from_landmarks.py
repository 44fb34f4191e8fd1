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
    """The rigid transform to camera space that projects points to given pixels with the least squared error.

    Starts from the best scaled orthographic projection, refined by Levenberg and Marquardt's method.

    Args:
        points: (L, 3) meters.
        pixels: (L, 2) x right, y down.
        camera: only its intrinsics are used.
        visible: (L,) which points count; those with finite pixels if None.
        steps: maximum number of steps.

    Returns:
        (4, 4) from the space of the points to camera space, and the root mean square distance in pixels.

    Raises:
        ValueError: fewer than 6 points count, or they project to one place.

    Source: the start is DeMenthon and Davis 1995 ("POS"), section 3.

    >>> import torch
    >>> from headfields.records import Camera
    >>> from headfields.apps.tracking.pose_from_landmarks import landmark_pose
    >>> intrinsics = torch.tensor([[300.0, 0, 64], [0, 300.0, 64], [0, 0, 1]])
    >>> camera = Camera(torch.eye(4), intrinsics, (128, 128))
    >>> points = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    >>> pixels, _ = camera.project(points + torch.tensor([0.0, 0.0, 2.0]))
    >>> pose, error = landmark_pose(points, pixels, camera)
    >>> pose[:3, 3].round(decimals=3).abs().tolist(), bool(error < 1e-3)
    ([0.0, 0.0, 2.0], True)
    """
    known = torch.isfinite(pixels).all(dim=1) if visible is None else visible & torch.isfinite(pixels).all(dim=1)
    if int(known.sum()) < 6:
        raise ValueError(f"landmark_pose: {int(known.sum())} of {len(points)} points count; at least 6 are needed")
    source, target = points[known].double(), pixels[known].double()
    k = camera.require_pinhole("landmark_pose").intrinsics.reshape(-1, 3, 3)[0].double()
    homogeneous = torch.cat([target, torch.ones_like(target[:, :1])], dim=1)
    image = (homogeneous @ torch.linalg.inv(k).T)[:, :2]
    center, image_center = source.mean(dim=0), image.mean(dim=0)
    affine = torch.linalg.lstsq(source - center, image - image_center).solution.T  # (2, 3): rows of scale · R
    first, second = affine
    scale = 0.5 * (first.norm() + second.norm())
    if not bool(scale > 1e-9):
        raise ValueError("landmark_pose: all points project to one place; the pose is undetermined")
    third = torch.linalg.cross(first, second) / scale
    rotation, _ = nearest_rotation(torch.stack([first, second, third]) / scale)
    depth = 1 / scale
    translation = torch.cat([image_center, image_center.new_ones(1)]) * depth - rotation @ center
    damping = 1e-3
    residual, jacobian = _linearized(source, image, rotation, translation)
    for _ in range(steps):
        normal = jacobian.T @ jacobian
        step = torch.linalg.solve(normal + damping * normal.diagonal().diag(), -(jacobian.T @ residual))
        new_rotation, new_translation = rotation_matrices(step[:3]) @ rotation, translation + step[3:]
        new_residual, new_jacobian = _linearized(source, image, new_rotation, new_translation)
        if bool(torch.isfinite(new_residual).all()) and bool(new_residual.square().sum() <= residual.square().sum()):
            rotation, translation, residual, jacobian = new_rotation, new_translation, new_residual, new_jacobian
            damping = max(damping / 10, 1e-9)
            if float(step.norm()) < 1e-10:
                break
        else:
            damping *= 10
            if damping > 1e9:
                break
    pose = rigid_transform(rotation, translation)
    projected = (source @ rotation.T + translation) @ k.T
    error = (projected[:, :2] / projected[:, 2:] - target).square().sum(dim=1).mean().sqrt()
    return pose.to(points.dtype), error.to(points.dtype)


def _linearized(
    source: Float[Tensor, "l 3"], image: Float[Tensor, "l 2"], rotation: Tensor, translation: Tensor
) -> tuple[Tensor, Tensor]:
    """Residuals (2 L,) in the image plane at distance 1, and their Jacobian (2 L, 6) by rotation and translation."""
    rotated = source @ rotation.T
    x, y, z = (rotated + translation).unbind(dim=1)
    z = z.clamp_min(1e-6)
    residual = torch.stack([x / z, y / z], dim=1) - image
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    by_point = torch.stack(
        [torch.stack([one / z, zero, -x / z**2], dim=1), torch.stack([zero, one / z, -y / z**2], dim=1)], dim=1
    )
    a, b, c = rotated.unbind(dim=1)
    by_rotation = torch.stack([zero, c, -b, -c, zero, a, b, -a, zero], dim=1).unflatten(1, (3, 3))  # -[R x]ₓ
    return residual.flatten(), torch.cat([by_point @ by_rotation, by_point], dim=2).flatten(0, 1)
