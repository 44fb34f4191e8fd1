"""Fields of the `.frame` files that metrical-tracker and Pixel3DMM save with `torch.save`, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.files.unpickler import to_array
from headfields.ops.rotations import axis_angle, rotation_from_6d

__all__ = ["FrameFields"]

_LARGEST = 2**16  # pixels, the side of an image


class FrameFields:
    """The entries of one file, with errors that name file and field.

    Args:
        path: the file, for messages.
        raw: its content.
        tracker: the tracker that writes such files, for messages.
    """

    def __init__(self, path: Path, raw: Mapping[str, Any], tracker: str) -> None:
        self.path, self.raw, self.tracker = path, raw, tracker

    def find(self, field: str) -> Any:
        """The value of "a.b", or None."""
        group, _, key = field.rpartition(".")
        table = self.raw.get(group) if group else self.raw
        if group and table is not None and not isinstance(table, dict):
            raise CaptureError(f"{self.path}: {group} is a {type(table).__name__}; expected a dict")
        return None if table is None else table.get(key)

    def array(self, field: str, shape: tuple[int | None, ...]) -> Tensor:
        """Float64 numbers of a shape (None: any size), without the tracker's leading axis of one frame."""
        value = self.find(field)
        if value is None:
            group = field.rpartition(".")[0]
            table = self.raw.get(group, {}) if group else self.raw
            raise CaptureError(
                f"{self.path}: {field} is missing; a .frame of {self.tracker} has it "
                f"(this one has {', '.join(map(str, table)) or 'nothing'} there)"
            )
        array = to_array(value, f"{self.path}: {field}")
        stored = array.shape
        if len(stored) == len(shape) + 1 and stored[0] == 1:
            array = array[0]
        fits = array.ndim == len(shape) and all(w in (None, h) for h, w in zip(array.shape, shape, strict=True))
        if not fits or array.dtype.kind not in "fiu":
            expected = ", ".join("N" if size is None else str(size) for size in (1, *shape))
            raise CaptureError(
                f"{self.path}: {field} has shape {stored} and dtype {array.dtype}; expected numbers ({expected})"
            )
        if not np.isfinite(array).all():
            raise CaptureError(f"{self.path}: {field} has numbers that are not finite")
        return torch.from_numpy(array.astype(np.float64))

    def optional(self, field: str, shape: tuple[int | None, ...]) -> Tensor | None:
        """As `array`, or None if the entry is missing."""
        return None if self.find(field) is None else self.array(field, shape)

    def image_size(self) -> tuple[int, int]:
        """The two numbers of `img_size`, in the file's order."""
        size = self.array("img_size", (2,))
        if (size != size.round()).any() or (size < 1).any() or (size > _LARGEST).any():
            raise CaptureError(f"{self.path}: img_size is {size.tolist()}; expected two whole numbers, 1 to {_LARGEST}")
        return int(size[0]), int(size[1])

    def rotations(self, field: str, count: int) -> Tensor:
        """(count, 3) axis-angle from 6D rotations, whose two vectors are a matrix's rows."""
        values = self.array(field, (6 * count,)).reshape(count, 6)
        first, second = (torch.nn.functional.normalize(part, dim=-1) for part in values.split(3, dim=-1))
        if (torch.linalg.cross(first, second).norm(dim=-1) < 1e-6).any():
            raise CaptureError(f"{self.path}: {field} has a 6D rotation whose vectors are zero or parallel")
        return axis_angle(rotation_from_6d(values, rows=True))
