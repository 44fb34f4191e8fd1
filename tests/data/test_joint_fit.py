"""Joint transforms fitted to posed meshes."""

import math

import pytest
import torch

import headfields as hf
from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.data.joint_fit import fit_joint_transforms
from headfields.ops import linear_blend_skinning
from tests.data.tiny import blob, tiny_frames


def test_joints_of_a_posed_head_are_recovered():
    head = hf.synthetic.procedural_head()
    pose = torch.zeros(3, 5, 3)
    pose[0, 1, 1], pose[1, 2, 0], pose[2, 0, 2] = 0.4, 0.25, 0.3
    state = head(pose=pose)
    canonical = head.template_vertices
    fitted = fit_joint_transforms(canonical, state.vertices, head.weights)
    assert fitted.shape == (3, 5, 4, 4)
    skinned = linear_blend_skinning(canonical.expand(3, -1, -1), head.weights, fitted)
    assert float((skinned - state.vertices).norm(dim=-1).max()) < 4e-3  # correctives, and weights that mix
    assert float((skinned - state.vertices).norm(dim=-1).mean()) < 3e-4
    turn = torch.linalg.matrix_norm(fitted[1, 2, :3, :3] - torch.eye(3)) / math.sqrt(8)  # sin of half the jaw's angle
    assert 2 * math.asin(float(turn)) == pytest.approx(0.25, abs=0.02)


def test_gradients_and_empty_joints():
    torch.manual_seed(0)
    canonical = torch.rand(12, 3, dtype=torch.float64)
    weights = torch.zeros(12, 3, dtype=torch.float64)
    weights[:6, 0] = 1
    weights[6:, 2] = 1
    posed = (canonical + 0.1 * torch.rand(12, 3, dtype=torch.float64))[None].requires_grad_()
    fitted = fit_joint_transforms(canonical, posed, weights)
    whole = fit_joint_transforms(canonical, posed, torch.ones(12, 1, dtype=torch.float64))
    torch.testing.assert_close(fitted[:, 1], whole[:, 0])  # a joint without vertices moves with the whole
    assert torch.autograd.gradcheck(lambda x: fit_joint_transforms(canonical, x, weights), posed)
    assert fit_joint_transforms(canonical, posed[:0], weights).shape == (0, 3, 4, 4)


def test_a_capture_fills_joint_transforms(tmp_path):
    frames, (canonical, faces) = tiny_frames(4), blob()
    write_insta(tmp_path / "c", frames, canonical, faces, 1)
    count = len(canonical)
    capture = load_capture(tmp_path / "c", skinning=torch.full((count, 2), 0.5))
    state = capture.state([2, 0, 2])
    assert state.joint_transforms.shape == (3, 2, 4, 4)
    torch.testing.assert_close(state.joint_transforms[0], state.joint_transforms[2])
    alone = fit_joint_transforms(capture.template.canonical_vertices, state.vertices[:1], capture.skinning)
    torch.testing.assert_close(state.joint_transforms[:1], alone)
    assert capture.state([]).joint_transforms.shape == (0, 2, 4, 4)
    assert load_capture(tmp_path / "c").state([0]).joint_transforms is None


def test_weights_of_another_mesh_are_refused(tmp_path):
    frames, (canonical, faces) = tiny_frames(3), blob()
    write_insta(tmp_path / "c", frames, canonical, faces, 1)
    capture = load_capture(tmp_path / "c", skinning=torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"skinning has shape \(3, 1\); expected"):
        capture.state([0])
