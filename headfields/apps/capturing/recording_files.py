"""Files of untracked recordings: what `headfields capture` writes and trackers read."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headfields.data.errors import CaptureError
from headfields.data.image_files import decode_image
from headfields.data.untracked import JOINED_FILE, RECORDING_FILE, UntrackedRecording
from headfields.files.arrays import load_numbers, save_arrays
from headfields.files.atomic import write_image, write_text
from headfields.files.reading import read_json, reading
from headfields.files.versions import FileFormat

__all__ = ["load_untracked", "write_joined", "write_recording_file", "write_untracked"]

FORMAT = FileFormat("headfields.recording", "a recording", 1, "run headfields capture again on its video")
_CAMERAS = "cameras"
"""Folder of the recordings of other cameras."""


def write_untracked(folder: str | Path, recording: UntrackedRecording) -> Path:
    """Writes a recording as a folder that `load_untracked` reads: PNG images with their mattes in alpha, labels,
    landmarks.npz, other cameras' folders and, last, recording.json.

    Frames in `failed` have no files.
    """
    folder = Path(folder)
    landmarks = np.full((len(recording), 478, 2), np.nan, np.float32)
    counts = np.zeros(len(recording), np.int64)
    has_label = False
    for frame in range(len(recording)):
        if frame in recording.failed:
            continue
        write_image(folder / "images" / f"{frame:05d}.png", recording.decode_image(frame))
        label = recording.decode_label(frame)
        if label is not None:
            write_image(folder / "labels" / f"{frame:05d}.png", label)
            has_label = True
        points = recording.decode_landmarks(frame)
        if points is not None:
            landmarks[frame, : len(points)], counts[frame] = points, len(points)
    save_arrays(folder / "landmarks.npz", {"landmarks": landmarks[:, : max(int(counts.max(initial=0)), 1)],
                                           "counts": counts})  # fmt: skip
    for number, other in enumerate(recording.others):
        write_untracked(folder / _CAMERAS / f"{number + 1:02d}", other)
    write_recording_file(folder, recording, has_label)
    return folder


def write_recording_file(folder: Path, recording: UntrackedRecording, has_label: bool) -> None:
    """Writes recording.json, which makes the folder whole."""
    content = {
        "name": recording.name,
        "size": list(recording.size),
        "frame_names": recording.frame_names,
        "has_label": has_label,
        "intrinsics": None if recording.intrinsics is None else recording.intrinsics.tolist(),
        "world_to_camera": None if recording.world_to_camera is None else recording.world_to_camera.tolist(),
        "center": None if recording.center is None else list(recording.center),
        "default_focal": recording.default_focal,
        "failed": {str(frame): reason for frame, reason in recording.failed.items()},
        "cuts": list(recording.cuts),
        "splits": None if recording.own_splits is None else {k: list(v) for k, v in recording.own_splits.items()},
        "report": list(recording.report),
        "cameras": len(recording.cameras),
    }
    write_text(folder / RECORDING_FILE, json.dumps(FORMAT.stamp(content), indent=1) + "\n")


def write_joined(folder: Path, names: Sequence[str], scale: float, report: Sequence[str]) -> None:
    """Writes cameras.json, which joins the recordings in the folders of these names; `load_untracked` reads it.

    Args:
        folder: of the folders.
        names: the cameras, the first one first.
        scale: meters per unit of their poses.
        report: lines on the cameras.
    """
    content = {"cameras": list(names), "scale": scale, "report": list(report)}
    write_text(folder / JOINED_FILE, json.dumps(FORMAT.stamp(content), indent=1) + "\n")


def _joined(folder: Path) -> UntrackedRecording:
    content = read_json(folder / JOINED_FILE, CaptureError)
    FORMAT.check(folder / JOINED_FILE, content)
    with reading(folder / JOINED_FILE, "a recording from several cameras", CaptureError):
        names, scale = [str(name) for name in content["cameras"]], float(content["scale"])
        placed = []
        for name in names:
            recording = load_untracked(folder / name)
            assert recording.world_to_camera is not None
            pose = recording.world_to_camera.copy()
            pose[:, :3, 3] *= scale
            placed.append(dataclasses.replace(recording, name=name, world_to_camera=pose))
        report = (*(str(line) for line in content["report"]), *placed[0].report)
        return dataclasses.replace(placed[0], others=tuple(placed[1:]), report=report)


def load_untracked(folder: str | Path) -> UntrackedRecording:
    """Opens a folder that `write_untracked` or `headfields capture` wrote.

    Raises:
        FileNotFoundError: there is no recording.json.
        FileVersionError: another version of the library wrote it.
        CaptureError: it is damaged.
    """
    folder = Path(folder)
    if (folder / JOINED_FILE).is_file():
        return _joined(folder)
    content = read_json(folder / RECORDING_FILE, CaptureError)
    FORMAT.check(folder / RECORDING_FILE, content)
    with reading(folder / RECORDING_FILE, "a recording", CaptureError):
        landmarks = load_numbers(folder / "landmarks.npz", CaptureError)
        points, counts = landmarks["landmarks"], landmarks["counts"]
        names = [str(name) for name in content["frame_names"]]
        size = (int(content["size"][0]), int(content["size"][1]))
        if len(points) != len(names) or len(counts) != len(names):
            raise CaptureError(f"{folder}: landmarks.npz has {len(points)} frames and {RECORDING_FILE} {len(names)}")

        def image(frame: int) -> UInt8[np.ndarray, "h w 4"]:
            return decode_image(folder / "images" / f"{frame:05d}.png", names[frame], "image", "rgba", size)

        def label(frame: int) -> UInt8[np.ndarray, "h w"] | None:
            path = folder / "labels" / f"{frame:05d}.png"
            return decode_image(path, names[frame], "labels", "label", size) if path.is_file() else None

        def marks(frame: int) -> Float[np.ndarray, "l 2"] | None:
            count = int(counts[frame])
            return np.asarray(points[frame, :count], np.float32) if count else None

        def array(key: str) -> Float[np.ndarray, "f n n"] | None:
            return None if content[key] is None else np.array(content[key], np.float64)

        center, focal = content["center"], content["default_focal"]
        return UntrackedRecording(
            str(content["name"]), size, names, image, label, marks, array("intrinsics"), array("world_to_camera"),
            None if center is None else (float(center[0]), float(center[1])), None if focal is None else float(focal),
            {int(frame): str(reason) for frame, reason in content["failed"].items()}, tuple(content["cuts"]),
            content["splits"], tuple(content["report"]),
            tuple(load_untracked(folder / _CAMERAS / f"{row:02d}") for row in range(1, content["cameras"])),
        )  # fmt: skip
