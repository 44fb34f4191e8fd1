"""Gaussians embedded by barycentric coordinates and height: they follow the surface smoothly, and walk over it."""

import torch

from headfields.deformers import Chain, EmbeddedBinding, InverseSkinning, TriangleBinding
from headfields.records import HeadState
from tests.deformers.test_triangle_binding import FACES, VERTICES, covariance, gaussians
from tests.shapes import rotation


def near_surface(count: int = 40) -> object:
    splats = gaussians(count)
    directions = torch.nn.functional.normalize(splats.means, dim=-1)
    return splats.replace(means=directions * torch.linspace(0.095, 0.11, count)[:, None])


def test_attach_and_rest_are_inverses() -> None:
    binding, splats = EmbeddedBinding(VERTICES, FACES), near_surface()
    attached, face = binding.attach(splats)
    torch.testing.assert_close(binding.rest(attached, face).means, splats.means, atol=2e-4, rtol=0)
    assert float(attached.means[:, :2].abs().max()) < 2, "barycentric coordinates near the triangle"


def test_a_similarity_of_the_mesh_is_one_of_the_gaussians() -> None:
    binding, splats = EmbeddedBinding(VERTICES, FACES), near_surface()
    attached, face = binding.attach(splats)
    rest = binding.rest(attached, face)
    turn, shift = rotation(1).float(), torch.tensor([0.01, 0.02, 0.03])
    posed = binding.pose(attached, face, binding.prepare(HeadState((VERTICES @ turn.mT + shift)[None])))
    torch.testing.assert_close(posed.means[0], rest.means @ turn.mT + shift, atol=1e-6, rtol=0)
    torch.testing.assert_close(covariance(posed)[0], turn @ covariance(rest) @ turn.mT, atol=1e-8, rtol=1e-3)
    larger = binding.pose(attached, face, binding.prepare(HeadState(2 * VERTICES[None])))
    torch.testing.assert_close(larger.scales[0], 2 * rest.scales, rtol=1e-3, atol=0)


def test_walking_changes_the_triangle_and_not_the_place() -> None:
    binding, splats = EmbeddedBinding(VERTICES, FACES), near_surface()
    attached, face = binding.attach(
        splats.replace(means=splats.means / splats.means.norm(dim=-1, keepdim=True) * 0.097)
    )
    moved = attached.means.clone()
    moved[:, 0] += 0.4
    moved[:, 2] = 0
    walked, there = binding.walk(moved, face)
    assert int((there != face).sum()) > 10
    share = torch.cat([1 - walked[:, :1] - walked[:, 1:2], walked[:, :2]], dim=-1)
    assert float(share.min()) > -1e-4
    before = binding.rest(attached.replace(means=moved), face).means
    after = binding.rest(attached.replace(means=walked), there).means
    assert float((before - after).norm(dim=-1).median()) < 0.004, "off by the angle between the triangles' planes alone"
    inside = (face == there) & (moved[:, :2].sum(-1) < 1)
    assert torch.equal(moved[inside], walked[inside])
    edge = EmbeddedBinding(torch.eye(3) * 0.1, torch.tensor([[0, 1, 2]]))  # a border all around
    kept, same = edge.walk(torch.tensor([[1.5, 0.2, 0.3]]), torch.tensor([0]))
    torch.testing.assert_close(kept, torch.tensor([[1.5 / 1.7, 0.2 / 1.7, 0.3]]))
    assert same.tolist() == [0]


def test_points_go_back() -> None:
    binding = EmbeddedBinding(VERTICES, FACES)
    turn = rotation(3).float()
    points = VERTICES[FACES].mean(1)[:20] * 1.05
    prepared = binding.prepare(HeadState((VERTICES @ turn.mT)[None]))
    canonical = binding(points @ turn.mT, points @ turn.mT, torch.zeros(20, dtype=torch.long), prepared)
    torch.testing.assert_close(canonical.points, points, atol=1e-6, rtol=0)
    torch.testing.assert_close(canonical.directions, points, atol=1e-6, rtol=0)


def test_skinning_poses_the_surface_exactly_and_chains_pose_in_reverse() -> None:
    weights = torch.stack([VERTICES[:, 1] * 5 + 0.5, 0.5 - VERTICES[:, 1] * 5], dim=-1)
    joints = torch.eye(4).repeat(1, 2, 1, 1)
    joints[0, 1, :3, :3], joints[0, 1, :3, 3] = rotation(2).float(), torch.tensor([0.0, 0.05, 0.0])
    posed = torch.einsum(
        "vj,jab,vb->va", weights, joints[0, :, :3], torch.nn.functional.pad(VERTICES, (0, 1), value=1.0)
    )
    state = HeadState(posed[None], joint_transforms=joints)
    skinning = InverseSkinning(VERTICES, FACES, weights)
    splats = gaussians(len(VERTICES)).replace(means=VERTICES.clone())
    attached, face = skinning.attach(splats)
    result = skinning.pose(attached, face, skinning.prepare(state))
    torch.testing.assert_close(result.means[0], posed, atol=1e-5, rtol=0)
    top = VERTICES[:, 1] > 0.099  # one joint alone: exactly its rotation
    torch.testing.assert_close(covariance(result)[0, top], covariance(splats)[top], atol=1e-7, rtol=1e-2)
    chain = Chain(TriangleBinding(VERTICES, FACES), InverseSkinning(VERTICES, FACES, weights))
    at_rest = HeadState(VERTICES[None], joint_transforms=torch.eye(4).repeat(1, 2, 1, 1))
    local, own = chain.attach(splats)
    torch.testing.assert_close(chain.pose(local, own, chain.prepare(at_rest)).means[0], VERTICES, atol=1e-6, rtol=0)
