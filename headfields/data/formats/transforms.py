"""Reader of `transforms*.json`, as INSTA and VHAP write them: frames, splits and cameras."""

import itertools
import json
import math
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headfields.data.errors import CaptureError
from headfields.data.image_files import natural_key
from headfields.files.reading import file_bytes

__all__ = [
    "FOCAL_LENGTHS",
    "TransformsFrame",
    "distortion_of",
    "intrinsics_of",
    "matrix_of",
    "numbers_of",
    "read_frames",
    "read_transforms",
    "splits_from_end",
]

_TEST_FRAMES = 350
_VAL_FRAMES = 20
_READ = (
    "transform_matrix", "exp_path", "pose_path", "joints_path", "depth_path", "seg_mask_path", "landmark_path",
    "fg_mask_path", "k1", "k2", "k3", "k4", "p1", "p2", "camera_model", "is_fisheye",
    "fl_x", "fl_y", "cx", "cy", "x_fov", "y_fov", "camera_angle_x", "camera_angle_y", "w", "h",
    "integer_depth_scale",
)  # fmt: skip
"""The keys that are read, besides `file_path` and the head's, which identify a frame."""
_LENSES = {
    "PINHOLE": (), "SIMPLE_PINHOLE": (), "SIMPLE_RADIAL": ("k1",), "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2", "k3"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
}  # fmt: skip
"""Coefficients of COLMAP's camera models, which transforms files name; OpenCV's have OpenCV's order."""
FOCAL_LENGTHS = (0.05, 100.0)  # plausible focal lengths, image sides
_FARTHEST = 1e4  # meters; a pose in millimeters is detected because its camera does not see the mesh
_CENTER = 10.0  # largest distance of the principal point from the image (crops), image sides


