"""Several cameras as one recording: units, which comes first, and calibrations that do not fit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.prepare_cameras import camera_sources, prepare_cameras
from headfields.apps.capturing.recording_files import load_untracked
from headfields.data import CaptureError
from headfields.ops.rotations import rotation_matrices
from tests.tables import table

SIDE, COUNT = 64, 3
POINTS = torch.randn(68, 3, generator=torch.Generator().manual_seed(1)) * 0.03
POINTS[36], POINTS[45] = torch.tensor([-0.045, 0.0, 0.0]), torch.tensor([0.045, 0.0, 0.0])
LENS = np.array([[150.0, 0, 30], [0, 150.0, 33], [0, 0, 1]])
NAMES = ("left", "222200037")


def poses():
    """World to camera, meters: side by side, the second turned."""
    out = {}
    for name, turn in zip(NAMES, (0.0, 0.5), strict=True):
        pose = np.eye(4)
        pose[:3, :3] = rotation_matrices(torch.tensor([0.0, turn, 0.0])).double().numpy()
        pose[:3, 3] = [0, 0, 0.7]
        out[name] = pose
    return out


def folder_of(path, unit=1.0, change=lambda content: None, counts=(COUNT, COUNT)):
    placed = poses()
    for (name, pose), count in zip(placed.items(), counts, strict=True):
        at = path / (name if name == "left" else f"images/cam_{name}")
        (at / "landmarks").mkdir(parents=True)
        local = POINTS.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
        image = np.full((SIDE, SIDE, 4), 200, np.uint8)
        image[:2, :, 3] = 0
        pixels = local @ LENS.T
        for frame in range(count):
            Image.fromarray(image).save(at / f"{frame}.png")
            known = pixels[:, :2] / pixels[:, 2:] if frame or name != "left" else np.full((68, 2), np.nan)
            np.save(at / "landmarks" / f"{frame}.npy", known.astype(np.float32))
    content = {
        "world_2_cam": {name: np.vstack([np.c_[pose[:3, :3], pose[:3, 3] / unit], [0, 0, 0, 1]]).tolist()
                        for name, pose in placed.items()},
        "intrinsics": LENS.tolist(),
    }  # fmt: skip
    content["world_2_cam"]["without a video"] = np.eye(4).tolist()
    change(content)
    (path / "camera_params.json").write_text(json.dumps(content))
    return path


def prepared(path, out, crop="none", side=None):
    sources = camera_sources(path, path / "camera_params.json")
    files = {name: DetectionFiles(own.path / "landmarks") for name, own in sources.items()}
    return prepare_cameras(sources, path / "camera_params.json", out, files, crop=crop, side=side)


@pytest.mark.parametrize(("unit", "said"), [(1.0, ""), (0.001, "in millimeters"), (0.37, "no metric unit")])
def test_cameras_share_one_space_in_meters(tmp_path, unit, said):
    recording = prepared(folder_of(tmp_path / "in", unit), tmp_path / "out")
    assert [own.name for own in recording.cameras] == ["222200037", "left"]  # the one with more faces first
    report = "\n".join(recording.report)
    assert said in report and "camera 00 is 222200037, with a face in 3 of 3 frames" in report
    assert "camera without a video of the calibration has no video or folder of images, and is left out" in report
    placed = recording.camera_in_first(recording.others[0], 1)
    own = poses()
    truth = own["left"] @ np.linalg.inv(own["222200037"])
    assert np.allclose(placed, truth, atol=0.02 if "no metric" in said else 1e-6)
    assert np.allclose(recording.intrinsics[0], LENS)
    for again in (prepared(tmp_path / "in", tmp_path / "out"), load_untracked(tmp_path / "out")):
        assert np.array_equal(again.camera_in_first(again.others[0], 1), placed) and again.report == recording.report
    content = json.loads((tmp_path / "in" / "camera_params.json").read_text())
    content["world_2_cam"]["left"][0][3] += 0.5
    (tmp_path / "in" / "camera_params.json").write_text(json.dumps(content))
    with pytest.raises(CaptureError, match="world_2_cam of left is not what it was when the run was begun"):
        prepared(tmp_path / "in", tmp_path / "out")


def test_crops_of_all_cameras_have_one_size_and_keep_the_rays(tmp_path):
    recording = prepared(folder_of(tmp_path / "in"), tmp_path / "out", "auto", 48)
    for own in recording.cameras:
        assert own.size == (48, 48) and own.image(1).shape == (48, 48, 4)
        camera = own.camera([1])
        pixels = camera.project(POINTS[None])[0].reshape(-1, 2)
        assert torch.allclose(pixels, own.landmarks(1), atol=1e-3)


def _other_axes(content):
    for name, pose in content["world_2_cam"].items():
        content["world_2_cam"][name] = (np.diag([1.0, -1, -1, 1]) @ pose).tolist()


def _inverted(content):
    for name, pose in content["world_2_cam"].items():
        content["world_2_cam"][name] = np.linalg.inv(pose).tolist()


@table(
    ("change", "counts", "message"),
    [
        (_other_axes, (3, 3), "do not meet"),
        (_inverted, (3, 3), "do not meet"),
        (lambda content: content.pop("world_2_cam"), (3, 3), "world_2_cam is no object"),
        (lambda content: content["world_2_cam"].pop("left"), (3, 3), None),
        (lambda content: content.update(intrinsics={"left": LENS.tolist()}), (3, 3), "intrinsics has no camera 2222"),
        (lambda content: content["world_2_cam"].update(left=[[1, 2], [3, 4]]), (3, 3), "world_2_cam of left"),
        (lambda content: None, (2, 3), "camera left has 2 frames and 222200037 3"),
        (lambda content: content.update(world_2_cam={"nobody": np.eye(4).tolist()}), (3, 3), "no folder or video"),
    ],
)
def test_calibrations_that_do_not_fit_are_named(tmp_path, change, counts, message):
    path = folder_of(tmp_path / "in", change=change, counts=counts)
    if message is None:  # a camera less is a recording of the other
        assert len(prepared(path, tmp_path / "out").cameras) == 1
        return
    with pytest.raises(CaptureError, match=message):
        prepared(path, tmp_path / "out")
