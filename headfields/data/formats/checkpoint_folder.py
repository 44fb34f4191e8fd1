"""Folders of trackers that keep one `checkpoint/*.frame` file for each image: which tracker, which image of which file.

metrical-tracker numbers its files from 0 and tracks the sorted images of a folder; images that ffmpeg extracted are
numbered from 1. Only `input/` and `cropped/` have the files' own names.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from headfields.data.errors import CaptureError
from headfields.data.formats.flame_frames import CameraReading
from headfields.data.formats.image_folder import ImageFolder
from headfields.data.image_files import exists
from headfields.files.arrays import load_arrays

__all__ = ["frame_files", "paired_image", "paired_readings", "pairings", "tracker_of"]

Tracker = Literal["metrical-tracker", "Pixel3DMM"]


def _checkpoints(folder: Path) -> list[Path]:
    """Folders called checkpoint with `.frame` files: the folder's own, or else those of its subfolders."""
    own = folder / "checkpoint"
    folders = (
        [own] if any(own.glob("*.frame")) else sorted({path.parent for path in folder.glob("*/checkpoint/*.frame")})
    )
    return [place for place in folders if place.is_dir()]


def tracker_of(folder: Path) -> Tracker | None:
    """The tracker whose files the folder has; files that cannot be read count as metrical-tracker's."""
    folders = _checkpoints(folder)
    if not folders:
        return None
    try:
        camera = load_arrays(min(folders[0].glob("*.frame"))).get("camera")
    except (OSError, ValueError):
        return "metrical-tracker"
    bases = isinstance(camera, dict) and any(str(key).startswith("R_base") for key in camera)
    return "Pixel3DMM" if bases else "metrical-tracker"


def frame_files(folder: Path) -> list[Path]:
    """The `.frame` files, sorted by number.

    Raises:
        CaptureError: there are several checkpoint folders, or a file's name is no number.
    """
    folders = _checkpoints(folder)
    if len(folders) != 1:
        names = ", ".join(str(place.parent.relative_to(folder)) for place in folders[:4]) or "none"
        raise CaptureError(f"{folder}: several folders have a checkpoint ({names}); expected one, move the others away")
    paths = list(folders[0].glob("*.frame"))
    for path in paths:
        if not exists(path):
            raise CaptureError(f"{path} is no file; remove it")
        if not path.stem.isdecimal() or len(path.stem) > 9:
            raise CaptureError(f"{path}: expected a number as its name, as 00012.frame; remove it")
    return sorted(paths, key=lambda path: int(path.stem))


def pairings(paths: Sequence[Path], images: ImageFolder, same_names: bool) -> dict[str, list[int]]:
    """Ways to pair files with images, by a name for messages: for each, the image of every file.

    Args:
        paths: the files, sorted by number.
        images: the images.
        same_names: whether the tracker gives an image and its file the same name.

    Raises:
        CaptureError: an image is missing.
    """
    count, place = len(images), images.folder.name
    row = {Path(name).stem: index for index, name in enumerate(images.names)}
    by_name = [row.get(path.stem, -1) for path in paths]
    if same_names and min(by_name) < 0:
        path = paths[by_name.index(-1)]
        raise CaptureError(f"{path}: {place} has no image {path.stem}; add it or remove the file")
    if same_names:
        return {"by name": by_name}
    if len(paths) == count:
        return {"in order": list(range(count))}
    numbers = [int(path.stem) for path in paths]
    candidates: dict[str, list[int]] = {}
    if min(by_name) >= 0:
        candidates["file and image have the same name"] = by_name
    for name, first in (("file 0 is the first image", 0), ("the last file is the last image", count - 1 - numbers[-1])):
        rows = [number + first for number in numbers]
        if min(rows) >= 0 and max(rows) < count and rows not in candidates.values():
            candidates[name] = rows
    if not candidates:
        raise CaptureError(
            f"{paths[0].parent} has {len(paths)} files, {numbers[0]} to {numbers[-1]}, and {place} {count} images, of "
            "other names; expected an image for each file: remove the others, or add what is missing"
        )
    return candidates


def paired_readings(
    matrices: Float[np.ndarray, "f 4 4"],
    intrinsics: Float[np.ndarray, "f 3 3"],
    images: ImageFolder,
    rows: Mapping[str, Sequence[int]],
) -> list[CameraReading]:
    """A reading of the same cameras for each way to pair files with images."""
    return [
        CameraReading(pairing, matrices, intrinsics, functools.partial(paired_image, images, chosen))
        for pairing, chosen in rows.items()
    ]


def paired_image(images: ImageFolder, rows: Sequence[int], index: int) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA of a frame, whose image is that of `rows[index]`."""
    return images.image(rows[index])
