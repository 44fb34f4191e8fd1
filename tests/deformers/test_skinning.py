"""Inverse skinning by the nearest triangle: what it undoes, directions, validity, gradients, errors."""

import pytest
import torch
from torch import Tensor

from headfields.deformers import InverseSkinning, jacobian
from headfields.ops.affine import skin_points
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.skinning import joint_transforms
from headfields.records import HeadState
from tests.deformers.skeleton import JOINTS, PARENTS, bend, posed, tube

VERTICES, FACES, WEIGHTS = tube()


def on_surface(count: int = 50) -> tuple[Tensor, Tensor]:
    """Corner ids (count, 3) and barycentric coordinates of points of the mesh."""
    generator = torch.Generator().manual_seed(2)
    face = torch.randint(len(FACES), (count,), generator=generator)
    barycentric = torch.rand(count, 3, generator=generator) + 0.1
    return FACES[face], barycentric / barycentric.sum(-1, keepdim=True)


@pytest.mark.parametrize("expression", [None, torch.tensor([[1.0], [-0.5]])])
def test_posed_vertices_go_to_canonical_ones(expression: Tensor | None) -> None:
    state = posed(bend(), expression)
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS)
    frame = torch.arange(2).repeat_interleave(len(VERTICES))
    points = state.vertices.flatten(0, 1)
    out = deformer(points, points, frame, deformer.prepare(state))
    assert bool(out.valid.all())
    torch.testing.assert_close(out.points, VERTICES.repeat(2, 1), atol=2e-6, rtol=0)


def test_the_surface_goes_to_the_surface_and_what_lies_off_it_follows_the_joints() -> None:
    state = posed(bend(1), torch.tensor([[1.0]]))
    corners, barycentric = on_surface()
    posed_points = interpolate_rows(state.vertices[0], corners, barycentric)
    canonical = interpolate_rows(VERTICES, corners, barycentric)
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS)
    frame = torch.zeros(50, dtype=torch.long)
    out = deformer(posed_points, posed_points, frame, deformer.prepare(state))
    torch.testing.assert_close(out.points, canonical, atol=2e-6, rtol=0)

    a, b, c = (state.vertices[0][corners[:, k]] for k in range(3))
    offset = 0.004 * torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    out = deformer(posed_points + offset, offset / 0.004, frame, deformer.prepare(state))
    face = torch.stack([torch.isin(FACES, row).all(-1).nonzero()[0, 0] for row in corners])
    own = out.face == face  # at a concave edge the foot may be on the neighbor
    assert int(own.sum()) > 30
    assert state.joint_transforms is not None
    weights = interpolate_rows(WEIGHTS, corners, barycentric)
    maps = skin_points(canonical, weights, state.joint_transforms)[1]
    expected = torch.linalg.solve(maps[..., :3], offset[..., None])[..., 0]
    torch.testing.assert_close(out.points[own], (canonical + expected)[own], atol=3e-6, rtol=0)
    turned = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(out.directions[own], turned[own], atol=1e-5, rtol=0)


def test_a_rigid_motion_is_undone_directions_too() -> None:
    pose = torch.zeros(1, 3, 3)
    pose[0, 0] = torch.tensor([0.3, -0.8, 0.5])
    state = posed(pose)
    assert state.joint_transforms is not None
    turn, shift = state.joint_transforms[0, 0, :3, :3], state.joint_transforms[0, 0, :3, 3]
    generator = torch.Generator().manual_seed(0)
    points = VERTICES + 0.01 * torch.randn(VERTICES.shape, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(VERTICES.shape, generator=generator), dim=-1)
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS)
    frame = torch.zeros(len(points), dtype=torch.long)
    out = deformer(points @ turn.T + shift, directions @ turn.T, frame, deformer.prepare(state))
    torch.testing.assert_close(out.points, points, atol=2e-6, rtol=0)
    torch.testing.assert_close(out.directions, directions, atol=1e-5, rtol=0)
    _, slope = jacobian(deformer, points @ turn.T + shift, frame, deformer.prepare(state))
    torch.testing.assert_close(slope, turn.T.expand_as(slope), atol=1e-4, rtol=0)


