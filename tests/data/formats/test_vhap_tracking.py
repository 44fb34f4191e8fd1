"""The parameters that VHAP's tracker writes before its export, opened as a capture."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture
from headfields.data.errors import CaptureError
from tests.data import broken
from tests.data.formats import silhouettes, vhap_folder

SIZE = (40, 34)
STEPS = 4
OUTPUT = "output/2025-01-02_10-00-00"
FOCAL = 3.0


def values_of(head, step):
    return vhap_folder.parameters(head, step)


def view():
    """World to camera, OpenCV axes, of the camera at (0, 0, 1)."""
    matrix = np.diag([1.0, -1, -1, 1])
    matrix[2, 3] = 1.0
    return matrix


def intrinsics(size=SIZE):
    return np.array([[FOCAL * max(size), 0, size[1] / 2], [0, FOCAL * max(size), size[0] / 2], [0, 0, 1]])


def rows_of(head, teeth=0):
    """The content of the file."""
    steps = [vhap_folder.parameters(head, step, teeth=teeth) for step in range(STEPS)]
    rows = {key: np.concatenate([step[key] for step in steps]) for key in
            ("rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose", "expr", "dynamic_offset")}  # fmt: skip
    return rows | {
        "shape": steps[0]["shape"],
        "static_offset": steps[0]["static_offset"],
        "timestep_id": np.array([f"{step:05d}" for step in range(STEPS)]),
        "n_processed_frames": np.array(0),
        "focal_length": np.array([FOCAL], np.float32),
        "image_size": np.array(SIZE),
        "tex": np.zeros(5),
    }


def write(folder, head, size=SIZE, **changes):
    for name in ("images", "alpha_maps", OUTPUT):
        (folder / name).mkdir(parents=True)
    for step in range(STEPS):
        vertices = vhap_folder.posed(head, values_of(head, step))
        mask = silhouettes.matte(vertices, head.faces, view(), intrinsics(size), size)
        Image.fromarray(silhouettes.picture(mask, 50 + 20 * step)).save(folder / f"images/{step:05d}.png")
        Image.fromarray(mask).save(folder / f"alpha_maps/{step:05d}.png")
    rows = {key: value for key, value in (rows_of(head) | changes).items() if value is not None}
    for epoch, scale in ((0, 0.9), (30, 1.0), (4, 0.8)):
        np.savez(folder / OUTPUT / f"tracked_flame_params_{epoch}.npz", **rows | {"expr": rows["expr"] * scale})
    return folder


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    return write(tmp_path_factory.mktemp("vhap_tracking") / "sequence", head)


def opened(folder, head, **options):
    return load_capture(folder, head=head, head_frame="keep", mouth="none", **options)


def check_frames(capture, head, size=SIZE):
    for step in range(STEPS):
        assert (capture.state(step).vertices[0] - vhap_folder.posed(head, values_of(head, step))).abs().max() < 2e-6
        assert np.allclose(capture.camera(step).world_to_camera[0], view(), atol=1e-6)
        assert np.allclose(capture.camera(step).intrinsics[0], intrinsics(size), atol=1e-4)
        assert torch.equal(capture.image(step)[..., 3] > 0.5, (capture.image(step)[..., :3] < 1).any(-1))


def test_meshes_cameras_and_mattes_are_those_of_the_last_epoch(written, head):
    capture = opened(written, head)
    assert len(capture) == STEPS and capture.size == SIZE and not capture.warnings
    assert capture.report[0] == "layout: VHAP's tracker"
    assert any("tracked_flame_params_30.npz, the last epoch" in text for text in capture.report)
    check_frames(capture, head)
    exported = vhap_folder.parameters(head, 0)["shape"]
    assert torch.equal(capture.state(1).expression[0], torch.from_numpy(values_of(head, 1)["expr"][0])), exported


def test_the_output_folder_opens_with_the_images_beside(written, head, tmp_path):
    folder = shutil.copytree(written / OUTPUT, tmp_path / "a")
    with pytest.raises(CaptureError, match="no images; expected a folder images"):
        opened(folder, head)
    for name in ("images", "alpha_maps"):
        shutil.copytree(written / name, folder / name)
    check_frames(opened(folder, head), head)


def test_images_of_another_resolution(tmp_path, head):
    check_frames(opened(write(tmp_path / "a", head, (60, 51)), head), head, (60, 51))


def test_teeth_that_the_head_lacks_are_left_out(tmp_path, head):
    rows = rows_of(head, teeth=120)
    folder = write(tmp_path / "a", head, static_offset=rows["static_offset"], dynamic_offset=rows["dynamic_offset"])
    capture = opened(folder, head)
    expected = vhap_folder.posed(head, vhap_folder.parameters(head, 2, teeth=120))
    assert (capture.state(2).vertices[0] - expected).abs().max() < 2e-6
    assert any("VHAP's teeth" in text for text in capture.report)


def test_without_names_images_are_paired_in_order(tmp_path, head):
    folder = write(tmp_path / "a", head, timestep_id=None, image_size=None)
    check_frames(opened(folder, head), head)
    (folder / "images/00003.png").unlink()
    with pytest.raises(CaptureError, match="4 time steps, no timestep_id, and images has 3 images"):
        opened(folder, head)


def test_a_calibrated_recording_needs_its_export(tmp_path, head):
    with pytest.raises(CaptureError, match=r"no focal_length: the recording was calibrated.*export_as_nerf_dataset"):
        opened(write(tmp_path / "a", head, focal_length=None), head)


def test_copies_for_workers_decode_the_same(written, head):
    capture = opened(written, head)
    copy = pickle.loads(pickle.dumps(capture))
    assert torch.equal(copy.image(1), capture.image(1))
    assert torch.equal(copy.state(1).vertices, capture.state(1).vertices)


_TOLERATED = {
    "static_offset: missing", "dynamic_offset: missing", "image_size: missing", "n_processed_frames: missing",
    "timestep_id: missing", "tex: missing", "n_processed_frames: a word", "tex: nan", "focal_length: of a scalar",
    "images/00009.png: one more", "image_size: twice as large",
    "expr: a column less",  # fewer coefficients are legal
}  # fmt: skip
_KEYS = ("rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose", "expr", "shape", "static_offset",
         "dynamic_offset", "focal_length", "image_size", "timestep_id")  # fmt: skip


def _field_rows():
    numbers = {key: broken.ARRAYS[key] for key in ("text", "a word", "nan", "infinite", "of no numbers", "complex")}
    for key in _KEYS:
        for kind, change in ({"missing": lambda array: ...} | numbers).items():
            if key != "timestep_id" or kind in ("missing", "of no numbers", "complex", "a word"):
                yield key, kind, change if key != "timestep_id" or kind != "complex" else lambda array: np.arange(4)
    for key in ("rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose", "expr", "dynamic_offset"):
        yield key, "a row less", lambda array: array[:-1]
        yield key, "a column less", lambda array: array[:, :-1]
    for key in ("shape", "expr", "translation", "focal_length"):
        yield key, "huge", broken.ARRAYS["huge"]
    yield "shape", "of more coefficients", lambda array: np.ones(400)
    yield "static_offset", "of another mesh", lambda array: array[:, :77]
    yield "focal_length", "negative", lambda array: -array
    yield "focal_length", "in pixels", lambda array: array * 512
    yield "focal_length", "of a scalar", lambda array: array[0]
    yield "focal_length", "for each frame", lambda array: np.repeat(array, STEPS)
    yield "image_size", "turned", lambda array: array[::-1]
    yield "image_size", "twice as large", lambda array: array * 2
    yield "timestep_id", "of other images", lambda array: np.char.add("1", array)
    yield "timestep_id", "one twice", lambda array: array[[0, 0, 1, 2]]
    for key in ("n_processed_frames", "tex"):
        yield key, "missing", lambda array: ...
    yield "n_processed_frames", "a word", lambda array: np.array("x")
    yield "tex", "nan", broken.ARRAYS["nan"]
    yield "translation", "in millimeters", lambda array: array + 900


def _rows():
    path = f"{OUTPUT}/tracked_flame_params_30.npz"
    for key, kind, change in _field_rows():
        name = f"{key}: {kind}"
        named = "calibrated" if name == "focal_length: missing" else "expr" if name == "expr: a row less" else key
        yield broken.Broken(
            name, broken.array(path, key, change), None if name in _TOLERATED else (Path(path).name, named)
        )
    yield from broken.files(path, missing=None)
    yield from broken.files("images/00002.png", "00002")
    yield from broken.files("alpha_maps/00002.png", "00002")
    yield broken.Broken(
        "images/00009.png: one more", lambda f: shutil.copy(f / "images/00001.png", f / "images/00009.png"),
        ("alpha_maps: 00009 is missing",),
    )  # fmt: skip
    yield broken.Broken(
        "images of two cameras", lambda f: shutil.copy(f / "images/00001.png", f / "images/cam1_00001.png"),
        ("cam1_00001",),
    )  # fmt: skip
    yield broken.Broken("no images", lambda f: shutil.rmtree(f / "images"), ("no images",))


@pytest.mark.parametrize("row", broken.params(_rows()))
def test_broken_folders_are_refused_by_name(row, written, head, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: opened(folder, head).validate())
