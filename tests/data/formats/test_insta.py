"""The reader: round trip, conventions, tolerated gaps."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.data import Capture, CaptureError, load_capture
from headfields.data.camera_axes import named_convention
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import SIZE, blob, camera, tiny_frames
from tests.tables import table

FLIP = np.diag([1.0, -1, -1, 1])


def edit(folder: Path, change, names=("", "_train", "_test", "_val")) -> None:
    """Applies `change(content)` to the transforms files."""
    for name in names:
        path = folder / f"transforms{name}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def map_matrices(folder: Path, function) -> None:
    def change(content):
        for frame in content["frames"]:
            frame["transform_matrix"] = function(np.array(frame["transform_matrix"])).tolist()

    edit(folder, change)


def test_round_trip_is_exact(written: Path) -> None:
    capture, frames = load_capture(written), tiny_frames()
    vertices, _ = blob()
    assert len(capture) == 6 and capture.size == SIZE and capture.name == "tiny"
    assert {name: rows.tolist() for name, rows in capture.splits.items()} == {
        "train": [0, 1, 2, 3], "test": [4, 5], "val": [4, 5], "all": [0, 1, 2, 3, 4, 5],
    }  # fmt: skip
    state, cameras = capture.state(capture.splits["all"]), capture.camera(capture.splits["all"])
    assert capture.state([2, 0]).frame_id.tolist() == [2, 0]
    torch.testing.assert_close(capture.recording.canonical.vertices, vertices, rtol=0, atol=0)
    for i, frame in enumerate(frames):
        torch.testing.assert_close(state.vertices[i], frame.vertices, rtol=0, atol=0)
        torch.testing.assert_close(state.expression[i], frame.expression, rtol=0, atol=0)
        torch.testing.assert_close(cameras.world_to_camera[i], frame.camera.world_to_camera, rtol=0, atol=1e-15)
        torch.testing.assert_close(cameras.intrinsics[i], frame.camera.intrinsics, rtol=0, atol=0)
        assert np.array_equal((capture.image(i) * 255).round().numpy(), frame.image)
        assert np.array_equal(capture.label(i).numpy(), frame.label)
        np.testing.assert_allclose(capture.depth(i).numpy(), frame.depth * 0.001, rtol=1e-6)
        assert np.array_equal(capture.landmarks(i).numpy(), frame.landmarks)
    capture.validate()


def test_without_optional_files(tmp_path: Path) -> None:
    write_insta(tmp_path / "bare", tiny_frames(optional=False), *blob())
    capture = load_capture(tmp_path / "bare")
    assert capture.label(0) is None and capture.depth(0).max() > 0.5 and capture.landmarks(0) is None
    assert capture.state([0]).expression is None
    batch, _ = capture.sample_pixels([0, 1], 10, torch.Generator())
    assert batch.label is None and batch.depth is not None
    for key in ("exp_path", "depth_path", "seg_mask_path", "landmark_path"):
        assert any(key in line for line in capture.report), capture.report


@pytest.mark.parametrize(
    "convert, name",
    [
        (lambda m: m, "camera-to-world, OpenCV axes"),
        (lambda m: m @ FLIP, "camera-to-world, OpenGL axes"),
        (np.linalg.inv, "world-to-camera, OpenCV axes"),
        (lambda m: FLIP @ np.linalg.inv(m), "world-to-camera, OpenGL axes"),
    ],
)
def test_camera_convention_is_found(tiny: Path, written: Path, convert, name: str) -> None:
    map_matrices(tiny, convert)
    capture = load_capture(tiny)
    assert any(line.startswith(f"camera convention: {name} ") for line in capture.report), capture.report
    expected = load_capture(written).camera(range(6))
    torch.testing.assert_close(capture.camera(range(6)).world_to_camera, expected.world_to_camera, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("factor", "said", "axes"),
    [
        (1 / 1.8, "1.8 times too narrow", FLIP),
        pytest.param(1.8, "1.8 times too wide", np.eye(4), marks=pytest.mark.slow),
        pytest.param(1.8, "1.8 times too wide", FLIP, marks=pytest.mark.slow),
    ],
)
def test_a_wrong_focal_length_is_called_one(tiny: Path, factor: float, said: str, axes: np.ndarray) -> None:
    """Whatever the convention, and whether it is stated or not."""

    def wrong(content: dict) -> None:
        for entry in (content, *content["frames"]):
            entry.pop("x_fov", None), entry.pop("y_fov", None)
            entry.update({key: factor * entry[key] for key in ("fl_x", "fl_y") if key in entry})

    map_matrices(tiny, lambda matrix: matrix @ axes)
    edit(tiny, wrong)
    for convention in ("auto", "opencv" if axes is not FLIP else "opengl"):
        with pytest.raises(CaptureError, match=f"the focal length is wrong: the projected meshes are {said}") as caught:
            load_capture(tiny, convention=convention)  # type: ignore[arg-type]
        assert "ambiguous" not in str(caught.value) and "convention is" not in str(caught.value)


def test_a_stated_convention_is_taken_or_contradicted(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(CaptureError, match=r"convention is 'opengl'.*Pass 'opencv', or leave convention out"):
        load_capture(tiny, convention="opengl")
    assert len(load_capture(tiny, convention="opencv")) == 6
    with pytest.raises(ValueError, match="convention is 'blender'; expected one of auto, opencv, opengl"):
        named_convention("blender")
    frames = [replace(frame, camera=camera(0.01 * i, 0.0)) for i, frame in enumerate(tiny_frames(optional=False))]
    for frame in frames:
        frame.image[..., 3] = 255
    write_insta(tmp_path / "c", frames, *blob())
    with pytest.raises(CaptureError, match="'opencv' or 'opencv-world-to-camera' as convention"):
        load_capture(tmp_path / "c")
    truth = torch.stack([frame.camera.world_to_camera for frame in frames]).reshape(-1, 4, 4)
    given = load_capture(tmp_path / "c", convention="opencv").camera(range(len(frames))).world_to_camera
    torch.testing.assert_close(given, truth, rtol=0, atol=1e-5)
    other = load_capture(tmp_path / "c", convention="opencv-world-to-camera").camera(range(len(frames)))
    torch.testing.assert_close(other.world_to_camera, truth.inverse(), rtol=0, atol=1e-5)


def test_no_convention_fits(tiny: Path) -> None:
    def away(matrix):
        return matrix + np.array([[0, 0, 0, 3.0], [0, 0, 0, 2.0], [0, 0, 0, 0], [0, 0, 0, 0]])

    map_matrices(tiny, away)
    with pytest.raises(CaptureError, match="no camera convention puts the meshes on the head"):
        load_capture(tiny)


def test_convention_that_cannot_be_told(tmp_path: Path) -> None:
    frames = [replace(frame, camera=camera(0.01 * i, 0.0)) for i, frame in enumerate(tiny_frames(optional=False))]
    for frame in frames:
        frame.image[..., 3] = 255  # no matte, labels or depth: a turn to the left looks like one to the right
    write_insta(tmp_path / "c", frames, *blob())
    with pytest.raises(CaptureError, match="ambiguous between"):
        load_capture(tmp_path / "c")


def test_frames_are_sorted_by_mesh_path(tiny: Path, written: Path) -> None:
    edit(tiny, lambda content: content["frames"].reverse())
    shuffled, capture = load_capture(tiny), load_capture(written)
    assert shuffled.frame_names == capture.frame_names
    assert all(torch.equal(shuffled.splits[name], capture.splits[name]) for name in capture.splits)


@pytest.mark.parametrize(
    "kept, train, test", [(("",), 5, 1), (("", "_train"), 4, 2), (("_train", "_test"), 4, 2), (("_test",), 0, 2)]
)
def test_splits_from_what_files_there_are(tiny: Path, kept: tuple[str, ...], train: int, test: int) -> None:
    for name in ("", "_train", "_test", "_val"):
        if name not in kept:
            (tiny / f"transforms{name}.json").unlink()
    capture = load_capture(tiny)
    assert (len(capture.splits["train"]), len(capture.splits["test"])) == (train, test)
    assert torch.equal(capture.splits["val"], capture.splits["test"][-20:])
    assert capture.splits["test"].tolist() == list(range(len(capture)))[-test:]


def test_intrinsics_from_angles_and_defaults(tiny: Path) -> None:
    def change(content):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            del content[key]
        content["x_fov"] = math.degrees(2 * math.atan(40 / 240))

    edit(tiny, change)
    matrix = load_capture(tiny).camera([0]).intrinsics[0]
    torch.testing.assert_close(matrix, torch.tensor([[120.0, 0, 20], [0, 120, 24], [0, 0, 1]]))
    edit(tiny, lambda content: content.update(camera_angle_x=math.radians(content.pop("x_fov"))))
    torch.testing.assert_close(load_capture(tiny).camera([0]).intrinsics[0], matrix)


def test_per_frame_intrinsics_win_and_contradictions_are_reported(tiny: Path) -> None:
    def change(content):
        content["x_fov"] = 25.0
        for frame in content["frames"]:
            frame["fl_x"] = 118.0 + int(frame["file_path"][11])

    edit(tiny, change)
    capture = load_capture(tiny)
    assert capture.camera(range(6)).intrinsics[:, 0, 0].tolist() == [118, 119, 120, 121, 122, 123]
    assert sum("x_fov would give" in line for line in capture.report) == 1


@pytest.mark.parametrize("with_labels", [True, False])
def test_images_without_alpha(tiny: Path, with_labels: bool) -> None:
    for path in (tiny / "images").iterdir():
        Image.open(path).convert("RGB").save(path)
    label = np.array(Image.open(tiny / "seg_mask/00000.png"))
    label[20:22, 18:20] = 90
    Image.fromarray(label).save(tiny / "seg_mask/00000.png")
    if not with_labels:
        edit(tiny, lambda content: [frame.pop("seg_mask_path") for frame in content["frames"]])
    capture = load_capture(tiny)
    expected = (label != 0) & (label != 90) if with_labels else np.ones(SIZE, bool)
    assert np.array_equal(capture.image(0)[..., 3].numpy(), expected)
    assert any("no alpha" in line for line in capture.report)


def test_label_is_the_red_channel(tiny: Path, written: Path) -> None:
    path = tiny / "seg_mask/00001.png"
    red = np.array(Image.open(path))
    Image.fromarray(np.stack([red, red * 0 + 7, red // 2], axis=-1)).save(path)
    assert torch.equal(load_capture(tiny).label(1), load_capture(written).label(1))


def test_some_frames_lack_optional_files(tiny: Path) -> None:
    for name in ("depth/00003.png", "seg_mask/00003.png", "landmarks/00003.txt", "flame/exp/00003.txt"):
        (tiny / name).unlink()
    capture = load_capture(tiny)
    assert capture.depth(3).max() > 0.5 and capture.label(3).max() == 0 and capture.landmarks(3) is None
    assert capture.depth(2).max() > 0.5 and capture.landmarks(2) is not None
    assert capture.state([2]).expression is None  # all frames or none
    assert sum("images/00003.png" in line for line in capture.report) == 4


def test_depth_scale_and_eyes_path(tiny: Path) -> None:
    def change(content):
        content["integer_depth_scale"] = 0.00101
        content["frames"][0]["eyes_path"] = "flame/eyes/00000.txt"

    edit(tiny, change)
    capture = load_capture(tiny)
    stored = np.array(Image.open(tiny / "depth/00000.png"))
    np.testing.assert_allclose(capture.depth(0).numpy(), stored * 0.00101, rtol=1e-6)
    assert any("eyes_path" in line for line in capture.report)


def test_the_regions_are_those_of_the_head_that_the_meshes_are_of(tmp_path: Path) -> None:
    """Also of a mesh with other faces: in another order, a mouth that is closed, an eyeball with a face of its own."""
    head = hf.synthetic.procedural_head()
    closed, own = head.template(), head.derived_regions()
    vertices = closed.canonical_vertices
    turned = closed.faces.flip(0).roll(1, dims=1)
    eyeball = own["left_eyeball"].nonzero()[[0, 20, 40], 0]
    faces = torch.cat([turned, head.faces[eyeball, 0][None]])
    frame = replace(tiny_frames(1)[0], vertices=vertices)
    write_insta(tmp_path / "head", [frame, frame], vertices, faces, test_frames=1)
    regions = load_capture(tmp_path / "head", head=head, mouth="none", head_frame="keep").template.regions
    count = len(closed.faces) - len(head.faces)  # the faces that close the mouth, which come first now
    for name in ("eyes", "nose", "scalp"):
        assert torch.equal(regions[name][count:-1].flip(0), own[name]), name
    assert bool(regions["eyes"][-1]) and not bool(regions["nose"][-1])
    assert torch.equal(regions["mouth"][:-1].flip(0), closed.regions["mouth"])
    with pytest.raises(CaptureError, match="leave root and eyelids out"):
        load_capture(tmp_path / "head", head=head, root=tmp_path)
    write_insta(tmp_path / "blob", tiny_frames(2), *blob(), test_frames=1)
    with pytest.raises(CaptureError, match=r"the head has 4,515 vertices, and the meshes of .* 362"):
        load_capture(tmp_path / "blob", head=head)


@table(
    "file, content, message",
    [
        ("flame_params.json", "{}", "layout of IMavatar.*pass head="),
        ("transforms_train.json", '{"frames": [{"expression": [0]}]}', "NeRFace"),
        ("transforms_train.json", '{"frames": [{"flame_param_path": "a"}]}', "VHAP"),
        (
            "transforms_train.json",
            '{"frames": [{"file_path": "a"}]}',
            "transforms_train.json, whose frames have no mesh_path",
        ),
        ("transforms_train.json", '{"frames": [', "line 1, column 13"),
        ("holiday.txt", "", "Found holiday.txt"),
        ("holiday.jpg", "", "It has images, and no tracked meshes; headfields capture"),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(CaptureError, match=message):
        load_capture(tmp_path)


def test_writer_refuses(tmp_path: Path) -> None:
    frames, (vertices, faces) = tiny_frames(2), blob()
    with pytest.raises(ValueError, match="frames is empty"):
        write_insta(tmp_path, [], vertices, faces)
    with pytest.raises(ValueError, match="test_frames is 3"):
        write_insta(tmp_path, frames, vertices, faces, test_frames=3)
    with pytest.raises(ValueError, match="frame 0 has 362 vertices; canonical_vertices has 361"):
        write_insta(tmp_path, frames, vertices[1:], faces[(faces < len(vertices) - 1).all(1)])


def test_one_frame(tmp_path: Path) -> None:
    write_insta(tmp_path / "one", tiny_frames(1), *blob())
    capture = load_capture(tmp_path / "one")
    assert isinstance(capture, Capture) and len(capture.splits["train"]) == 1 and len(capture.splits["test"]) == 0
