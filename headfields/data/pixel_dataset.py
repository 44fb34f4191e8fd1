"""A PyTorch dataset of a capture's pixels, for training loops with a `DataLoader`."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch.utils.data import Dataset

from headfields.data.capture import Capture
from headfields.data.frame_indices import Frames
from headfields.records import HeadState, PixelBatch

__all__ = ["PixelDataset"]


class PixelDataset(Dataset[tuple[PixelBatch, HeadState]]):
    """Each item: N random pixels of one frame, and its state. A `DataLoader` makes batches of several frames of them.

    Random numbers are torch's own, so that `torch.manual_seed`, or the loader's `generator`, decides them. In a batch
    `rays.frame` is the row of the state (`Record.collate`), so `avatar(pixels.rays, state, pixels.background)` renders
    it. Each worker process decodes frames into a cache of its own, of the capture's memory budget.

    Args:
        capture: the capture.
        frames: a split of the capture by name, or frames as for `Capture.state`.
        count: N, pixels of a frame.
        background: as for `Capture.sample_pixels`.
        weights: sampling weights of pixels, as for `Capture.sample_pixels`.

    Raises:
        ValueError: there is no such split, or count is negative.
        TypeError, IndexError: a frame is no integer, or out of range.
    """

    def __init__(
        self,
        capture: Capture,
        frames: Frames = "train",
        count: int = 1024,
        background: Literal["random", "white", "black"] = "random",
        weights: Mapping[int | str, float | int] | None = None,
    ) -> None:
        if isinstance(frames, str):
            if frames not in capture.splits:
                raise ValueError(
                    f"PixelDataset: capture {capture.name!r} has no split {frames!r}; it has "
                    f"{', '.join(sorted(capture.splits))}"
                )
            frames = capture.splits[frames]
        if count < 0:
            raise ValueError(f"PixelDataset: count is {count}; expected 0 or more")
        self.capture, self.count, self.background, self.weights = capture, count, background, weights
        self.frames = capture.frame_indices(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int) -> tuple[PixelBatch, HeadState]:
        frame = self.frames[item]
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        pixels, _ = self.capture.sample_pixels(frame, self.count, generator, self.background, self.weights)
        return pixels, self.capture.state(frame)
