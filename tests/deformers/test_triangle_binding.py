"""Gaussians on triangles: they move, turn and grow with them; points are canonicalized by the same maps."""

import pytest
import torch

from headfields.deformers import TriangleBinding
from headfields.ops.rotations import quaternion_from_rotation, quaternion_product, rotation_from_quaternion
from headfields.records import HeadState, Splats
from tests.shapes import rotation, uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)


def gaussians(count: int = 40, seed: int = 0) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    means, quaternions, scales = (torch.randn(count, n, generator=generator) for n in (3, 4, 3))
    colors = torch.rand(count, 3, generator=generator)
    return Splats(0.1 * means, quaternions, scales.exp() * 0.01, torch.rand(count, generator=generator), colors)


def covariance(splats: Splats) -> torch.Tensor:
    axes = rotation_from_quaternion(splats.quaternions) * splats.scales[..., None, :]
    return axes @ axes.mT


def test_attach_and_rest_are_inverses() -> None:
    binding = TriangleBinding(VERTICES, FACES)
    splats = gaussians()
    attached, face = binding.attach(splats)
    again = binding.rest(attached, face)
    torch.testing.assert_close(again.means, splats.means, atol=1e-6, rtol=0)
    torch.testing.assert_close(covariance(again), covariance(splats), atol=1e-9, rtol=1e-4)
    nearest = TriangleBinding(VERTICES, FACES).attach(splats)[1]
    assert torch.equal(face, nearest) and int(face.min()) >= 0


@pytest.mark.parametrize("follows", ["rotation", "translation"])
def test_without_size_gaussians_keep_their_meters_and_their_place_on_the_surface(follows: str, unchecked: None) -> None:
    binding = TriangleBinding(VERTICES, FACES, follows=follows)
    splats = gaussians()
    attached, face = binding.attach(splats)
    torch.testing.assert_close(binding.rest(attached, face).means, splats.means, atol=1e-6, rtol=0)
    on_surface = (VERTICES[FACES[face]] * attached.barycentric[..., None]).sum(1)
    turn = rotation(3).float()
    stretched = 1.5 * VERTICES @ turn.T
    posed = binding.pose(attached, face, binding.prepare(HeadState(stretched[None])))
    assert torch.equal(posed.scales[0], splats.scales)
    away = posed.means[0] - 1.5 * on_surface @ turn.T
    if follows == "rotation":
        torch.testing.assert_close(away, (splats.means - on_surface) @ turn.T, atol=1e-6, rtol=0)
        torch.testing.assert_close(covariance(posed)[0], turn @ covariance(splats) @ turn.T, atol=1e-9, rtol=1e-3)
    else:
        torch.testing.assert_close(away, splats.means - on_surface, atol=1e-6, rtol=0)
        assert torch.equal(posed.quaternions[0], splats.quaternions)
    with pytest.raises(ValueError, match="have no points of attachment"):
        binding.rest(splats, face)
    with pytest.raises(ValueError, match="follows is 'size'; expected one of similarity, rotation, translation"):
        TriangleBinding(VERTICES, FACES, follows="size")


def test_coordinates_are_those_of_the_paper() -> None:
    """The first edge, the normal and their cross product; sizes are the mean of that edge and the height over it."""
    corners = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0.05, 0.1, 0]])
    binding = TriangleBinding(corners, torch.tensor([[0, 1, 2]]))
    local = Splats(torch.eye(3), torch.eye(4)[[0, 0, 0]], torch.ones(3, 3), torch.ones(3), torch.ones(3, 3))
    rest = binding.rest(local, torch.zeros(3, dtype=torch.long))
    size, center = 0.15, corners.mean(0)
    expected = center + size * torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    torch.testing.assert_close(rest.means, expected)
    torch.testing.assert_close(rest.scales, torch.full((3, 3), size))


