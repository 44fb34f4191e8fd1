"""Synthetic captures of the procedural head: meshes, cameras, images and labels agree, and runs are deterministic."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.data.balance import view_yaw
from headfields.data.capture import Capture
from headfields.data.load import load_capture
from headfields.data.noise_ceiling import noise_ceiling
from headfields.heads.mouth.closing import close_mouth
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.synthetic import captures
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.head.model import procedural_head
from headfields.synthetic.scene.head_geometry import HAIR, HeadGeometry
from headfields.synthetic.scene.motion import JAW_OPEN, scripted_motion
from headfields.synthetic.scene.shading import Lights
from headfields.synthetic.scene.wrinkles import Activity, crease, wrinkle
from headfields.synthetic.tracking_error import tracking_error
from tests.tables import table

FRAMES, SIZE = 6, 32


def draw(folder: Path, **changes: object) -> Path:
    arguments: dict = {"frames": FRAMES, "test_frames": 2, "size": SIZE, "seed": 3, "progress": False}
    return write_head_capture(folder, **(arguments | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("synthetic") / "head")


@pytest.fixture(scope="module")
def capture(folder: Path) -> Capture:
    return load_capture(folder)


def test_is_read_as_a_capture(capture: Capture) -> None:
    capture.validate()
    assert len(capture) == FRAMES and capture.size == (SIZE, SIZE)
    assert capture.expression_width == 100
    assert any("camera-to-world, OpenCV axes" in line for line in capture.report)
    for name in ("mouth", "eyes", "face"):
        assert capture.template.regions[name].any(), name


def test_splits(folder: Path) -> None:
    counts = {}
    for name in ("train", "test", "val"):
        counts[name] = len(json.loads((folder / f"transforms_{name}.json").read_text())["frames"])
    assert counts == {"train": FRAMES - 2, "test": 2, "val": 2}


def test_expression_and_jaw_give_the_mesh(capture: Capture) -> None:
    """All but the gaze follows from the expression file: `mouth_open` is the jaw as well."""
    head = procedural_head()
    state = capture.state(range(FRAMES))
    assert state.expression is not None
    pose = torch.zeros(FRAMES, 5, 3)
    pose[:, 2, 0] = float(JAW_OPEN) * state.expression[:, head.expression_names.index("mouth_open")]
    made = head(expression=state.expression, pose=pose).vertices
    skull = head.weights[:, :3].sum(1) == 1
    lids = torch.zeros(len(skull), dtype=torch.bool)
    for name in ("left_eye_region", "right_eye_region"):  # the lids follow the gaze
        lids[head.faces[head.regions[name]]] = True
    still = skull & ~lids
    assert still.sum() > 2000
    torch.testing.assert_close(state.vertices[:, still], made[:, still], atol=2e-5, rtol=0)
    assert (state.vertices - state.vertices[:1]).norm(dim=-1).amax() > 1e-3


def test_landmarks_are_the_meshs_own(capture: Capture) -> None:
    head = procedural_head()
    state, camera = capture.state(range(FRAMES)), capture.camera(range(FRAMES))
    projected, depth = camera.project(head.landmarks(state.vertices))
    assert (depth > 0.5).all()
    for frame in range(FRAMES):
        stored = capture.landmarks(frame)
        assert stored is not None
        torch.testing.assert_close(stored, projected[frame], atol=2e-3, rtol=0)


def test_matte_holds_the_projected_mesh(capture: Capture) -> None:
    """Every vertex in the image lands on a covered pixel, or next to one where an outline cuts the pixel."""
    for frame in range(FRAMES):
        pixels, _ = capture.camera([frame]).project(capture.state([frame]).vertices)
        column, row = pixels[0].floor().long().unbind(-1)
        inside = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
        assert inside.float().mean() > 0.7
        alpha = capture.image(frame)[..., 3]
        near = torch.nn.functional.max_pool2d(alpha[None, None], 3, 1, 1)[0, 0]
        assert (near[row[inside], column[inside]] > 0).all()
        assert 0.15 < alpha.mean() < 0.8


def test_depth_is_the_meshs(capture: Capture) -> None:
    """Where there is depth, the nearest vertices that project there are as far away."""
    for frame in range(FRAMES):
        depth = capture.depth(frame)
        assert depth is not None
        pixels, z = capture.camera([frame]).project(capture.state([frame]).vertices)
        nearest = torch.full((SIZE * SIZE,), torch.inf)
        column, row = pixels[0].floor().long().unbind(-1)
        inside = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
        nearest.scatter_reduce_(0, (row * SIZE + column)[inside], z[0][inside], "amin")
        nearest = nearest.reshape(SIZE, SIZE)
        both = (depth > 0) & nearest.isfinite()
        assert both.sum() > 50
        assert (depth - nearest)[both].abs().median() < 0.006
        label = capture.label(frame)
        assert label is not None
        assert (depth[label == 110] == 0).float().mean() > 0.8  # none on the neck


def test_labels(capture: Capture) -> None:
    labels = torch.stack([capture.label(frame) for frame in range(FRAMES)])  # type: ignore[misc]
    alpha = torch.stack([capture.image(frame)[..., 3] for frame in range(FRAMES)])
    found = set(labels.unique().tolist())
    assert {0, 80, 110, 120, 130, 150, 250} <= found
    assert found <= {0, 80, 110, 120, 130, 140, 150, 170, 180, 200, 210, 230, 240, 250}
    assert ((labels > 0) == (alpha > 0.49)).all()
    rows = torch.arange(SIZE).float()[None, :, None].expand_as(labels)
    mean = {value: float(rows[labels == value].mean()) for value in (80, 150, 130, 120, 110)}
    assert mean[80] < mean[150] < mean[130] < mean[120] < mean[110]  # hair, nose, lips, neck from above


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = draw(tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [str(name) for name in files if (folder / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.slow
def test_another_seed_is_another_capture(folder: Path, tmp_path: Path) -> None:
    other = draw(tmp_path / "other", seed=4, frames=1, test_frames=0)
    for name in ("images/00000.png", "flame/exp/00000.txt", "meshes/00000.obj"):
        assert (folder / name).read_bytes() != (other / name).read_bytes(), name


def test_shading_stays_in_the_room(capture: Capture) -> None:
    """Whichever way the head turns, the side of the neck toward the key light is the brighter one."""
    bright = []
    for frame in range(FRAMES):
        image, label = capture.image(frame), capture.label(frame)
        assert label is not None
        neck = (label == 110).nonzero()
        middle = neck[:, 1].float().median()
        value = image[neck[:, 0], neck[:, 1], :3].mean(1)
        bright.append(float(value[neck[:, 1] > middle].mean() - value[neck[:, 1] < middle].mean()))
    assert np.mean(bright) > 0.03
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    still, turned = Lights.in_frame(torch.eye(3)), Lights.in_frame(turn)
    torch.testing.assert_close(turn @ turned.key, still.key)
    assert (turned.key - still.key).norm() > 0.5


def test_a_finished_capture_is_kept(folder: Path, tmp_path: Path) -> None:
    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    (kept / "images" / "00000.png").write_bytes(b"mine")
    assert draw(kept) == kept
    assert (kept / "images" / "00000.png").read_bytes() == b"mine"
    with pytest.raises(FileExistsError, match="kept is not empty"):
        draw(kept, seed=9)


def test_a_try_that_did_not_end_refuses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    def draw(*arguments: object) -> None:
        raise Stop

    out = tmp_path / "capture"
    with monkeypatch.context() as patch:
        patch.setattr(captures.RayTracer, "draw", draw)
        with pytest.raises(Stop):
            captures.write_head_capture(out, frames=3, size=16, samples=1, progress=False)
    assert not list(out.iterdir())
    (out / ".headfields_unfinished").touch()  # what is killed does not clean up
    (out / "canonical.obj").write_text("half")
    assert len(load_capture(captures.write_head_capture(out, frames=3, size=16, samples=1, progress=False))) == 3
    assert not list(out.glob(".headfields_unfinished"))


def test_refuses_other_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match=f"{tmp_path.name} is not empty"):
        draw(tmp_path)
    with pytest.raises(FileExistsError, match=r"notes\.txt is a file"):
        draw(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "synthetic.json").write_text("{cut sho")
    with pytest.raises(FileExistsError, match="not empty"):
        draw(tmp_path)


@table(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"test_frames": 7}, "test_frames is 7; expected 0 to 6"),
        ({"test_frames": -1}, "test_frames is -1"),
        ({"size": 4}, "size is 4"),
        ({"samples": 3}, "samples is 3; expected a square number"),
        ({"samples": 0}, "samples is 0"),
        ({"rate": 0.0}, r"rate is 0\.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"unfollowed": ["smile"]}, "unfollowed has smile; the head's expressions are smile_left"),
    ],
)
def test_arguments(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"write_head_capture: {message}"):
        draw(tmp_path / "never", **changes)
    assert not (tmp_path / "never").exists()


def test_meshes_do_not_follow_what_they_are_told_to_lack(folder: Path, capture: Capture, tmp_path: Path) -> None:
    """Images and coefficients are those of the exact capture; meshes are the head's without the funnel of the lips."""
    coarse = load_capture(draw(tmp_path / "coarse", unfollowed=["funnel"]))
    for name in ("images/00002.png", "flame/exp/00002.txt", "pose/00002.txt"):
        assert (folder / name).read_bytes() == (tmp_path / "coarse" / name).read_bytes(), name
    head, exact, lacking = procedural_head(), capture.state(range(FRAMES)), coarse.state(range(FRAMES))
    assert exact.expression is not None
    funnel = head.expression_names.index("funnel")
    kept = exact.expression.clone()
    kept[:, funnel] = 0
    made = head(expression=kept, pose=exact.pose).vertices
    count = made.shape[1]
    torch.testing.assert_close(lacking.vertices[:, :count], made, atol=2e-5, rtol=0)
    assert exact.expression[:, funnel].amax() > 0.2
    assert (exact.vertices - lacking.vertices).norm(dim=-1).amax() > 1e-3


