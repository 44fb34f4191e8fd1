"""Calibrations of several cameras: `camera_params.json` as NeRSemble has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import FOCAL_LENGTHS
from headfields.data.rigid_transforms import are_rigid
from headfields.files.checked import checked_arrays
from headfields.files.reading import read_json, reading

__all__ = ["CALIBRATIONS", "calibrated_names", "read_calibration"]

CALIBRATIONS = ("camera_params.json", "calibration/camera_params.json")
"""Where a folder has its calibration."""


def calibrated_names(path: Path) -> list[str]:
    """Names of the cameras in a calibration, sorted.

    Raises:
        CaptureError: it has no `world_2_cam` by camera.
    """
    return sorted(str(name) for name in _table(path, read_json(path, CaptureError), "world_2_cam", ()))


def read_calibration(
    path: Path, sizes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, Float[np.ndarray, "4 4"]], dict[str, Float[np.ndarray, "3 3"]]]:
    """World to camera and intrinsics of each camera.

    The file is an object with `world_2_cam`, a rigid matrix (4, 4) by name, OpenCV axes, and `intrinsics`, a matrix
    (3, 3) by name or one for all, pixels.

    Args:
        path: the file.
        sizes: (height, width) of the images of each camera that is wanted.

    Raises:
        CaptureError: names file, field and camera.
    """
    content = read_json(path, CaptureError)
    tables = {key: _table(path, content, key, list(sizes)) for key in ("world_2_cam", "intrinsics")}
    for key, table in tables.items():
        missing = [name for name in sizes if name not in table]
        if missing:
            raise CaptureError(
                f"{path}: {key} has no camera {missing[0]} (it has {', '.join(sorted(table)[:20])}); remove its video, "
                "or copy the file again"
            )
    views = {name: _matrix(path, f"world_2_cam of {name}", tables["world_2_cam"][name], 4) for name in sizes}
    lenses = {name: _matrix(path, f"intrinsics of {name}", tables["intrinsics"][name], 3) for name in sizes}
    for name, (height, width) in sizes.items():
        if not are_rigid(views[name]):
            raise CaptureError(f"{path}: world_2_cam of {name} is no rotation with a shift; copy the file again")
        (fx, _, cx), (turn, fy, cy), last = lenses[name]
        low, high = FOCAL_LENGTHS[0] * max(height, width), FOCAL_LENGTHS[1] * max(height, width)
        inside = 0 <= cx <= width and 0 <= cy <= height
        if not (low <= fx <= high and low <= fy <= high and inside) or turn or np.abs(last - [0, 0, 1]).max() > 1e-6:
            raise CaptureError(
                f"{path}: intrinsics of {name} are {lenses[name].tolist()}; expected those of images of "
                f"{width}x{height} pixels, the principal point among them"
            )
    return views, lenses


def _table(path: Path, content: Any, key: str, names: Any) -> dict[str, Any]:
    """A field by camera; one matrix of intrinsics is that of all `names`."""
    table = content.get(key) if isinstance(content, dict) else None
    if key == "intrinsics" and isinstance(table, list):
        table = dict.fromkeys(names, table)
    if not isinstance(table, dict):
        raise CaptureError(f"{path}: {key} is no object with a matrix for each camera; copy the file again")
    return table


def _matrix(path: Path, what: str, rows: Any, side: int) -> np.ndarray:
    with reading(path, "a matrix", CaptureError, where=f"{path}: {what}"):
        return checked_arrays(str(path), {what: np.array(rows)}, {what: f"{side} {side}"})[what]
