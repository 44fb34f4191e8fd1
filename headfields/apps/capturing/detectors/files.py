"""Detections that another program has written: landmarks, mattes and labels in files, matched to frames by name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from headfields.apps.capturing.video import SourceFrame
from headfields.data.errors import CaptureError
from headfields.data.ibug_landmarks import ibug_points
from headfields.data.image_files import decode_image
from headfields.files.arrays import load_npy, load_numbers
from headfields.files.reading import brief, file_bytes, read_json, reading

__all__ = ["DetectionFiles"]

_LANDMARKS = (".pts", ".txt", ".csv", ".json", ".npz", ".npy")
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_KEYS = ("landmarks", "pred_fls_2d", "lmks", "lmk", "keypoints", "points", "face_keypoints_2d", "pts", "kpts")
_FRACTION = 1.5
"""Landmarks that all lie below are fractions of width and height, as MediaPipe writes them, and not pixels."""


class DetectionFiles:
    """Landmarks, mattes and labels of a recording's frames, from files.

    A folder has one file a frame, matched by its name without suffix, else by the number in it (`frame_0012.json` is
    frame 12; if the lowest number is 1, numbers start from 1). One file for the whole recording has a row a frame, or
    entries by name.

    Landmarks: `.pts` (iBUG), `.txt` and `.csv` (x and y a line), `.json` (a list of points, or an object with one, as
    OpenPose's), `.npy`, `.npz`. 68 points in iBUG's order (of 70, OpenPose's, the first 68) or MediaPipe's 468 or 478;
    pixels, or fractions of the image if none is above 1.5; further columns are ignored; negative pairs and NaN are
    unknown ones. Mattes: images; alpha, if there is one that is not opaque throughout, else gray. Labels: images in
    INSTA's numbering.

    Args:
        landmarks, mattes, labels: file or folder of each, or None.

    Raises:
        FileNotFoundError: there is none.
        CaptureError: a folder has no files of the kind, or a file does not hold what it should.
    """

    def __init__(
        self, landmarks: str | Path | None = None, mattes: str | Path | None = None, labels: str | Path | None = None
    ) -> None:
        self._landmarks: dict[str, Any] = {}
        self._rows: np.ndarray | None = None
        self._where = {"landmarks": landmarks, "mattes": mattes, "labels": labels}
        if landmarks is not None:
            path = Path(landmarks)
            if path.is_dir():
                self._landmarks = _by_stem(path, _LANDMARKS, "landmarks")
            else:
                self._landmarks, self._rows = _of_recording(path)
        self._mattes = {} if mattes is None else _by_stem(Path(mattes), _IMAGES, "mattes")
        self._labels = {} if labels is None else _by_stem(Path(labels), _IMAGES, "labels")

    @property
    def given(self) -> set[str]:
        """Which of "landmarks", "mattes" and "labels" there are files of."""
        return {kind for kind, path in self._where.items() if path is not None}

    def landmarks_of(self, frame: SourceFrame) -> Float[np.ndarray, "k 68 2"] | None:
        """The faces of a frame (K, 68, 2), pixels; None if the files have none for it.

        Raises:
            CaptureError: its file cannot be read, or holds something else.
        """
        height, width = frame.rgb.shape[:2]
        if self._rows is not None:
            if frame.index >= len(self._rows):
                return None
            value: Any = self._rows[frame.index]
            where = f"{frame.name}: {self._where['landmarks']}"
        else:
            value = _matching(self._landmarks, frame)
            if value is None:
                return None
            where = f"{frame.name}: {value if isinstance(value, Path) else self._where['landmarks']}"
            if isinstance(value, Path):
                with reading(value, "a file of landmarks", CaptureError, where=where):
                    value = _read_landmarks(value)
        with reading(where, "landmarks", CaptureError):
            faces = _faces(value, where)
            return None if not len(faces) else np.stack([_in_pixels(face, height, width) for face in faces])

    def matte_of(self, frame: SourceFrame) -> UInt8[np.ndarray, "h w"] | None:
        """The matte of a frame; None if there is no file for it.

        Raises:
            CaptureError: it cannot be read, or has another size.
        """
        path = _matching(self._mattes, frame)
        if path is None:
            return None
        rgba = decode_image(path, frame.name, "matte", "rgba", frame.rgb.shape[:2])
        matte: np.ndarray = rgba[..., 3] if (rgba[..., 3] < 255).any() else rgba[..., 0]
        return np.ascontiguousarray(matte)

    def labels_of(self, frame: SourceFrame) -> UInt8[np.ndarray, "h w"] | None:
        """The labels of a frame; raises as `matte_of`."""
        path = _matching(self._labels, frame)
        if path is None:
            return None
        return decode_image(path, frame.name, "labels", "label", frame.rgb.shape[:2])


def _by_stem(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of {what}, one file a frame; there is none of that name")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)
    if not files:
        raise CaptureError(f"{folder} has no {what} ({', '.join(suffixes)}); name the folder that has one file a frame")
    stems: dict[str, Any] = {}
    for file in files:
        if file.stem in stems:
            raise CaptureError(f"{folder} has {stems[file.stem].name} and {file.name} for one frame; keep one")
        stems[file.stem] = file
    return stems


def _matching(by_stem: Mapping[str, Any], frame: SourceFrame) -> Any:
    """The entry of a frame: by its name, or by the number in the entry's."""
    if frame.stem in by_stem:
        return by_stem[frame.stem]
    number = re.compile(r"\d+(?=\D*$)")
    own = number.search(frame.stem)
    if own is None or any(len(stem) == len(frame.stem) and stem.isdecimal() for stem in by_stem):
        return None  # the names are the frames' own, and this frame has no file
    numbers = {int(match.group()): stem for stem in by_stem if (match := number.search(stem))}
    first = 1 if min(numbers, default=0) == 1 else 0
    stem = numbers.get(int(own.group()) + first)
    return None if stem is None else by_stem[stem]


def _of_recording(path: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    """The landmarks of all frames in one file: by name, or as rows."""
    with reading(path, "a file of landmarks", CaptureError, remedy="pass a folder with one file a frame, or an npz"):
        content: Any
        if path.suffix.lower() == ".json":
            content = read_json(path, CaptureError)
            if isinstance(content, dict):
                inner = next((content[key] for key in _KEYS if isinstance(content.get(key), list | dict)), None)
                content = content if inner is None else inner
            if isinstance(content, dict):
                return content, None
            if not isinstance(content, list):
                raise CaptureError(f"{path} holds {brief(content)}; expected landmarks by frame")
            return {f"{index:05d}": value for index, value in enumerate(content)}, None
        if path.suffix.lower() == ".npy":
            return {}, _checked_rows(load_npy(path, CaptureError), path)
        if path.suffix.lower() == ".npz":
            arrays = load_numbers(path, CaptureError)
            for key in (*_KEYS, *arrays):
                if key in arrays and arrays[key].ndim >= 3:
                    return {}, _checked_rows(arrays[key], path)
            by_name = {key: value for key, value in arrays.items() if value.ndim == 2}
            if by_name:
                return by_name, None
            raise CaptureError(f"{path} has {', '.join(arrays) or 'no arrays'}; expected landmarks (F, 68, 2)")
    raise CaptureError(f"{path} is no file of all frames' landmarks; expected .npz, .npy or .json, or a folder")


def _checked_rows(rows: np.ndarray, path: Path) -> np.ndarray:
    if rows.ndim not in (3, 4) or rows.shape[-1] < 2 or rows.dtype.kind not in "iuf":
        raise CaptureError(f"{path} has shape {rows.shape} and dtype {rows.dtype}; expected (F, 68, 2) or (F, 478, 2)")
    return rows


def _read_landmarks(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = read_json(path, CaptureError)
        if isinstance(content, dict) and isinstance(content.get("people"), list):  # OpenPose
            return [np.reshape(person["face_keypoints_2d"], (-1, 3)) for person in content["people"]
                    if person.get("face_keypoints_2d")]  # fmt: skip
        if isinstance(content, dict):
            key = next((key for key in _KEYS if key in content), None)
            if key is None:
                raise ValueError(f"it has the keys {brief(list(content))}; expected one of {', '.join(_KEYS)}")
            return content[key]
        return content
    if suffix == ".npy":
        return load_npy(path, CaptureError)
    if suffix == ".npz":
        arrays = load_numbers(path, CaptureError)
        key = next((key for key in (*_KEYS, *arrays) if key in arrays and arrays[key].ndim >= 2), None)
        if key is None:
            raise ValueError(f"it has {', '.join(arrays) or 'no arrays'}; expected landmarks (68, 2)")
        return arrays[key]
    text = file_bytes(path).decode("utf-8-sig")
    if suffix == ".pts":
        body = re.search(r"\{(.*?)\}", text, re.S)
        if body is None:
            raise ValueError("it has no points in braces, as iBUG's .pts files have")
        text = body.group(1)
    rows = [[float(token) for token in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()]
    if not rows:
        return []
    if len(rows) == 1 and len(rows[0]) in (136, 936, 956):
        return np.reshape(rows[0], (-1, 2))
    return np.array(rows)


def _faces(value: Any, where: str) -> list[np.ndarray]:
    """Faces (L, D) of one frame; none for an empty or missing entry."""
    if value is None or (isinstance(value, list) and not value):
        return []
    if isinstance(value, dict):
        raise CaptureError(f"{where} holds {brief(value)}; expected a list of points")
    if isinstance(value, list) and isinstance(value[0], dict):  # MediaPipe's points as objects
        value = [[point["x"], point["y"]] for point in value]
    if isinstance(value, list) and isinstance(value[0], np.ndarray):
        faces: list[np.ndarray] = [np.asarray(face, np.float64) for face in value]
    else:
        array = np.asarray(value, np.float64)
        if array.ndim == 1 and array.size % 2 == 0:
            array = array.reshape(-1, 2)
        faces = [array] if array.ndim == 2 else list(array) if array.ndim == 3 else []
        if array.ndim not in (2, 3):
            raise CaptureError(f"{where} has shape {array.shape}; expected (68, 2) or (478, 2)")
    cut = [face[:68] if len(face) == 70 else face for face in faces]
    points = [ibug_points(face, where) for face in cut]
    return [face for face in points if np.isfinite(face).all(1).any()]


def _in_pixels(face: Float[np.ndarray, "68 2"], height: int, width: int) -> Float[np.ndarray, "68 2"]:
    face = np.where((face < 0).all(1, keepdims=True), np.float32(np.nan), face)
    known = np.isfinite(face).all(1)
    if known.any() and face[known].max() <= _FRACTION:
        face = face * np.array([width, height], np.float32)
    return face.astype(np.float32)
