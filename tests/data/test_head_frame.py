"""Head pose estimated from posed meshes and moved into the cameras: states and rays become those of a still head."""

from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.data import Capture, load_capture, save_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.data.head_frame import (
    HeadFrame,
    choose_head_frame,
    head_motion,
    head_pose,
    rigid_vertices,
    to_head_frame,
)
from headfields.data.recording import DecodedHead, Recording
from headfields.mesh.mesh import Mesh
from headfields.ops import rotation_matrices
from headfields.ops.rigid import rigid_transform
from headfields.ops.vertex_geometry import vertex_areas
from headfields.records import Camera, HeadState
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.tracking_error import tracking_error
from headfields.synthetic.tracking_noise import TrackingNoise
from tests.data.compare import differences, snapshot
from tests.data.moving import jaw, jaw_frames, put_pose_into_vertices
from tests.data.tiny import blob
from tests.shared_data import shared

VERTICES, FACES = blob()
AREA = vertex_areas(VERTICES, FACES)


def poses(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn = rotation_matrices(0.7 * torch.randn(count, 3, generator=generator, dtype=torch.float64))
    return rigid_transform(turn, 0.3 * torch.randn(count, 3, generator=generator, dtype=torch.float64))


def placed(vertices: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    return (vertices.double() @ pose[:, :3, :3].mT + pose[:, None, :3, 3]).float()


def talking(count: int) -> torch.Tensor:
    return torch.stack([jaw(VERTICES, index / max(count - 1, 1)) for index in range(count)])


def apart(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """The largest difference of two rows of poses, degrees and millimeters at the head's middle."""
    change = torch.linalg.inv(one.double()) @ other.double()
    rows = [head_motion(torch.stack([torch.eye(4).double(), row]), VERTICES.mean(0)) for row in change]
    return max(row.rotation for row in rows), max(row.translation for row in rows)


def test_areas_add_up() -> None:
    assert float(AREA.sum()) == pytest.approx(0.095, rel=0.2)  # of an ellipsoid of 8, 11 and 9 cm
    assert bool((AREA > 0).all())


def test_pose_is_the_skulls_and_not_the_jaws() -> None:
    pose, heads = poses(7), talking(7)
    posed = placed(heads, pose)
    rigid = rigid_vertices(posed, VERTICES, AREA)
    moves = (heads - VERTICES).norm(dim=-1).amax(0) > 1e-3
    assert not bool((rigid & moves).any()) and int(rigid.sum()) > 150
    degrees, millimeters = apart(pose, head_pose(posed, VERTICES, rigid, AREA))
    assert degrees < 0.01 and millimeters < 0.02
    rough = apart(pose, head_pose(posed, VERTICES))  # each frame for itself
    assert rough[0] < 0.3 and rough[1] < 0.5
    frame = HeadFrame(VERTICES, rigid, AREA)
    assert apart(pose, frame.pose(posed))[0] < 0.01
    assert frame.residual(posed, frame.pose(posed)) < 1e-5
    torch.testing.assert_close(frame.without_pose(posed, frame.pose(posed)), heads, atol=2e-5, rtol=0)


def test_noise_and_a_region_that_moves_after_all() -> None:
    pose, heads = poses(5, 1), talking(5)
    noisy = heads + 5e-4 * torch.randn(heads.shape, generator=torch.Generator().manual_seed(2))
    posed = placed(noisy, pose)
    assert apart(pose, head_pose(posed, VERTICES, rigid_vertices(posed, VERTICES, AREA), AREA))[0] < 0.15
    everything = torch.ones(len(VERTICES), dtype=torch.bool)
    assert apart(pose, head_pose(posed, VERTICES, everything, AREA))[0] < 0.4


def test_no_frames_and_gradients() -> None:
    assert head_pose(torch.zeros(0, len(VERTICES), 3), VERTICES).shape == (0, 4, 4)
    assert bool(rigid_vertices(torch.zeros(0, len(VERTICES), 3), VERTICES).all())
    assert head_motion(torch.zeros(0, 4, 4), torch.zeros(3)).rotation == 0
    posed = placed(talking(2), poses(2)).requires_grad_()
    head_pose(posed, VERTICES)[:, :3, 3].sum().backward()
    # Shifting all vertices shifts the pose by as much.
    torch.testing.assert_close(posed.grad.sum(1), torch.ones(2, 3), atol=1e-4, rtol=0)


def test_what_does_not_fit(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"head_pose: vertices has shape \(1, 4, 3\); expected \(B, \d+, 3\)"):
        head_pose(torch.zeros(1, 4, 3), VERTICES)
    with pytest.raises(ValueError, match="head_pose: 0 vertices are rigid; a pose needs three"):
        head_pose(VERTICES[None], VERTICES, torch.zeros(len(VERTICES), dtype=torch.bool))
    with pytest.raises(TypeError, match=r"rigid has dtype torch\.float32; expected a boolean mask"):
        head_pose(VERTICES[None], VERTICES, torch.ones(len(VERTICES)))
    with pytest.raises(ValueError, match=r"to_head_frame: pose holds 2 poses and state 1 frames"):
        to_head_frame(HeadState(VERTICES[None]), Camera(torch.eye(4), torch.eye(3), (8, 8)), poses(2))


def test_cameras_see_the_same_from_the_heads_frame() -> None:
    pose = poses(3)
    joints = torch.randn(3, 2, 4, 4)
    codes = {"code": torch.rand(3, 2)}
    state = HeadState(placed(talking(3), pose), torch.rand(3, 5), torch.rand(3, 2, 3), joints, codes)
    lens = torch.tensor([[90.0, 0, 20], [0, 90, 24], [0, 0, 1]])
    cameras = Camera(poses(3, 9).float(), lens.repeat(3, 1, 1), (48, 40))
    moved, cameras_after = to_head_frame(state, cameras, pose)
    torch.testing.assert_close(moved.vertices, talking(3), atol=1e-6, rtol=0)
    for before, after in zip(cameras.project(state.vertices), cameras_after.project(moved.vertices), strict=True):
        torch.testing.assert_close(before, after, atol=2e-2, rtol=1e-4)
    assert moved.joint_transforms is not None
    torch.testing.assert_close(pose.float()[:, None] @ moved.joint_transforms, joints, atol=1e-5, rtol=0)
    assert moved.expression is state.expression and moved.pose is state.pose and moved.codes == state.codes
    back, _ = to_head_frame(moved, cameras_after, torch.linalg.inv(pose))
    torch.testing.assert_close(back.vertices, state.vertices, atol=1e-6, rtol=0)
    one, _ = to_head_frame(state[:0], cameras[0], pose[:0])
    assert one.vertices.shape == (0, len(VERTICES), 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("moving")
    write_insta(root / "still", jaw_frames(10), VERTICES, FACES, test_frames=3)
    put_pose_into_vertices(load_capture(root / "still", head_frame="keep"), root / "moving")
    return {name: root / name for name in ("still", "moving")}


def head_pose_line(capture: Capture) -> str:
    lines = [line for line in capture.report if line.startswith("head pose: ")]
    assert len(lines) <= 1
    return "".join(lines)


def test_a_capture_with_the_pose_in_its_cameras_is_left_alone(folders: dict[str, Path]) -> None:
    auto, kept = load_capture(folders["still"]), load_capture(folders["still"], head_frame="keep")
    assert (
        auto.head_frame is None
        and "in the cameras (between 10 frames" in head_pose_line(auto)
        and head_pose_line(kept) == ""
    )
    every = range(len(auto))
    assert torch.equal(auto.camera(every).world_to_camera, kept.camera(every).world_to_camera)
    assert torch.equal(auto.state(every).vertices, kept.state(every).vertices)
    assert torch.equal(auto.head_pose([3, 1]), torch.eye(4, dtype=torch.float64).repeat(2, 1, 1))


@pytest.mark.parametrize("memory", [pytest.param(256, marks=pytest.mark.slow), 0.2])
def test_a_capture_with_the_pose_in_its_vertices_is_the_same(folders: dict[str, Path], memory: float) -> None:
    still = load_capture(folders["still"])
    moving = load_capture(folders["moving"], memory_budget_mb=memory)
    assert "taken out of the vertices, where the head moves by" in head_pose_line(moving) and not moving.warnings
    every = [9, 0, 4, 4, *range(10)]
    torch.testing.assert_close(moving.camera([5]).world_to_camera, still.camera([5]).world_to_camera, atol=5e-5, rtol=0)
    torch.testing.assert_close(moving.state(every).vertices, still.state(every).vertices, atol=3e-5, rtol=0)
    torch.testing.assert_close(
        moving.camera(every).world_to_camera, still.camera(every).world_to_camera, atol=5e-5, rtol=0
    )
    batches = [c.sample_pixels(every, 50, torch.Generator().manual_seed(0))[0] for c in (still, moving)]
    for name in ("origins", "directions"):
        one, other = (getattr(batch.rays, name) for batch in batches)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    for name in ("rgb", "depth", "label"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    torch.testing.assert_close(batches[0].depth_scale, batches[1].depth_scale, atol=1e-5, rtol=0)
    pose = moving.head_pose(every)
    raw = load_capture(folders["moving"], head_frame="keep")
    torch.testing.assert_close(placed(moving.state(every).vertices, pose), raw.state(every).vertices, atol=1e-6, rtol=0)


def test_choices(folders: dict[str, Path], tmp_path: Path, unchecked: None) -> None:
    raw = load_capture(folders["moving"], head_frame="keep")
    views = raw.camera([0, 5]).world_to_camera
    assert raw.head_frame is None and torch.equal(views[0], views[1])
    forced = load_capture(folders["still"], head_frame="normalize")
    assert apart(torch.eye(4).repeat(10, 1, 1), forced.head_pose(range(10)))[0] < 0.01
    crown = VERTICES[:, 1] > 0.05
    marked = load_capture(folders["moving"], head_frame=crown)
    assert marked.head_frame is not None and torch.equal(marked.head_frame.rigid, crown)
    with pytest.raises(ValueError, match="head_frame is 'yes'; expected 'auto'"):
        load_capture(folders["moving"], head_frame="yes")
    with pytest.raises(ValueError, match=r"rigid has shape \(3,\)"):
        load_capture(folders["moving"], head_frame=torch.ones(3, dtype=torch.bool))
    save_capture(load_capture(folders["moving"]), tmp_path / "copy")  # as it was on disk
    assert not differences(snapshot(raw), snapshot(load_capture(tmp_path / "copy", head_frame="keep")))


def test_a_mesh_without_a_rigid_part_is_warned_of() -> None:
    stretched = {k: (VERTICES * torch.tensor([1, 1 + 0.3 * k, 1])).numpy() for k in range(4)}
    recording = Recording(
        path=Path("stretched"),
        size=(8, 8),
        frame_names=list("abcd"),
        camera_to_world=np.tile(np.eye(4), (4, 1, 1)),
        intrinsics=np.tile(np.eye(3), (4, 1, 1)),
        splits={"all": [0, 1, 2, 3]},
        canonical=Mesh(VERTICES, FACES),
        decode_image=lambda frame: (np.zeros((8, 8, 4), np.uint8), None, None),
        decode_head=lambda frame: DecodedHead(stretched[frame]),
        decode_landmarks=lambda frame: None,
        has_label=False,
        has_depth=False,
        expression_width=None,
        decoded_vertices=stretched,
    )
    report: list[str] = []
    choose_head_frame(recording, "normalize", report)
    assert len(report) == 2 and report[1].startswith("warning: ") and "pass load_capture a mask" in report[1]


@pytest.mark.slow
def test_tracking_error_does_not_depend_on_where_the_pose_is(tmp_path: Path) -> None:
    drawn = {"frames": 4, "test_frames": 1, "size": 16, "samples": 1, "progress": False}
    still = load_capture(write_head_capture(tmp_path / "still", **drawn, noise=TrackingNoise()))
    moving = load_capture(put_pose_into_vertices(still, tmp_path / "moving"))
    assert still.head_frame is None and moving.head_frame is not None
    one, other = tracking_error(still), tracking_error(moving)
    for name in ("surface", "pixels", "expression", "rotation", "translation"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0.02, atol=0.02, err_msg=name)
    exact = {2: (moving.camera([2]), moving.state([2]))}
    again = tracking_error(moving, frames=[1, 2], corrected=exact)
    np.testing.assert_allclose(again.surface, other.surface[1:3], atol=1e-3)


def test_expression_of_a_captured_head_is_not_motion() -> None:
    capture = load_capture(shared("captures/ict_a"))
    assert capture.head_frame is None and "in the cameras" in head_pose_line(capture)
    canonical = capture.recording.canonical.vertices
    area = vertex_areas(canonical, capture.recording.canonical.faces)
    vertices = capture.state(range(0, len(capture), 12)).vertices
    pose = head_pose(vertices, canonical, rigid_vertices(vertices, canonical, area), area)
    motion = head_motion(pose, canonical.mean(0))
    assert motion.rotation < 0.01 and motion.translation < 0.02  # all vertices, evenly, would have it at 1 degree
