"""Head poses: transforms of rays and points and their inverses; poses from landmarks."""

import pytest
import torch

from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.prior.pose import head_camera, head_rays, world_points
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.records import Camera
from tests.tables import table


def camera() -> Camera:
    intrinsics = torch.tensor([[300.0, 0, 100], [0, 310.0, 90], [0, 0, 1]])
    return Camera(torch.eye(4), intrinsics, (180, 200))


def posed(rotation: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation_matrices(rotation), translation
    return matrix


def test_points_rays_and_camera_agree() -> None:
    view = camera().replace(world_to_camera=posed(torch.tensor([0.2, -0.3, 0.1]), torch.tensor([0.02, 0.01, 0.7])))
    rotation, translation = torch.tensor([0.3, 0.2, -0.4]), torch.tensor([0.01, -0.02, 0.03])
    points = torch.randn(7, 3) * 0.05
    world = world_points(points, rotation, translation)
    torch.testing.assert_close(world @ rotation_matrices(rotation).T + translation, points)
    seen = head_camera(view, rotation, translation)
    torch.testing.assert_close(seen.project(points)[0], view.project(world)[0], rtol=1e-4, atol=1e-3)
    rays, expected = head_rays(view.rays(), rotation, translation), seen.rays()
    torch.testing.assert_close(rays.origins, expected.origins, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rays.directions, expected.directions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rays.camera_rotation, expected.camera_rotation, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_pose() -> None:
    points = torch.randn(4, 3, dtype=torch.float64)
    inputs = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda r, t: world_points(points, r, t), inputs)


@table("seed", range(6))
def test_landmarks_tell_the_pose(seed: int) -> None:
    torch.manual_seed(seed)
    points = torch.randn(30, 3) * 0.05
    true = posed(torch.randn(3), torch.tensor([0.03, -0.02, 0.8]))
    pixels = camera().replace(world_to_camera=true).project(points)[0]
    pixels[5] = torch.nan
    found, error = landmark_pose(points, pixels, camera())
    assert float(error) < 1e-3
    assert float((found[:3, 3] - true[:3, 3]).norm()) < 1e-4
    assert float(axis_angle(found[:3, :3] @ true[:3, :3].T).norm()) < 1e-3


def test_noise_moves_the_pose_little() -> None:
    points = torch.randn(68, 3) * 0.05
    true = posed(torch.tensor([2.8, 0.3, -0.2]), torch.tensor([0.0, 0.0, 0.9]))
    pixels = camera().replace(world_to_camera=true).project(points)[0] + 0.5 * torch.randn(68, 2)
    found, error = landmark_pose(points, pixels, camera())
    assert 0.3 < float(error) < 1.0
    assert float(axis_angle(found[:3, :3] @ true[:3, :3].T).norm()) < 0.02


def test_too_few_landmarks() -> None:
    with pytest.raises(ValueError, match="5 of 5 points count; at least 6"):
        landmark_pose(torch.randn(5, 3), torch.randn(5, 2), camera())
    with pytest.raises(ValueError, match="to one place"):
        landmark_pose(torch.randn(9, 3), torch.full((9, 2), 30.0), camera())