def test_a_canonical_pose_that_is_not_the_rest_pose() -> None:
    pose = torch.zeros(1, 3, 3)
    pose[0, 2, 0] = 0.4
    opened = joint_transforms(pose, JOINTS[None], PARENTS)[0]
    canonical = posed(pose).vertices[0]
    deformer = InverseSkinning(canonical, FACES, WEIGHTS, canonical_transforms=opened)
    state = posed(bend())
    frame = torch.arange(2).repeat_interleave(len(VERTICES))
    points = state.vertices.flatten(0, 1)
    out = deformer(points, points, frame, deformer.prepare(state))
    torch.testing.assert_close(out.points, canonical.repeat(2, 1), atol=2e-6, rtol=0)
    still = deformer(canonical, canonical, frame[: len(canonical)], deformer.prepare(posed(pose)))
    torch.testing.assert_close(still.points, canonical, atol=2e-6, rtol=0)
    assert float((deformer.prepare(posed(pose)).transforms - torch.eye(4)).abs().max()) < 1e-6


def test_far_points_and_singular_blends_are_not_valid() -> None:
    state = posed(torch.zeros(1, 3, 3))
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS, shell=0.02)
    far = torch.tensor([[0.5, 0.0, 0.0], [0.055, 0.0, 0.0], [float("nan"), 0, 0]])
    frame = torch.zeros(3, dtype=torch.long)
    out = deformer(far, far, frame, deformer.prepare(state))
    assert out.valid.tolist() == [False, True, False]
    assert state.joint_transforms is not None
    flat = state.joint_transforms * torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None]
    out = deformer(far[1:2], far[1:2], frame[:1], deformer.prepare(state.replace(joint_transforms=flat)))
    assert out.valid.tolist() == [False] and bool(out.points.isfinite().all()) and bool(out.directions.isfinite().all())


def test_derivatives() -> None:
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS).double()
    with torch.no_grad():
        start = posed(bend(), torch.tensor([[1.0], [-0.5]]), torch.float64)
    assert start.joint_transforms is not None
    generator = torch.Generator().manual_seed(1)
    points = start.vertices[[0, 0, 1, 1], [33, 40, 61, 72]] + 0.004 * torch.randn(4, 3, generator=generator).double()
    directions = torch.nn.functional.normalize(torch.randn(4, 3, generator=generator).double(), dim=-1)
    frame = torch.tensor([0, 0, 1, 1])

    def function(points: Tensor, directions: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
        state = start.replace(joint_transforms=transforms)
        out = deformer(points, directions, frame, deformer.prepare(state))
        return out.points, out.directions

    leaves = [x.clone().requires_grad_() for x in (points, directions, start.joint_transforms)]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-6)
    assert torch.autograd.gradgradcheck(
        lambda *two: function(*two, start.joint_transforms), leaves[:2], atol=1e-5, fast_mode=True
    )


def test_no_points_keep_a_gradient() -> None:
    state = posed(bend())
    assert state.joint_transforms is not None
    transforms = state.joint_transforms.clone().requires_grad_()
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS)
    empty = torch.zeros(0, 3)
    prepared = deformer.prepare(state.replace(joint_transforms=transforms))
    out = deformer(empty, empty, torch.zeros(0, dtype=torch.long), prepared)
    out.points.sum().backward()
    assert transforms.grad is not None and not bool(transforms.grad.any())


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"weights has shape \(4, 3\).*one row"):
        InverseSkinning(VERTICES, FACES, WEIGHTS[:4])
    with pytest.raises(ValueError, match="sum to 1"):
        InverseSkinning(VERTICES, FACES, 2 * WEIGHTS)
    with pytest.raises(ValueError, match=r"canonical_transforms has shape \(2, 4, 4\)"):
        InverseSkinning(VERTICES, FACES, WEIGHTS, canonical_transforms=torch.eye(4).repeat(2, 1, 1))
    deformer = InverseSkinning(VERTICES, FACES, WEIGHTS)
    with pytest.raises(ValueError, match="InverseSkinning needs 'joint_transforms'"):
        deformer.prepare(HeadState(vertices=VERTICES[None]))
    with pytest.raises(ValueError, match="state has 2 joints and the skinning weights 3"):
        deformer.prepare(HeadState(vertices=VERTICES[None], joint_transforms=torch.eye(4).repeat(1, 2, 1, 1)))
