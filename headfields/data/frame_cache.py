"""Decoded frames in memory: stacked arrays with a byte budget, least recently used out first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from headfields.files.errors import CaptureError


class FrameStore:
    """Rows of stacked tensors, one row a decoded frame, so that a batch over many frames is one gather.

    Args:
        frames: number of frames of the capture.
        layout: array name → (shape, dtype) of one frame.
        decode: frame index → arrays by name; called from several threads.
        budget: bytes that the stacks may hold; frames beyond it are decoded again when they are needed again.
        what: what the frames hold, for the error message.

    Raises:
        CaptureError: one frame alone is over the budget.
    """

    def __init__(
        self,
        frames: int,
        layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        decode: Callable[[int], Mapping[str, np.ndarray]],
        budget: int,
        what: str,
    ) -> None:
        self.bytes_per_frame = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.values())
        self.slots = min(frames, budget // max(self.bytes_per_frame, 1))
        if frames and not self.slots:
            raise CaptureError(
                f"load_capture: one frame's {what} take {self.bytes_per_frame / 2**20:.1f} MB, more than their share "
                f"of memory_budget_mb ({budget / 2**20:.1f} MB); raise memory_budget_mb"
            )
        # Pages are touched only when a frame is decoded, so a generous budget costs nothing up front.
        self.arrays: dict[str, Tensor] = {
            name: torch.empty((self.slots, *shape), dtype=dtype) for name, (shape, dtype) in layout.items()
        }
        self._decode = decode
        self._slot: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def gather(self, frames: Sequence[int], take: Callable[[dict[str, Tensor], Tensor], None]) -> None:
        """Calls `take(arrays, rows)` with the row of each of `frames`; at most `slots` distinct frames at a time.

        The rows are only good inside `take`: another call may overwrite them.
        """
        with self._lock:
            take(self.arrays, torch.tensor(self._rows(frames), dtype=torch.long))

    def cached(self) -> int:
        """How many frames are in memory."""
        return len(self._slot)

    def _rows(self, frames: Sequence[int]) -> list[int]:
        wanted = list(dict.fromkeys(frames))
        if len(wanted) > self.slots:
            raise ValueError(f"FrameStore.gather: {len(wanted)} frames at once, but the budget holds {self.slots}")
        for frame in wanted:
            if frame in self._slot:
                self._slot.move_to_end(frame)
        missing = [frame for frame in wanted if frame not in self._slot]
        if len(missing) > 1:
            workers = min(8, len(missing), max(2, torch.get_num_threads()))
            with ThreadPoolExecutor(max_workers=workers) as pool:
                # A frame a thread, so that no more than these are in memory outside the budget at any time.
                for start in range(0, len(missing), workers):
                    group = missing[start : start + workers]
                    for frame, arrays in zip(group, pool.map(self._decode, group), strict=True):
                        self._insert(frame, arrays)
        elif missing:
            self._insert(missing[0], self._decode(missing[0]))
        return [self._slot[frame] for frame in frames]

    def _insert(self, frame: int, arrays: Mapping[str, np.ndarray]) -> None:
        # Looked at before a slot is freed: an error half-way would leave two frames with one slot.
        rows = {name: torch.from_numpy(arrays[name]) for name in self.arrays}
        for name, stack in self.arrays.items():
            if rows[name].shape != stack.shape[1:] or rows[name].dtype != stack.dtype:
                raise ValueError(
                    f"FrameStore: frame {frame}'s {name} has shape {tuple(rows[name].shape)} and dtype "
                    f"{rows[name].dtype}; expected {tuple(stack.shape[1:])} and {stack.dtype}"
                )
        slot = len(self._slot) if len(self._slot) < self.slots else self._slot.popitem(last=False)[1]
        for name, stack in self.arrays.items():
            stack[slot] = rows[name]
        self._slot[frame] = slot