def test_motion_covers_its_range_smoothly() -> None:
    names = list(procedural_head().expression_names)
    motion = scripted_motion(1500, 25.0, names, 0)
    yaw, pitch, roll = np.degrees(np.abs(motion.angles).max(0))
    assert 28 < yaw <= 35 and 11 < pitch <= 15 and 6 < roll <= 8
    assert np.degrees(np.abs(np.diff(motion.angles, axis=0)).max()) < 5  # a frame
    for name in ("smile_left", "brow_raise_right", "mouth_open", "blink_left", "brow_furrow"):
        assert motion.weights[name].max() > 0.5 and motion.weights[name].min() >= 0, name
    track = np.stack([motion.weights[name] for name in names if "blink" not in name and "wide" not in name])
    assert np.abs(np.diff(track, axis=1)).max() < 0.16
    assert max(values.max() for values in motion.weights.values()) <= 1


def test_scene_hair_stands_off_the_skin_and_teeth_stay_behind_the_lips() -> None:
    with torch.no_grad():
        head = procedural_head()
        scene = HeadGeometry(head, 0)
        posed = scene.pose(head())
    skin = len(head.template_vertices)
    hair = posed.vertices[scene.faces[scene.kind == HAIR].unique()]
    near = torch.cdist(hair[::97], posed.vertices[:skin]).amin(1)
    assert 0.008 < near.median() < 0.03
    # Straight ahead of every tooth there is the inner side of the skin: nothing pokes through a closed mouth.
    teeth = posed.vertices[skin : int(scene.faces[scene.kind < 4].max()) + 1]
    ahead = torch.tensor([0.0, 0.0, 1.0]).expand_as(teeth).contiguous()
    faces, _ = close_mouth(head.faces, vertices=posed.vertices[:skin])
    hit = TriangleBVH(faces, posed.vertices[:skin]).raycast(teeth, ahead)
    corner = posed.vertices[faces[hit.face.clamp_min(0)]]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert ((hit.face >= 0) & (normal[:, 2] > 0)).float().mean() > 0.97


