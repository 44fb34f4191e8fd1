"""A capture's pixels in the memory of a GPU, where a training step makes its batch of them.

A host needs milliseconds to gather the colors of a batch, and to make its rays; drawing which pixels they are takes it
a tenth of that. So it draws those, by the same random numbers as ever, and the device does the rest, in the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headfields.data.capture import Capture
from headfields.data.pixels import is_depth, pixel_batch, pixel_layout
from headfields.records import Camera, PixelBatch
from headfields.records.base import Record
from headfields.records.device_copy import send

__all__ = ["DevicePixels", "DrawnPixels"]

SHARE = 0.25
"""Of the device's free memory that pixels may take. Own choice."""


@dataclass(frozen=True)
class DrawnPixels(Record):
    """N pixels of B frames that have been drawn, and not been looked up.

    Attributes:
        row: (N,) which of the frames.
        pixel: (N,) row-major index in the image.
        background: (N, 3) the color behind each.
        frames: (B,) indices of the frames.
        camera: their cameras.
    """

    row: Int64[Tensor, " n"]
    pixel: Int64[Tensor, " n"]
    background: Float[Tensor, "n 3"]
    frames: Int64[Tensor, " b"]
    camera: Camera

    def __len__(self) -> int:
        return len(self.row)


class DevicePixels:
    """The stored pixels of a capture's frames, each sent when it is drawn for the first time.

    Args:
        capture: a capture with depth maps.
        device: where its pixels are kept.
    """

    def __init__(self, capture: Capture, device: torch.device) -> None:
        self._capture, self._device = capture, device
        layout = pixel_layout(capture.recording)
        self._stacks = {
            name: torch.empty((len(capture), *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in layout.items()
        }
        self._there: set[int] = set()

    @classmethod
    def where_they_fit(cls, capture: Any, device: torch.device) -> "DevicePixels | None":
        """None for captures of other kinds (joined ones, those that grow) and those without depth maps, where rays are
        cast for it, and where the device is no GPU or has too little memory."""
        if device.type != "cuda" or type(capture) is not Capture or not capture.recording.has_depth:
            return None
        numbers = pixel_layout(capture.recording).values()
        size = len(capture) * sum(shape[0] * dtype.itemsize for shape, dtype in numbers)
        free, _ = torch.cuda.mem_get_info(device)
        return cls(capture, device) if size <= SHARE * free else None

    def missing(self, frames: Sequence[int]) -> dict[int, Mapping[str, Tensor]] | None:
        """The pixels of frames that the device does not have, from a thread too; None: one of them has a pixel without
        a depth, so that its rays have to be cast on the host.

        Raises:
            CaptureError: a file cannot be read.
        """
        new = [frame for frame in dict.fromkeys(frames) if frame not in self._there]
        stored = self._capture.stored_pixels(new)
        if new and not bool(is_depth(stored["depth"]).all()):
            return None
        return {frame: {name: rows[place] for name, rows in stored.items()} for place, frame in enumerate(new)}

    def put(self, missing: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Sends what `missing` has found, in the order of the device's work."""
        for frame, stored in missing.items():
            for name, row in stored.items():
                self._stacks[name][frame].copy_(send(row, self._device), non_blocking=True)
        self._there.update(missing)

    @torch.no_grad()
    def batch(self, drawn: DrawnPixels) -> PixelBatch:
        """The batch that `Capture.sample_pixels` makes of these pixels, on the device; no host waits for it."""
        pixels = next(iter(self._stacks.values())).shape[1]
        place = drawn.frames.index_select(0, drawn.row) * pixels + drawn.pixel
        stored = {name: stack.view(-1).index_select(0, place) for name, stack in self._stacks.items()}
        return pixel_batch(stored, drawn.camera, drawn.row, drawn.pixel, drawn.background, self._capture.depth_unit)
