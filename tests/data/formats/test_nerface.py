"""NeRFace's data sets: cameras and expressions, and no meshes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture, load_nerface
from headfields.data.errors import CaptureError
from tests.data import broken
from tests.data.formats import vhap_folder

SIZE = (24, 20)
COUNTS = {"train": 4, "val": 1, "test": 2}


def pose(index):
    """Camera to world, OpenGL axes."""
    matrix = np.eye(4)
    matrix[:3, :3] = vhap_folder.rodrigues(np.array([0.05, 0.2 * index - 0.4, 0.1])).numpy()
    matrix[:3, 3] = (0.02 * index, 0.01, 0.5)
    return matrix


def write(folder, intrinsics=(-60.0, -62.0, 0.52, 0.47), alpha=False):
    index = 0
    for split, count in COUNTS.items():
        (folder / split).mkdir(parents=True)
        frames = []
        for number in range(count):
            pixels = np.full((*SIZE, 4 if alpha else 3), 30 + 20 * index, np.uint8)
            Image.fromarray(pixels).save(folder / split / f"f_{number:04d}.png")
            expression = (0.01 * index * np.arange(76)).tolist()
            frames.append({"file_path": f"./{split}/f_{number:04d}", "transform_matrix": pose(index).tolist(),
                           "expression": expression, "bbox": [0.1, 0.9, 0.25, 0.75]})  # fmt: skip
            index += 1
        content = {"camera_angle_x": 0.3, "intrinsics": list(intrinsics), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nerface") / "person_1")


def row_of(recording, split, number):
    return recording.frame_names.index(f"{split}/f_{number:04d}.png")


def test_images_cameras_expressions_and_splits_are_those_written(written):
    recording = load_nerface(written)
    assert len(recording) == 7 and recording.size == SIZE
    assert {key: len(value) for key, value in recording.splits.items()} == {**COUNTS, "all": 7}
    index = 0
    for split, count in COUNTS.items():
        rows = [row_of(recording, split, number) for number in range(count)]
        assert recording.splits[split].tolist() == sorted(rows)
        for row in rows:
            assert torch.allclose(recording.image(row)[..., :3], torch.tensor((30 + 20 * index) / 255))
            assert np.allclose(recording.expression[row], 0.01 * index * np.arange(76))
            assert recording.boxes[row].tolist() == pytest.approx([2.4, 21.6, 5.0, 15.0])
            index += 1
    assert any("pose no other head" in line for line in recording.report)
    assert any("no mattes" in line for line in recording.report)


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (-1, 1), (1, -1)])
def test_rays_are_those_of_nerface_whatever_the_signs(tmp_path, signs):
    fx, fy, cx, cy = 60.0 * signs[0], 62.0 * signs[1], 0.52, 0.47
    recording = load_nerface(write(tmp_path / "a", (fx, fy, cx, cy)))
    row, (u, v) = row_of(recording, "train", 2), (3.0, 17.5)
    local = np.array([(u - SIZE[1] * cx) / fx, -(v - SIZE[0] * cy) / fy, -1.0])  # as NeRFace defines a pixel's ray
    point = pose(2)[:3, :3] @ (0.6 * local) + pose(2)[:3, 3]
    mirrored = signs[0] * signs[1] < 0
    point[0] *= -1 if mirrored else 1
    camera = recording.camera([row])
    pixel, depth = camera.project(torch.from_numpy(point).float()[None, None])
    assert torch.allclose(pixel[0, 0], torch.tensor([u, v]), atol=1e-3) and float(depth) == pytest.approx(0.6, abs=1e-5)
    assert torch.linalg.det(camera.world_to_camera[0, :3, :3]) == pytest.approx(1.0, abs=1e-5)
    assert mirrored == any("mirrored" in line for line in recording.report)


def test_without_intrinsics_the_angle_counts(tmp_path):
    folder = write(tmp_path / "a", (), alpha=True)
    recording = load_nerface(folder)
    assert recording.camera([0]).intrinsics[0, 0, 0] == pytest.approx(10 / np.tan(0.15), rel=1e-5)
    assert any("camera_angle_x" in line for line in recording.report)
    assert not any("no mattes" in line for line in recording.report)


def test_load_capture_says_what_it_is(written, tmp_path):
    with pytest.raises(CaptureError, match=r"data set of NeRFace: .*no meshes.*load_nerface"):
        load_capture(written)
    with pytest.raises(CaptureError, match="other layouts are opened by load_capture"):
        load_nerface(tmp_path)
    with pytest.raises(CaptureError, match="is not a folder"):
        load_nerface(tmp_path / "none")


def changed(key, value, shared=False):
    """Changes a field of the frame train/f_0001, or of all files."""

    def change(content):
        places = [content] if shared else [f for f in content["frames"] if f["file_path"] == "./train/f_0001"]
        for place in places:
            broken.put(place, key, value)

    return broken.in_json("transforms_*.json", change)


_VALUES = {
    "missing": ..., "null": None, "text": "x y", "an object": {"a": 1}, "a number": 3.0, "empty": [], "true": True,
    "of words": ["a"] * 76, "nested": [[1.0, 2.0]], "nan": [float("nan")] * 76, "infinite": [float("inf")] * 4,
    "one number": [0.0], "huge": [1e30] * 76, "hundreds of digits": [10**400] * 4, "with a truth value": [True] * 4,
}  # fmt: skip
_TOLERATED = {
    "bbox: missing", "bbox: null",  # not in all data sets
    "intrinsics: missing", "intrinsics: null", "intrinsics: empty",  # camera_angle_x says it
    "camera_angle_x: missing", "camera_angle_x: text", "camera_angle_x: null",  # intrinsics say it
    # The other files say which frames there are.
    *(f"transforms_{split}.json: {kind}" for split in COUNTS for kind in ("missing", "a folder")),
}  # fmt: skip


def _rows():
    for key in ("transform_matrix", "expression", "bbox"):
        for kind, value in _VALUES.items():
            yield _row(f"{key}: {kind}", changed(key, value), (r"train/f_0001", key))
    for kind, value in {**_VALUES, "a path": "train/other", "leading out": "../a/f_0001", "absolute": "/f_0001",
                        "of another frame": "./train/f_0002"}.items():  # fmt: skip
        yield _row(f"file_path: {kind}", changed("file_path", value), (r"frames\[1\]|listed twice", "file_path"))
    for kind, value in _VALUES.items():
        yield _row(f"intrinsics: {kind}", changed("intrinsics", value, shared=True), ("intrinsics",))
    for kind, value in {"in image sides": [3.0, 3.0, 0.5, 0.5][:1] * 4, "with pixels": [60.0, 60.0, 10.0, 12.0],
                        "zero": [0.0, 60.0, 0.5, 0.5], "five": [60.0, 60.0, 0.5, 0.5, 0.1]}.items():  # fmt: skip
        yield _row(f"intrinsics: {kind}", changed("intrinsics", value, shared=True), ("intrinsics",))
    for kind, value in {"missing": ..., "text": "x", "null": None}.items():
        yield _row(f"camera_angle_x: {kind}", changed("camera_angle_x", value, shared=True), ("camera_angle_x",))
    matrix = pose(1)
    for kind, value in {"scaled": 2 * matrix, "mirrored": matrix @ np.diag([-1.0, 1, 1, 1]), "3x3": matrix[:3, :3],
                        "far": matrix + 1e6 * np.eye(4, k=3), "transposed": matrix.T}.items():  # fmt: skip
        yield _row(f"transform_matrix: {kind}", changed("transform_matrix", value.tolist()), ("transform_matrix",))
    for kind, value in {"turned round": [0.9, 0.1, 0.2, 0.8], "in pixels": [2, 20, 3, 15], "negative": [-0.1, 1, 0, 1],
                        "of five": [0, 1, 0, 1, 0]}.items():  # fmt: skip
        yield _row(f"bbox: {kind}", changed("bbox", value), ("train/f_0001", "bbox"))
    yield _row("expression: one less", changed("expression", [0.0] * 75), ("train/f_0001", "expression has 75"))
    for split in COUNTS:
        name = f"transforms_{split}.json"
        yield from (
            row if row.name not in _TOLERATED else broken.Broken(row.name, row.apply, None)
            for row in broken.files(name)
        )
    yield from broken.files("train/f_0001.png")
    for kind, pixels in {"another size": np.zeros((30, 20, 3), np.uint8), "with alpha": np.zeros((*SIZE, 4), np.uint8),
                         "16 bits": np.zeros(SIZE, np.uint16)}.items():  # fmt: skip
        save = lambda folder, pixels=pixels: Image.fromarray(pixels).save(folder / "train/f_0001.png")  # noqa: E731
        yield _row(f"an image: {kind}", save, ("train/f_0001",))


def _row(name, apply, names):
    return broken.Broken(name, apply, None if name in _TOLERATED else names)


def _all(recording):
    for frame in range(len(recording)):
        recording.image(frame)
    recording.camera(range(len(recording)))


@pytest.mark.parametrize("row", broken.params(_rows()))
def test_broken_data_sets_are_refused_by_name(row, written, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: _all(load_nerface(folder)))