def splits_from_end(op: str, count: int, test_frames: int | None = None) -> dict[str, list[int]]:
    """Splits of `count` frames: the last `test_frames` are "test" (None: 350, or a fifth), of them the last 20 "val".

    Raises:
        ValueError: more test frames than frames.
    """
    tests = min(_TEST_FRAMES, count // 5) if test_frames is None else test_frames
    if not 0 <= tests <= count:
        raise ValueError(f"{op}: test_frames is {tests}; expected 0 to {count}, the number of frames")
    test = list(range(count - tests, count))
    return {"train": list(range(count - tests)), "test": test, "val": test[-_VAL_FRAMES:]}


@dataclass(frozen=True)
class TransformsFrame:
    """One frame's fields (its own override the file's global ones) and its place in the file.

    Paths may lead out of the capture's folder by `levels` folders.
    """

    values: dict[str, Any]
    source: str
    index: int
    name: str = field(default="")
    levels: int = 0

    @property
    def where(self) -> str:
        """The frame's name in messages."""
        return f"frame {self.name or self.index} ({self.source}, frames[{self.index}])"

    def path(self, key: str) -> str:
        """A normalized path relative to the capture; images listed without extension are PNG.

        Raises:
            CaptureError: the value is no text, or leads out of the capture's folder farther than `levels`.
        """
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise CaptureError(f"{self.where}: {key} is {_short(value)}; expected a path relative to the capture")
        clean = posixpath.normpath(value.replace("\\", "/"))
        inside = clean
        for _ in range(self.levels):
            inside = inside.removeprefix("../")
        if inside.startswith(("/", "../")) or inside == ".." or re.match("[A-Za-z]:", inside):
            remedy = (
                "name a folder above both as root"
                if self.levels
                else "move the file into it and write its path relative to it"
            )
            raise CaptureError(f"{self.where}: {key} {value!r} leads out of the capture's folder; {remedy}")
        return clean if "." in clean.rsplit("/", 1)[-1] or key != "file_path" else clean + ".png"

    def number(self, key: str) -> float:
        """A finite number.

        Raises:
            CaptureError: the value is anything else.
        """
        value = self.values.get(key)
        if not _is_number(value):
            raise CaptureError(f"{self.where}: {key} is {_short(value)}; expected a finite number")
        return float(value)  # type: ignore[arg-type]


def read_frames(
    folder: Path, report: list[str], head_key: str = "mesh_path", levels: int = 0
) -> tuple[list[TransformsFrame], dict[str, list[int]]]:
    """All frames sorted by the path of their head, `head_key`, and the splits as indices into them.

    `transforms_{train,test,val}.json` define the splits, and `transforms.json` may add frames. Without a test file the
    test frames are those outside train; with `transforms.json` alone they are the last 350, as in INSTA's tools, or the
    last fifth of a sequence of fewer than 1,750 frames. Without a val file, val is the last 20 test frames.

    Raises:
        CaptureError: there is no transforms file or no frame, or frames repeat or contradict each other.
    """
    listed: dict[str, list[TransformsFrame]] = {}
    for split in ("all", "train", "test", "val"):
        path = folder / ("transforms.json" if split == "all" else f"transforms_{split}.json")
        if path.is_file():
            listed[split] = [replace(frame, levels=levels) for frame in read_transforms(path)]
    if not listed:
        raise CaptureError(
            f"{folder}: no transforms.json, transforms_train.json, transforms_test.json or transforms_val.json"
        )
    known: dict[tuple[str, str], TransformsFrame] = {}
    by_image: dict[str, tuple[str, str]] = {}
    keys: dict[str, dict[tuple[str, str], None]] = {}
    for split, frames in listed.items():
        keys[split] = {}
        for frame in frames:
            key = (frame.path(head_key), frame.path("file_path"))
            if key in keys[split]:
                raise CaptureError(
                    f"{frame.where}: the same {head_key} and file_path are listed twice in {frame.source}; "
                    "remove one of the two"
                )
            if by_image.setdefault(key[1], key) != key:
                raise CaptureError(
                    f"{frame.where}: file_path {key[1]} has {head_key} {key[0]} here and "
                    f"{by_image[key[1]][0]} in another frame; expected one head per image"
                )
            keys[split][key] = None
            known[key] = _merged(known[key], frame) if key in known else frame
    order = sorted(known, key=lambda key: natural_key("\n".join(key)))
    if not order:
        raise CaptureError(f"{folder}: the transforms files list no frames")
    row = {key: index for index, key in enumerate(order)}
    splits = {split: sorted(row[key] for key in names) for split, names in keys.items()}
    splits["all"] = list(range(len(order)))
    if "train" not in splits and "test" not in splits:
        count = min(_TEST_FRAMES, len(order) // 5)
        splits["test"] = splits["all"][len(order) - count :]
        report.append(f"no transforms_train.json or transforms_test.json: the last {count} frames are test")
    for split, other in (("test", "train"), ("train", "test")):
        if split not in splits:
            used = set(splits[other])
            splits[split] = [index for index in splits["all"] if index not in used]
            if other in listed:
                report.append(f"no transforms_{split}.json: {split} is the {len(splits[split])} frames outside {other}")
    shared = sorted({*splits["train"]} & {*splits["test"]})
    if shared:
        report.append(
            f"warning: {len(shared)} frames are in both train and test "
            f"({_first_names(order[row][1] for row in shared)}); figures on test then include training frames"
        )
    if "val" not in splits:
        splits["val"] = splits["test"][-_VAL_FRAMES:]
        report.append(f"no transforms_val.json: val is the last {len(splits['val'])} test frames")
    for split in ("train", "test", "val"):
        if not splits[split]:
            report.append(f"split {split} has no frames")
    frames = [replace(known[key], name=known[key].path("file_path")) for key in order]
    return frames, {split: splits[split] for split in ("train", "test", "val", "all")}


def matrix_of(frame: TransformsFrame, key: str = "transform_matrix") -> np.ndarray:
    """The (4, 4) float64 matrix under `key`, checked to be rigid.

    Raises:
        CaptureError: the matrix has another shape, or is not finite, sheared, scaled or mirrored.
    """
    rows = frame.values.get(key)
    shape: tuple[int, ...] = ()
    if isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        shape = (len(rows), *sorted({len(row) for row in rows}))
    if shape not in ((4, 4), (3, 4)):
        raise CaptureError(
            f"{frame.where}: {key} has shape {shape} and reads {_short(rows)}; expected 4 rows of 4 numbers"
        )
    entries = [entry for row in rows for entry in row]  # type: ignore[union-attr]
    try:  # Python reads NaN and Infinity
        if any(isinstance(entry, bool) or not isinstance(entry, int | float) for entry in entries):
            raise TypeError
        matrix = np.array(entries, dtype=np.float64).reshape(shape)
    except (TypeError, OverflowError):
        raise CaptureError(f"{frame.where}: {key} reads {_short(rows)}; expected 4 rows of 4 numbers") from None
    if shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1]])
    if not np.isfinite(matrix).all():
        raise CaptureError(f"{frame.where}: {key} holds a value that is not finite; remove the frame")
    if np.abs(matrix[:3, 3]).max() > _FARTHEST:
        raise CaptureError(f"{frame.where}: {key} shifts by {_short(matrix[:3, 3].tolist())}; expected meters")
    rotation = matrix[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if not error <= 1e-3 or np.linalg.det(rotation) < 0 or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise CaptureError(
            f"{frame.where}: {key} is not rigid (its 3x3 part is off orthonormal by {error:.2g}, "
            f"determinant {np.linalg.det(rotation):.4g}, last row {matrix[3].tolist()}); "
            "expected a rotation and a shift, no scale and no mirror"
        )
    return matrix


def numbers_of(frame: TransformsFrame, key: str, count: int | None = None) -> Float[np.ndarray, " n"]:
    """The list of finite numbers under `key`, float64; `count` of them, if it is given.

    Raises:
        CaptureError: the value is anything else.
    """
    values = frame.values.get(key)
    expected = "a list of finite numbers" if count is None else f"a list of {count} finite numbers"
    fits = isinstance(values, list) and all(_is_number(value) for value in values)
    if not fits or (count is not None and len(values) != count):  # type: ignore[arg-type]
        raise CaptureError(f"{frame.where}: {key} is {_short(values)}; expected {expected}")
    return np.array([float(value) for value in values], np.float64)  # type: ignore[union-attr]


def intrinsics_of(frame: TransformsFrame, size: tuple[int, int], report: list[str]) -> np.ndarray:
    """The (3, 3) pixel intrinsics.

    Focal length x is `fl_x`, or else from `x_fov` (degrees) or `camera_angle_x` (radians); y likewise, or else as x.
    The principal point is `cx`, `cy`, or else the image's center. Contradictions are reported once.

    Raises:
        CaptureError: there is no focal length in x, or a value is implausible.
    """
    height, width = size
    focal: dict[str, float] = {}
    for axis, extent in (("x", width), ("y", height)):
        choices = {}
        if f"fl_{axis}" in frame.values:
            choices[f"fl_{axis}"] = frame.number(f"fl_{axis}")
        for key, unit in ((f"{axis}_fov", math.pi / 180), (f"camera_angle_{axis}", 1.0)):
            if key in frame.values:
                angle = frame.number(key) * unit
                if not 0 < angle < math.pi:
                    raise CaptureError(
                        f"{frame.where}: {key} is {frame.values[key]}; expected an angle between 0 and 180 degrees"
                    )
                choices[key] = extent / (2 * math.tan(angle / 2))
        if not choices and axis == "x":
            raise CaptureError(f"{frame.where}: none of fl_x, x_fov and camera_angle_x is given; one is needed")
        key, focal[axis] = next(iter(choices.items())) if choices else ("fl_x", focal["x"])
        low, high = FOCAL_LENGTHS[0] * max(size), FOCAL_LENGTHS[1] * max(size)
        if not low <= focal[axis] <= high:
            raise CaptureError(
                f"{frame.where}: {key} is {frame.values.get(key)}, a focal length of {focal[axis]:g} pixels; "
                f"expected {low:g} to {high:g} for images of {width}x{height} pixels"
            )
        for other, value in choices.items():
            if abs(value / focal[axis] - 1) > 0.01:
                line = f"{key} is used; {other} would give a focal length that is more than 1 % off"
                if line not in report:
                    report.append(line)
    defaults = {"fl_y": "as fl_x", "cx": "the image's middle", "cy": "the image's middle"}
    known = {*frame.values, *(["fl_y"] if {"y_fov", "camera_angle_y"} & {*frame.values} else [])}
    for key in [key for key in defaults if key not in known]:
        line = f"no {key}: {defaults[key]}"
        if line not in report:
            report.append(line)
    cx = frame.number("cx") if "cx" in frame.values else width / 2
    cy = frame.number("cy") if "cy" in frame.values else height / 2
    for key, value, side in (("cx", cx, width), ("cy", cy, height)):
        if not -_CENTER * side <= value <= (1 + _CENTER) * side:
            raise CaptureError(
                f"{frame.where}: {key} is {value:g}; expected a place in or near the image, which is "
                f"{width}x{height} pixels"
            )
    return np.array([[focal["x"], 0, cx], [0, focal["y"], cy], [0, 0, 1]])


def distortion_of(frames: list[TransformsFrame]) -> np.ndarray | None:
    """Lens distortion of each frame, (F, 5) radial-tangential or (F, 4) fisheye, as `Camera.distortion` has it.

    The keys are those of instant-ngp's and Nerfstudio's files: `k1` to `k4`, `p1` and `p2`, missing ones are 0, and
    `camera_model` or `is_fisheye`. None if no frame has a coefficient that is not 0.

    Raises:
        CaptureError: a coefficient is no finite number, the model is unknown or differs between frames, or a
            coefficient is not of the model.
    """
    keys = ("k1", "k2", "k3", "k4", "p1", "p2")
    if not any(key in frame.values for frame in frames for key in (*keys, "camera_model", "is_fisheye")):
        return None
    rows, models = [], set()
    for frame in frames:
        numbers = {key: frame.number(key) if key in frame.values else 0.0 for key in keys}
        model, fisheye = frame.values.get("camera_model", "OPENCV"), frame.values.get("is_fisheye", False)
        if not isinstance(model, str) or model not in _LENSES or not isinstance(fisheye, bool):
            raise CaptureError(
                f"{frame.where}: camera_model is {_short(model)} and is_fisheye {_short(fisheye)}; expected one of "
                f"{', '.join(sorted(_LENSES))}, and true or false: undistort the images, or write OpenCV's coefficients"
            )
        kind = "OPENCV_FISHEYE" if fisheye else model
        names = _LENSES[kind]
        beyond = [key for key in keys if numbers[key] and key not in names]
        if beyond:
            raise CaptureError(
                f"{frame.where}: {beyond[0]} is {numbers[beyond[0]]:g}, and the camera_model {kind} has "
                f"{', '.join(names) or 'no distortion'}; expected 0, or another camera_model"
            )
        models.add(kind == "OPENCV_FISHEYE")
        rows.append([numbers[key] for key in _LENSES["OPENCV_FISHEYE" if kind == "OPENCV_FISHEYE" else "OPENCV"]])
    if len(models) > 1:
        raise CaptureError("transforms files: camera_model is a fisheye in some frames only; expected one for all")
    coefficients = np.array(rows)
    return coefficients if coefficients.any() else None


def read_transforms(path: Path) -> list[TransformsFrame]:
    """The frames of one transforms file.

    Raises:
        CaptureError: the JSON is malformed (with line and column), or no object with a list of frames.
    """
    try:
        content = json.loads(file_bytes(path).decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise CaptureError(
            f"{path}: malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}; export it again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # not text, or numbers or nesting beyond all bounds
        raise CaptureError(f"{path}: cannot be read ({error}); export it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise CaptureError(f"{path}: expected an object with a list of frames under 'frames'")
    shared = {key: value for key, value in content.items() if key != "frames"}
    frames = []
    for index, entry in enumerate(content["frames"]):
        if not isinstance(entry, dict):
            raise CaptureError(f"{path}: frames[{index}] is {_short(entry)}; expected an object")
        name = entry.get("file_path")
        frames.append(TransformsFrame({**shared, **entry}, path.name, index, name if isinstance(name, str) else ""))
    return frames


def _merged(first: TransformsFrame, again: TransformsFrame) -> TransformsFrame:
    """One frame merged from its entries in two files.

    Raises:
        CaptureError: the entries contradict each other.
    """
    for key in _READ:
        one, other = first.values.get(key), again.values.get(key)
        if one is None or other is None or one == other or json.dumps(one) == json.dumps(other):  # NaN is not NaN
            continue
        raise CaptureError(
            f"{again.where}: {key} differs from the one in {first.source} ({_short(other)}, {_short(one)}); "
            "the files are not of one capture: export them together, or remove one"
        )
    present = {key: value for key, value in first.values.items() if value is not None}
    return replace(first, values={**again.values, **present})


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _short(value: object) -> str:
    text = "a huge integer" if isinstance(value, int) and abs(value) > 10**30 else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _first_names(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, 4))
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