def test_wrinkles_follow_the_expression() -> None:
    with torch.no_grad():
        anatomy = HeadGeometry(procedural_head(), 0).anatomy
    forehead = torch.stack(
        [torch.zeros(200), anatomy.brow_height + torch.linspace(0.005, 0.045, 200), torch.full((200,), 0.09)], 1
    )
    assert crease(forehead, anatomy, Activity()).abs().max() == 0
    raised = crease(forehead, anatomy, Activity(brow_raise=(1.0, 1.0)))
    rises = ((raised[1:-1] > raised[:-2]) & (raised[1:-1] > raised[2:]) & (raised[1:-1] > 0.5)).sum()
    assert 2 <= rises <= 6  # lines, one above the other
    half = crease(forehead, anatomy, Activity(brow_raise=(0.5, 0.5)))
    torch.testing.assert_close(half, raised / 2, atol=1e-5, rtol=1e-4)
    depth, slope = wrinkle(forehead, anatomy, Activity(brow_raise=(1.0, 1.0)))
    torch.testing.assert_close(depth, raised)
    numeric = -0.0016 * (raised[2:] - raised[:-2]) / (forehead[2:, 1] - forehead[:-2, 1])
    assert (slope[1:-1, 1] - numeric).abs().max() < 0.3 * numeric.abs().max()
    assert not Activity().active and Activity(frown=0.2).active