@pytest.mark.parametrize("batched", [False, True])
def test_a_similarity_of_the_mesh_is_one_of_the_gaussians(batched: bool) -> None:
    binding = TriangleBinding(VERTICES, FACES)
    splats = gaussians()
    attached, face = binding.attach(splats)
    turns = torch.stack([rotation(seed).float() for seed in range(2)])
    posed = 1.3 * VERTICES @ turns.mT + torch.tensor([[[0.01, 0.02, 0.03]], [[0.0, 0.1, 0.0]]])
    if batched:
        attached = attached.placed(
            *(x.expand(2, *x.shape) for x in (attached.means, attached.quaternions, attached.scales))
        )
    result = binding.pose(attached, face, binding.prepare(HeadState(posed)))
    assert result.means.shape == (2, 40, 3) and result.colors is not None and result.colors.shape == (2, 40, 3)
    expected = 1.3 * splats.means @ turns.mT + torch.tensor([[[0.01, 0.02, 0.03]], [[0.0, 0.1, 0.0]]])
    torch.testing.assert_close(result.means, expected, atol=1e-6, rtol=0)
    turned = 1.69 * turns[:, None] @ covariance(splats) @ turns[:, None].mT
    torch.testing.assert_close(covariance(result), turned, atol=1e-8, rtol=1e-3)


def test_points_go_back_by_the_same_maps() -> None:
    binding = TriangleBinding(VERTICES, FACES)
    turn = rotation(3).float()
    posed = (0.9 * VERTICES @ turn.mT)[None]
    prepared = binding.prepare(HeadState(posed))
    points = VERTICES[FACES].mean(1)[:20] * 1.05
    canonical = binding(0.9 * points @ turn.mT, points @ turn.mT, torch.zeros(20, dtype=torch.long), prepared)
    torch.testing.assert_close(canonical.points, points, atol=1e-6, rtol=0)
    torch.testing.assert_close(canonical.directions, points, atol=1e-6, rtol=0)
    assert bool(canonical.valid.all())


def test_gradients_of_gaussians_and_mesh() -> None:
    corners, faces = VERTICES[FACES[:2]].reshape(-1, 3), torch.arange(6).reshape(2, 3)
    binding = TriangleBinding(corners, faces).double()
    attached, face = binding.attach(gaussians(2).map(lambda x: x.double()))
    inputs = [attached.means, attached.quaternions, attached.scales, corners[None].double()]

    def posed(means: torch.Tensor, quaternions: torch.Tensor, scales: torch.Tensor, vertices: torch.Tensor) -> tuple:
        splats = attached.placed(means, quaternions, scales)
        result = binding.pose(splats, face, binding.prepare(HeadState(vertices)))
        return result.means, covariance(result)

    assert torch.autograd.gradcheck(posed, [x.detach().clone().requires_grad_() for x in inputs], atol=1e-6)


def test_collapsed_triangles_and_no_gaussians() -> None:
    binding = TriangleBinding(VERTICES, FACES)
    attached, face = binding.attach(gaussians(5))
    flat = binding.prepare(HeadState(torch.zeros(1, len(VERTICES), 3)))
    result = binding.pose(attached, face, flat)
    assert all(bool(x.isfinite().all()) for x in (result.means, result.quaternions, result.scales))
    assert bool((result.scales > 0).all())
    none = binding.pose(gaussians(0), face[:0], flat)
    assert none.means.shape == (1, 0, 3)
    with pytest.raises(ValueError, match="TriangleBinding: the state has 3 vertices"):
        binding.prepare(HeadState(torch.zeros(1, 3, 3)))


def test_quaternions_of_rotations() -> None:
    turns = torch.stack([rotation(seed) for seed in range(6)] + [torch.diag(torch.tensor(d)).double() for d in (
        [1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1], [1.0, 1, 1])])  # fmt: skip
    quaternions = quaternion_from_rotation(turns)
    torch.testing.assert_close(rotation_from_quaternion(quaternions), turns)
    torch.testing.assert_close(quaternions.norm(dim=-1), torch.ones(10).double())
    product = quaternion_product(quaternions, quaternions.flip(0))
    torch.testing.assert_close(rotation_from_quaternion(product), turns @ turns.flip(0))
    off = turns[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(quaternion_from_rotation, (off,))
