"""Captures of lenses with distortion: undistorted as they are read."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.data import capture_from_arrays, load_capture
from headfields.data.errors import CaptureError
from headfields.data.formats.insta_writer import write_insta
from headfields.records.lens import distort, undistort
from tests.data.formats import vhap_folder
from tests.data.tiny import SIZE, blob, tiny_frames

KEYS = {5: ("k1", "k2", "p1", "p2", "k3"), 4: ("k1", "k2", "k3", "k4")}
LENSES = {"radial-tangential": (-0.9, 0.6, 0.02, -0.015, 0.1), "fisheye": (-0.5, 0.2, 0.05, 0.1)}


def _seen(camera, lens):
    """Where each pixel of the distorted image looks in the straight one: x and y, (H, W, 2)."""
    k = camera.intrinsics.reshape(3, 3).double()
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).double() + 0.5
    plane = (pixels - k[:2, 2]) / k.diagonal()[:2]
    directions, valid = undistort(plane, torch.tensor(lens, dtype=torch.float64))
    assert valid.all()
    return directions[..., :2] / directions[..., 2:] * k.diagonal()[:2] + k[:2, 2]


def _frames(lens):
    """Frames whose red and green are ramps over the straight image, photographed through the lens."""
    frames = []
    for frame in tiny_frames(4):
        x, y = _seen(frame.camera, lens).unbind(-1)
        column, row = (v.floor().long().clamp(0, side - 1) for v, side in ((x, SIZE[1]), (y, SIZE[0])))
        image = np.full((*SIZE, 4), 255, np.uint8)
        image[..., 0], image[..., 1] = ((v * 4 + 20).round().clamp(0, 255).numpy() for v in (x, y))
        camera = frame.camera.replace(distortion=torch.tensor(lens, dtype=torch.float32))
        local = torch.from_numpy(np.stack([frame.landmarks[:, 0], frame.landmarks[:, 1]], 1)).double()
        k = camera.intrinsics.double()
        plane = torch.nn.functional.pad((local - k[:2, 2]) / k.diagonal()[:2], (0, 1), value=1.0)
        landmarks = distort(plane, torch.tensor(lens, dtype=torch.float64)) * k.diagonal()[:2] + k[:2, 2]
        values = {
            "image": image,
            "label": frame.label[row, column],
            "depth": frame.depth[row, column],
            "landmarks": landmarks.float().numpy(),
        }
        frames.append((frame, camera, values))
    return frames


def _edit(folder, change):
    for path in folder.glob("transforms*.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def _write(folder, frames, lens):
    write_insta(folder, [_replaced(frame, values) for frame, _, values in frames], *blob(), test_frames=1)
    fisheye = {"camera_model": "OPENCV_FISHEYE"} if len(lens) == 4 else {}
    _edit(folder, lambda content: content.update(fisheye | dict(zip(KEYS[len(lens)], lens, strict=True))))
    return folder


def _replaced(frame, values):
    return type(frame)(**{**vars(frame), **values})


def _check(capture, frames):
    grid = torch.stack(torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij"), dim=-1).flip(-1)
    for index, (frame, _, _) in enumerate(frames):
        rgba = capture.image(index) * 255
        whole = rgba[..., 3] > 254
        assert whole.float().mean() > 0.6
        assert (rgba[..., :2] - ((grid + 0.5) * 4 + 20).clamp(0, 255))[whole].abs().max() < 2.5
        same = capture.label(index) == torch.from_numpy(frame.label)
        assert same[whole].float().mean() > 0.93  # twice the nearest pixel
        assert torch.allclose(capture.landmarks(index), torch.from_numpy(frame.landmarks), atol=2e-3)
        assert capture.camera(index).distortion is None
        assert set(capture.recording.decode_image(index)[2].ravel()) <= {0, *frame.depth.ravel()}
    assert any(line.startswith("lens distortion (") for line in capture.report)


@pytest.fixture(scope="module", params=list(LENSES))
def lens(request):
    return LENSES[request.param]


@pytest.fixture(scope="module")
def frames(lens):
    return _frames(lens)


@pytest.fixture(scope="module")
def written(frames, lens, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("lens") / "tiny", frames, lens)


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def test_instas_layout_is_undistorted(written, frames):
    _check(load_capture(written, head_frame="keep"), frames)


def test_arrays_are_undistorted(frames):
    _vertices, faces = blob()
    columns = {key: [values[key] for _, _, values in frames] for key in ("image", "label", "depth", "landmarks")}
    capture = capture_from_arrays(
        columns["image"],
        hf.Camera.stack([camera for _, camera, _ in frames]),
        [frame.vertices for frame, _, _ in frames],
        hf.Mesh(blob()[0], faces),
        labels=columns["label"],
        depth=columns["depth"],
        landmarks=columns["landmarks"],
    )
    _check(capture, frames)


def test_what_is_written_again_has_no_distortion(written, frames, tmp_path):
    capture = load_capture(written, head_frame="keep")
    hf.data.save_capture(capture, tmp_path / "again")
    again = load_capture(tmp_path / "again", head_frame="keep")
    assert torch.equal(again.image(1), capture.image(1)) and torch.equal(again.label(2), capture.label(2))
    assert not any("distortion" in line for line in again.report)
    with pytest.raises(hf.records.DistortedCameraError, match="write_insta"):
        frame, camera, _ = frames[0]
        write_insta(tmp_path / "bent", [_replaced(frame, {"camera": camera})], *blob())


def test_coefficients_of_zero_change_nothing(folder, lens, frames):
    _edit(folder, lambda content: content.update(dict.fromkeys(KEYS[len(lens)], 0.0)))
    capture = load_capture(folder)
    assert np.array_equal((capture.image(0) * 255).round().byte().numpy(), frames[0][2]["image"])
    assert not any("distortion" in line for line in capture.report)


_WRONG = {
    "text": {"k1": "little"}, "null": {"k1": None}, "list": {"k2": [0.1]}, "true": {"k1": True},
    "NaN": {"k1": math.nan}, "infinite": {"k2": math.inf}, "digits": {"k1": 10**400}, "folds": {"k1": -60.0},
    "explodes": {"k2": 1e9}, "huge": {"k1": 1e300}, "model unknown": {"camera_model": "FULL_OPENCV"},
    "model a number": {"camera_model": 3}, "model a list": {"camera_model": ["OPENCV"]},
    "fisheye a word": {"is_fisheye": "no"}, "coefficient of the other model": {"p1": 0.1, "k4": 0.1},
    "pinhole with coefficients": {"camera_model": "PINHOLE"},
}  # fmt: skip


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in _WRONG.items()])
def test_wrong_coefficients_are_named(folder, change):
    _edit(folder, lambda content: content.update(change))
    with pytest.raises(CaptureError, match=rf"images/0000\d\.png.*({'|'.join(change)}|lens distortion)"):
        load_capture(folder)


def test_one_frame_with_another_model_is_refused(folder, lens):
    def change(content):
        for frame in content["frames"]:
            if frame["file_path"] == "images/00001.png":
                frame.update(is_fisheye=len(lens) == 5, camera_model="OPENCV", k3=0, p1=0, p2=0)

    _edit(folder, change)
    with pytest.raises(CaptureError, match="camera_model"):
        load_capture(folder)


def test_vhaps_layout_needs_to_know_the_center(tmp_path):
    head = vhap_folder.tiny_head()
    straight = load_capture(vhap_folder.write(tmp_path / "a", head, steps=2), head=head)
    _edit(tmp_path / "a", lambda content: content.update(k1=-0.2))
    with pytest.raises(CaptureError, match="no cy_counts_from"):
        load_capture(tmp_path / "a", head=head)
    _edit(tmp_path / "a", lambda content: content.update(cy_counts_from="lower border"))
    capture = load_capture(tmp_path / "a", head=head)
    assert any("lens distortion" in line for line in capture.report)
    assert 0 < (capture.image(0) - straight.image(0))[..., 3].abs().mean() < 0.1