@pytest.fixture(scope="module")
def with_strata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with held-out cameras and another person's motion."""
    draw = {"frames": 12, "test_frames": 3, "size": 32, "samples": 1, "progress": False}
    return write_head_capture(tmp_path_factory.mktemp("strata") / "a", identity=1, cameras=3, retargeted=2, **draw)


def test_held_out_cameras_orbit_the_head_and_the_noise_ceiling_is_written(with_strata: Path) -> None:
    views, own = load_capture(with_strata / "cameras"), load_capture(with_strata)
    yaw = (view_yaw(views).rad2deg() - view_yaw(own, [9, 10, 11] * 3).rad2deg()).view(3, 3)
    assert len(views) == 9 and torch.allclose(yaw.mean(1), torch.tensor([-90.0, 0.0, 90.0]), atol=8)  # it also nods
    assert torch.equal(views.state(range(9)).vertices, own.state([9, 10, 11] * 3).vertices)
    assert all(0.1 < float(views.image(frame)[..., 3].mean()) < 0.9 for frame in range(9))
    ceiling = noise_ceiling(with_strata)
    assert 10 < ceiling["psnr_head"] < ceiling["psnr"] < 60


def test_retargeted_motion_is_another_persons_on_this_head(with_strata: Path) -> None:
    own, moved = load_capture(with_strata), load_capture(with_strata / "retargeted")
    assert len(moved) == 3 and moved.splits["test"].tolist() == [0, 1, 2]
    assert torch.equal(moved.template.canonical_vertices, own.template.canonical_vertices)
    error = tracking_error(moved)
    assert 0.01 < error.surface.mean() < 0.5 and error.rotation.max() < 1e-3  # mm; the head's shape is its own
    state, trained = moved.state([0, 1, 2]), own.state(own.splits["train"])
    apart = (state.vertices[:, None] - own.state(range(12)).vertices).norm(dim=-1).amax(-1)
    assert float(apart.min()) > 0.002, "a motion that training has not"
    low, high = trained.expression.aminmax(dim=0)
    within = (state.expression >= low.clamp_max(0) - 1e-5) & (state.expression <= high.clamp_min(0) + 1e-5)
    assert bool(within.all()), "what an avatar was trained on"
    assert state.pose is not None and state.joint_transforms is not None
    assert all(0.1 < float(moved.image(frame)[..., 3].mean()) < 0.9 for frame in range(3))


def test_what_held_out_cameras_and_retargeted_motion_need(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cameras is 2 and test_frames 0"):
        write_head_capture(tmp_path / "b", frames=4, test_frames=0, cameras=2, progress=False)
    with pytest.raises(ValueError, match="retargeted is 1, identity 1"):
        write_head_capture(tmp_path / "b", frames=6, identity=1, retargeted=1, progress=False)
