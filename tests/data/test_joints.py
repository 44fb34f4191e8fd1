"""Rotations and transforms of joints: written, read, saved, joined, in the head's frame, and used by avatars."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.cli.motion import _interpolated
from headfields.data import Capture, CaptureError, capture_from_arrays, load_capture, save_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.heads.flame.model import FlameHead
from headfields.mesh.mesh import Mesh
from headfields.records import Camera
from headfields.synthetic.captures import write_head_capture
from headfields.training import Trainer, evaluate
from headfields.training.refinement import refine_frame
from tests.data.compare import differences, snapshot
from tests.data.formats.test_insta import edit
from tests.data.moving import put_pose_into_vertices
from tests.data.test_arrays import FRAMES
from tests.data.tiny import blob

COUNT = 4
SMALL: dict[str, Any] = {"levels": 2, "log2_table_size": 8, "finest_resolution": 16, "grid_resolution": 8, "step": 0.02}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joints") / "head"
    return write_head_capture(out, COUNT, test_frames=1, size=24, samples=1, rate=1.0, progress=False)


@pytest.fixture(scope="module")
def capture(folder: Path) -> Capture:
    return load_capture(folder)


def test_joints_pose_the_canonical_mesh_as_the_meshes_are(capture: Capture, head: FlameHead) -> None:
    """Where expression is subtracted, the canonical mesh skinned by the transforms is the mesh."""
    state = capture.state(slice(0, COUNT))
    assert state.pose.shape == (COUNT, 5, 3) and state.joint_transforms.shape == (COUNT, 5, 4, 4)
    bare = head(pose=state.pose)
    canonical = capture.template.canonical_vertices
    skinned = hf.ops.linear_blend_skinning(canonical.expand(COUNT, -1, -1), head.weights, head.from_template(bare))
    assert float((skinned - bare.vertices).norm(dim=-1).mean()) < 5e-4, "pose correctives, and weights that mix"
    assert float((canonical - bare.vertices).norm(dim=-1).mean()) > 1e-3, "the canonical jaw is open"
    angle = 2 * np.arcsin(
        np.linalg.norm(state.joint_transforms[:, 2, :3, :3].numpy() - np.eye(3), axis=(1, 2)) / 8**0.5
    )
    opened = state.pose[:, 2, 0].numpy() - np.radians(12)
    np.testing.assert_allclose(angle, np.abs(opened), atol=1e-4)


def test_they_are_saved_and_joined(capture: Capture, folder: Path, tmp_path: Path, unchecked: None) -> None:
    save_capture(capture, tmp_path / "again")
    again = load_capture(tmp_path / "again")
    assert differences(snapshot(capture), snapshot(again)) == []
    assert torch.equal(again.state(2).joint_transforms, capture.state(2).joint_transforms)
    joined = hf.data.JoinedCaptures([capture, again])
    assert torch.equal(joined.state([COUNT + 1]).pose, capture.state(1).pose)
    assert joined.state([]).pose.shape == (0, 5, 3)
    edit(tmp_path / "again", lambda content: [f.pop("pose_path") for f in content["frames"]])
    mixed = hf.data.JoinedCaptures([capture, load_capture(tmp_path / "again")])
    assert mixed.state([0, COUNT]).pose is None and mixed.state([0, COUNT]).joint_transforms is not None
    assert mixed.state([]).pose is None


def test_they_move_with_the_head_frame(capture: Capture, tmp_path: Path) -> None:
    moving = load_capture(put_pose_into_vertices(capture, tmp_path / "moving"))
    assert moving.head_frame is not None
    state, still = moving.state(slice(0, COUNT)), capture.state(slice(0, COUNT))
    relative = torch.linalg.inv(state.joint_transforms[:, :1]) @ state.joint_transforms
    expected = torch.linalg.inv(still.joint_transforms[:, :1]) @ still.joint_transforms
    torch.testing.assert_close(relative, expected, atol=2e-5, rtol=0)
    skull = state.vertices - still.vertices  # both heads stand still, in frames that differ by the fit of the skull
    points = capture.template.canonical_vertices.expand(COUNT, -1, -1)
    weights = torch.zeros(points.shape[1], 5)
    weights[:, 1] = 1
    moved = [hf.ops.linear_blend_skinning(points, weights, each.joint_transforms) for each in (state, still)]
    torch.testing.assert_close(moved[0] - moved[1], skull, atol=2e-3, rtol=0)


def arrays(**changes: Any) -> dict[str, Any]:
    transforms = torch.eye(4).repeat(len(FRAMES), 5, 1, 1)
    transforms[:, 1, 0, 3] = torch.arange(len(FRAMES)) / 100
    return {
        "images": np.stack([frame.image for frame in FRAMES]),
        "cameras": Camera.stack([frame.camera for frame in FRAMES]),
        "vertices": torch.stack([frame.vertices for frame in FRAMES]),
        "canonical": Mesh(*blob()),
        "pose": torch.rand(len(FRAMES), 5, 3, generator=torch.Generator().manual_seed(0)),
        "joint_transforms": transforms,
        **changes,
    }


def test_from_arrays(tmp_path: Path, unchecked: None) -> None:
    given = arrays()
    capture = capture_from_arrays(**given)
    state = capture.state([4, 1])
    assert torch.equal(state.pose, given["pose"][[4, 1]])
    assert torch.equal(state.joint_transforms, given["joint_transforms"][[4, 1]])
    save_capture(capture, tmp_path / "saved")
    assert differences(snapshot(capture), snapshot(load_capture(tmp_path / "saved"))) == []
    for change, message in (
        ({"pose": given["pose"][:2]}, "pose has 2 frames, and images has 6"),
        ({"pose": [*given["pose"][:5], given["pose"][5, :3]]}, r"pose has shape \(3, 3\) .* expected \(5, 3\)"),
        ({"pose": given["pose"][:, :3]}, "poses of 3 joints and joint transforms of 5 joints; expected those of one"),
        ({"joint_transforms": 2 * given["joint_transforms"]}, "joint_transforms holds a matrix that is not rigid"),
        ({"joint_transforms": given["joint_transforms"][..., :3, :]}, r"has shape \(5, 3, 4\) .*expected \(J, 4, 4\)"),
        ({"pose": [None] * 6}, "frame 00000: pose is None; pass a value for every frame, or pose=None"),
        ({"pose": [*given["pose"][:5], None]}, "frame 00005: pose is None; pass a value for every frame, or pose=None"),
        ({"pose": torch.zeros(6)}, r"pose has shape \(\) .*expected \(J, 3\), of one or more"),
        ({"pose": torch.zeros(6, 0, 3)}, r"pose has shape \(0, 3\) .*of one or more; without any, pass pose=None"),
        ({"images": [None, *given["images"][1:]]}, "frame 00000: images is None; pass a value for every frame$"),
    ):
        with pytest.raises((CaptureError, ValueError), match=message):
            capture_from_arrays(**arrays(**change)).validate()


def write(tmp_path: Path) -> Path:
    """A capture of three frames with joints."""
    save_capture(capture_from_arrays(**arrays()), tmp_path / "c", range(3))
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pose/00001.txt", "0 0 0\n0 0 0\n", "frame images/00001.png .*pose_path 00001.txt has 2 joints; .*has 5"),
        ("pose/00001.txt", "0 0 0 0\n", "pose_path 00001.txt has 4 numbers; expected 3 for each joint"),
        ("pose/00001.txt", "nan 0 0\n" * 5, "pose_path .*value 1 is nan; expected finite numbers"),
        ("joints/00001.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n", "joints_path 00001.txt has 1 joints; .*has 5"),
        ("joints/00001.txt", "1 0 0 0 0 1 0 0 0 0 -1 0\n" * 5, "joints_path .*not rigid; expected the first three"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = write(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(CaptureError, match=message):
        load_capture(folder).validate()


def test_joints_of_some_frames_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "pose/00001.txt").unlink()
    capture = load_capture(folder)
    assert capture.state(0).pose is None and capture.state(0).joint_transforms is not None
    assert any(re.match("joint rotations are left out, since not every frame", line) for line in capture.report)
    assert capture.warnings == ["1 optional files that the frames name do not exist"]


def test_writers_refuse_what_does_not_fit(tmp_path: Path, unchecked: None) -> None:
    from dataclasses import replace

    frames = [replace(FRAMES[0], pose=torch.zeros(5, 3)), replace(FRAMES[1], pose=torch.zeros(4, 3))]
    with pytest.raises(ValueError, match="frame 1 has 4 joints; the frames before 5"):
        write_insta(tmp_path / "a", frames, *blob())
    with pytest.raises(ValueError, match="frame 0's joint_transforms hold a value that is not finite"):
        write_insta(tmp_path / "b", [replace(FRAMES[0], joint_transforms=torch.full((1, 4, 4), torch.nan))], *blob())
    with pytest.raises(ValueError, match=r"frame 0's pose has shape \(5, 3, 3\); expected \('J', 3\)"):
        write_insta(tmp_path / "c", [replace(FRAMES[0], pose=torch.eye(3).repeat(5, 1, 1))], *blob())
    with pytest.raises(ValueError, match="frame 0 has no joints in pose; where there are none, pass pose=None"):
        write_insta(tmp_path / "d", [replace(FRAMES[0], pose=torch.zeros(0, 3))], *blob())
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))
    last = torch.eye(4).index_fill(0, torch.tensor([3]), 0)
    for index, matrix in enumerate((1.1 * torch.eye(4), mirror, last)):
        with pytest.raises(ValueError, match="frame 0's joint_transforms hold a matrix that is not rigid; expected a"):
            write_insta(tmp_path / f"e{index}", [replace(FRAMES[0], joint_transforms=matrix[None])], *blob())


def test_the_avatar_that_joints_drive(capture: Capture, head: FlameHead) -> None:
    """vp360 by jaw pose and by inverse skinning is trained, evaluated, refined and rendered from a capture alone."""
    torch.manual_seed(0)
    width = capture.expression_width or 0
    avatar = hf.models.vp360(capture.template, width, joints=(2,), weights=head.weights, fields=2, **SMALL)
    assert set(avatar.needs) == {"expression", "pose", "joint_transforms"}
    losses = hf.training.vp360_losses(avatar)
    Trainer(avatar, capture, losses, rays_per_step=64, bar=False, device="cpu").fit(steps=2)
    assert evaluate(avatar, capture, "test")["frames"] == 1
    assert refine_frame(avatar, capture, 0, steps=1, rays=16).state.pose is not None
    assert avatar.render(capture.camera(1)[0], capture.state(1)).rgb.isfinite().all()


def test_states_between_frames_and_of_other_heads_have_joints(capture: Capture, folder: Path, head: FlameHead) -> None:
    first, second = capture.state(0), capture.state(1)
    middle = _interpolated(first, second, 0.5)
    torch.testing.assert_close(middle.pose, (first.pose + second.pose) / 2)
    turns = middle.joint_transforms[..., :3, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)
    own = load_capture(folder, skinning=head.weights)
    state = hf.retargeting.Retargeter.from_captures(capture, own)(second)
    torch.testing.assert_close(state.pose, second.pose)
    fitted = hf.data.joint_fit.fit_joint_transforms(own.template.canonical_vertices, state.vertices, head.weights)
    torch.testing.assert_close(state.joint_transforms, fitted)
