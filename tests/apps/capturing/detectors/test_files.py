"""Detections of other programs: formats, matching to frames, bad files."""

import json

import numpy as np
import pytest
from PIL import Image

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.detectors.protocol import Detector
from headfields.apps.capturing.prepare import nearest_face
from headfields.apps.capturing.video import SourceFrame
from headfields.data.errors import CaptureError
from headfields.data.ibug_landmarks import IBUG_OF_MEDIAPIPE, ibug_points

POINTS = (np.arange(136).reshape(68, 2) * 0.5 + 3).astype(np.float32)


def frame(index: int = 0, stem: str | None = None) -> SourceFrame:
    stem = f"{index:05d}" if stem is None else stem
    return SourceFrame(index, f"frame {index}", stem, np.zeros((64, 96, 3), np.uint8))


def pts(points: np.ndarray) -> str:
    rows = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00000.pts", pts(POINTS)),
        ("00000.txt", "\n".join(f"{x}, {y}" for x, y in POINTS)),
        ("00000.csv", " ".join(str(value) for value in POINTS.flatten())),
        ("00000.json", json.dumps(POINTS.tolist())),
        ("00000.json", json.dumps({"landmarks": POINTS.tolist()})),
        ("00000.json", json.dumps({"landmarks": [{"x": x / 96, "y": y / 64, "z": 0.0} for x, y in POINTS.tolist()]})),
        ("00000.json", json.dumps({"people": [
            {"face_keypoints_2d": np.c_[np.r_[POINTS, [[9, 9], [8, 8]]], np.ones(70)].flatten().tolist()}]})),
    ],
)  # fmt: skip
def test_formats_of_one_file_a_frame(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    faces = DetectionFiles(tmp_path).landmarks_of(frame())
    assert faces.shape == (1, 68, 2) and np.abs(faces[0] - POINTS).max() < 1e-3
    assert DetectionFiles(tmp_path).landmarks_of(frame(1)) is None


def test_formats_of_one_file(tmp_path):
    rows = np.stack([POINTS, POINTS + 1])
    np.save(tmp_path / "all.npy", rows)
    np.savez(tmp_path / "all.npz", landmarks=rows, confidence=np.ones(2))
    (tmp_path / "list.json").write_text(json.dumps([rows[0].tolist(), rows[1].tolist()]))
    (tmp_path / "named.json").write_text(json.dumps({"00001.png": rows[1].tolist(), "00000.png": None}))
    for name in ("all.npy", "all.npz", "list.json"):
        assert np.array_equal(DetectionFiles(tmp_path / name).landmarks_of(frame(1))[0], rows[1])
        assert DetectionFiles(tmp_path / name).landmarks_of(frame(2)) is None


def test_files_are_matched_by_name_then_by_number(tmp_path):
    for number in (1, 2):
        np.save(tmp_path / f"frame_{number:04d}.npy", POINTS + number)
    files = DetectionFiles(tmp_path)  # numbered from 1
    assert np.array_equal(files.landmarks_of(frame(0))[0], POINTS + 1)
    assert np.array_equal(files.landmarks_of(frame(1, "frame_0002"))[0], POINTS + 2)
    own = tmp_path / "own"
    own.mkdir()
    np.save(own / "00001.npy", POINTS)  # the detector saw no face in frame 0
    assert DetectionFiles(own).landmarks_of(frame(0)) is None
    assert DetectionFiles(own).landmarks_of(frame(1)) is not None


def test_unknown_points_several_faces_and_mediapipe(tmp_path):
    points = POINTS.copy()
    points[5], points[6] = -1, np.nan
    mesh = np.zeros((2, 478, 3))
    mesh[1, list(IBUG_OF_MEDIAPIPE), :2] = POINTS
    np.save(tmp_path / "00000.npy", points)
    np.save(tmp_path / "00001.npy", mesh)
    files = DetectionFiles(tmp_path)
    known = np.isfinite(files.landmarks_of(frame(0))[0]).all(1)
    assert not known[5] and not known[6] and known.sum() == 66
    faces = files.landmarks_of(frame(1))
    assert faces.shape == (2, 68, 2) and np.array_equal(nearest_face(faces, POINTS + 2), POINTS)
    assert np.array_equal(nearest_face(faces, None), POINTS)  # the largest
    assert len(set(IBUG_OF_MEDIAPIPE)) == 68 and max(IBUG_OF_MEDIAPIPE) < 468
    with pytest.raises(ValueError, match=r"shape \(98, 2\)"):
        ibug_points(np.zeros((98, 2)))


def test_maps(tmp_path):
    for name in ("mattes", "labels"):
        (tmp_path / name).mkdir()
    values = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    Image.fromarray(values).save(tmp_path / "mattes" / "00000.png")
    Image.fromarray(np.dstack([values * 0 + 9] * 3 + [values])).save(tmp_path / "mattes" / "00001.png")
    Image.fromarray(values).save(tmp_path / "labels" / "00000.png")
    files = DetectionFiles(None, tmp_path / "mattes", tmp_path / "labels")
    assert np.array_equal(files.matte_of(frame(0)), values) and np.array_equal(files.matte_of(frame(1)), values)
    assert np.array_equal(files.labels_of(frame(0)), values)
    assert files.matte_of(frame(2)) is None and files.landmarks_of(frame(0)) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("00000.pts", "68 points", "frame 0.*00000.pts.*braces"),
        ("00000.txt", "one two", "frame 0.*00000.txt"),
        ("00000.json", '{"shape": [1]}', "frame 0.*expected one of landmarks"),
        ("00000.json", "[[1, 2", "00000.json"),
        ("00000.npy", "nothing", "00000.npy"),
        ("00000.txt", "1 2\n3 4\n", r"shape \(2, 2\)"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CaptureError, match=message):
        DetectionFiles(tmp_path).landmarks_of(frame())


def test_missing_folders_and_sizes(tmp_path):
    with pytest.raises(CaptureError, match="has no landmarks"):
        DetectionFiles(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a folder of mattes"):
        DetectionFiles(None, tmp_path / "none")
    with pytest.raises(CaptureError, match=r"expected landmarks \(F, 68, 2\)"):
        np.savez(tmp_path / "empty.npz", scores=np.ones(3))
        DetectionFiles(tmp_path / "empty.npz")
    Image.new("L", (8, 8)).save(tmp_path / "00000.png")
    with pytest.raises(CaptureError, match=r"frame 0: matte .*8x8 pixels; expected 96x64"):
        DetectionFiles(None, tmp_path).matte_of(frame())


def test_an_object_with_the_three_methods_is_a_detector():
    class Nothing:
        def landmarks(self, image):
            return None

        matte = labels = landmarks

    assert isinstance(Nothing(), Detector)
