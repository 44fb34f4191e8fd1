"""Rigs of heads and captures, and motions fitted to them."""

import copy
import json

import pytest
import torch

import headfields as hf
from headfields.apps.export import rig_of_head
from headfields.apps.export.arkit import ARKIT_NAMES, arkit_rig, read_mapping
from headfields.apps.export.captures import fit_motion
from headfields.apps.export.heads import motion_of_head
from headfields.apps.export.rigged_mesh import RigMotion
from headfields.records import HeadState


def rms(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).square().sum(-1).mean().sqrt())


@pytest.fixture(scope="module")
def frames(head) -> HeadState:
    generator = torch.Generator().manual_seed(2)
    expression = torch.zeros(5, head.expression_count)
    expression[:, :6] = 0.6 * torch.rand(5, 6, generator=generator)
    pose = 0.2 * torch.randn(5, 5, 3, generator=generator)
    return head(expression=expression, pose=pose)


def test_a_head_model_without_correctives_is_exact(head, frames):
    rig = rig_of_head(head)
    motion, error = motion_of_head(head, frames)
    assert float(error.max()) < 1e-5
    # what glTF cannot hold are the pose correctives: without them the rig is the head, vertex for vertex
    bare = copy.deepcopy(head)
    bare.pose_basis.zero_()
    expected = bare(expression=frames.expression, pose=frames.pose).vertices
    assert (rig.posed(motion) - expected).abs().max() < 1e-5
    assert rms(rig.posed(motion), frames.vertices) < 2e-3
    assert rig.joint_names == ("root", "neck", "jaw", "left_eye", "right_eye") and rig.parents[0] == -1


def test_a_head_that_is_carried_elsewhere(head, frames):
    turn = hf.ops.rotation_matrices(torch.tensor([0.1, 2.0, -0.3]))
    moved = frames.replace(vertices=frames.vertices @ turn.T + torch.tensor([0.1, 0.2, 0.3]))
    motion, error = motion_of_head(head, moved)
    assert float(error.max()) < 1e-5
    assert rms(rig_of_head(head).posed(motion), moved.vertices) < 2e-3
    with pytest.raises(ValueError, match="of another head"):
        motion_of_head(head, frames.replace(vertices=frames.vertices[:, :100]))
    with pytest.raises(ValueError, match="'pose'"):
        motion_of_head(head, frames.replace(pose=None))


def test_blendshape_heads():
    generator = torch.Generator().manual_seed(0)
    template = torch.rand(6, 3, generator=generator)
    head = hf.heads.BlendshapeHead(
        template, torch.tensor([[0, 1, 2], [3, 4, 5]]), 0.1 * torch.rand(2, 6, 3, generator=generator),
        expression_names=("jawOpen", "mouthSmileLeft"),
    )  # fmt: skip
    state = head(expression=torch.tensor([[0.2, 0.7], [1.0, 0.1]]), rotation=torch.tensor([[0.0, 0.4, 0], [0.3, 0, 0]]))
    rig = rig_of_head(head)
    motion, error = motion_of_head(head, state)
    assert float(error.max()) < 1e-6 and rms(rig.posed(motion), state.vertices) < 1e-6
    assert rig.target_names == head.expression_names and rig.joint_names == ("head",)
    named = arkit_rig(rig, {})
    assert named.target_names == ARKIT_NAMES
    assert torch.allclose(named.targets[ARKIT_NAMES.index("jawOpen")], head.expression_basis[0], atol=1e-7)
    assert not named.targets[ARKIT_NAMES.index("tongueOut")].any()


def test_motions_are_fitted_to_meshes(rig, motion):
    calm = RigMotion(
        motion.times, motion.target_weights, motion.joint_transforms[:, :1].expand(-1, len(rig.joints), -1, -1)
    )
    meshes = rig.posed(calm)
    fitted, error = fit_motion(rig, meshes, fps=25)
    assert float(error.max()) < 2e-4 and rms(rig.posed(fitted), meshes) == pytest.approx(
        float(error.square().mean().sqrt()), rel=1e-3
    )
    none, left = fit_motion(rig, meshes[:0])
    assert len(none) == 0 and left.shape == (0,)
    with pytest.raises(ValueError, match=r"expected \(T, "):
        fit_motion(rig, meshes[:, :-1])


def test_there_are_52_names_of_arkit():
    assert len(ARKIT_NAMES) == len(set(ARKIT_NAMES)) == 52


def test_a_mapping_to_arkit(head, tmp_path):
    rig = rig_of_head(head)
    first = rig.target_names[0]
    path = tmp_path / "arkit.json"
    path.write_text(json.dumps({"jawOpen": {"pose:jaw": [0.3, 0, 0]}, "mouthSmileLeft": {first: 0.5}}))
    made = arkit_rig(rig, read_mapping(path))
    assert torch.allclose(made.targets[ARKIT_NAMES.index("mouthSmileLeft")], 0.5 * rig.targets[0], atol=1e-6)
    opened = made.targets[ARKIT_NAMES.index("jawOpen")]
    chin = rig.weights[:, 2] > 0.9
    assert opened[chin, 1].mean() < -0.005 and not opened[rig.weights[:, 2] == 0].abs().gt(1e-6).any()
    for mapping, reason in (
        ({"jawOpn": {}}, "jawOpn, which ARKit has not"),
        ({"jawOpen": {"nothing": 1.0}}, "no target nothing"),
        ({"jawOpen": {"pose:chin": [0.1, 0, 0]}}, "no joint chin; it has root"),
        ({"jawOpen": {"pose:jaw": 0.3}}, "expected three finite numbers"),
        ({"jawOpen": {first: "much"}}, "expected a finite number"),
        ({"jawOpen": {first: float("nan")}}, "expected a finite number"),
    ):
        with pytest.raises(ValueError, match=reason):
            arkit_rig(rig, mapping)
    for text, reason in (("{", "is no JSON"), ("[1]", "object of objects"), ('{"jawOpen": 1}', "object of objects")):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_mapping(path)
    with pytest.raises(FileNotFoundError):
        read_mapping(tmp_path / "none.json")


def test_names_of_smplx_joints():
    pytest.importorskip("smplx", reason="smplx is not installed")
    from smplx.joint_names import JOINT_NAMES

    from headfields.apps.export.heads import SMPLX_JOINTS

    names = [name.replace("_smplhf", "") for name in JOINT_NAMES[:55]]
    assert list(SMPLX_JOINTS) == names
