"""A cache of decoded frames: one stacked tensor per array, with a byte budget, the least recently used frame evicted
first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headfields.data.errors import CaptureError

__all__ = ["FrameCache"]


class FrameCache:
    """Decoded frames as rows of stacked tensors, so that a batch over many frames is one gather.

    Args:
        frames: number of frames of the capture.
        layout: array name → (shape, dtype) of one frame.
        decode: frame index → arrays by name; called from several threads.
        budget: bytes that the stacks may hold; frames beyond it are decoded again when they are needed again.
        what: description of a frame's content, for error messages.

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
        self._arguments = (frames, layout, decode, budget, what)
        self.bytes_per_frame = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.values())
        self.slots = min(frames, budget // max(self.bytes_per_frame, 1))
        if frames and not self.slots:
            raise CaptureError(
                f"load_capture: one frame's {what} take {self.bytes_per_frame / 2**20:.1f} MB, more than their share "
                f"of memory_budget_mb ({budget / 2**20:.1f} MB); raise memory_budget_mb"
            )
        # Pages are touched only when a frame is decoded, so a generous budget costs nothing up front.
        self._stacks: dict[str, Tensor] = {
            name: torch.empty((self.slots, *shape), dtype=dtype) for name, (shape, dtype) in layout.items()
        }
        self._decode = decode
        self._slot: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are empty: frames are decoded again, and a lock belongs to one process."""
        return FrameCache, self._arguments

    def __contains__(self, name: str) -> bool:
        """Whether frames have an array of this name."""
        return name in self._stacks

    def load(self, frames: Sequence[int]) -> None:
        """Decodes the frames that are not in memory; of more frames than fit, the last ones stay."""
        for positions in self._groups(frames):
            with self._lock:
                self._slots_of([frames[position] for position in positions])

    def load_ahead(self, frames: Sequence[int], stop: Callable[[], bool]) -> None:
        """Decodes frames while there is room for them, one after the other, until all are there or `stop` says so.

        For a thread beside those that use the cache: it decodes without the lock, and takes the place of no frame. A
        frame that cannot be read is left to whoever asks for it.
        """
        for frame in frames:
            with self._lock:
                full, there = len(self._slot) >= self.slots, frame in self._slot
            if full or stop():
                return
            if there:
                continue
            try:
                arrays = self._decode(frame)
            except CaptureError:
                continue
            with self._lock:
                if frame not in self._slot and len(self._slot) < self.slots:
                    self._insert(frame, arrays)

    def rows(self, frames: Sequence[int]) -> dict[str, Tensor]:
        """Copies of whole frames, (B, ...) by array name."""
        out: dict[str, Tensor] = {}
        for positions in self._groups(frames):
            with self._lock:
                slots = self._slots_of([frames[position] for position in positions])
                if len(positions) == len(frames):
                    return {name: stack[slots] for name, stack in self._stacks.items()}
                for name, stack in self._stacks.items():
                    if name not in out:
                        out[name] = stack.new_empty((len(frames), *stack.shape[1:]))
                    out[name][positions] = stack[slots]
        return out or {name: stack.new_empty((0, *stack.shape[1:])) for name, stack in self._stacks.items()}

    def gather(self, frames: Sequence[int], row: Int[Tensor, " n"], index: Int[Tensor, " n"]) -> dict[str, Tensor]:
        """Single entries, (N,) by array name: entry `index[i]` of frame `frames[row[i]]`, whose arrays are flat."""
        out = {name: torch.empty(row.shape, dtype=stack.dtype) for name, stack in self._stacks.items()}
        for positions in self._groups(frames):
            whole = len(positions) == len(frames)
            selected = slice(None) if whole else torch.isin(row, torch.tensor(positions)).nonzero()[:, 0]
            with self._lock:
                slot = torch.zeros(len(frames), dtype=torch.long)
                slot[positions] = self._slots_of([frames[position] for position in positions])
                for name, stack in self._stacks.items():
                    out[name][selected] = stack.view(-1)[slot[row[selected]] * stack.shape[1] + index[selected]]
        return out

    def _groups(self, frames: Sequence[int]) -> Iterator[list[int]]:
        """Positions in `frames`, in groups of at most `slots` distinct frames, in order of first appearance."""
        order: dict[int, int] = {}
        for frame in frames:
            order.setdefault(frame, len(order))
        if len(order) <= self.slots:
            if frames:
                yield list(range(len(frames)))
            return
        groups: list[list[int]] = [[] for _ in range(-(-len(order) // self.slots))]
        for position, frame in enumerate(frames):
            groups[order[frame] // self.slots].append(position)
        yield from groups

    def _slots_of(self, frames: Sequence[int]) -> Int[Tensor, " b"]:
        """The slot of each frame, decoded if it is not in memory; only good while the lock is held."""
        distinct = list(dict.fromkeys(frames))
        for frame in distinct:
            if frame in self._slot:
                self._slot.move_to_end(frame)
        missing = [frame for frame in distinct if frame not in self._slot]
        if len(missing) > 1:
            workers = min(8, len(missing), max(2, torch.get_num_threads()))
            with ThreadPoolExecutor(max_workers=workers) as pool:
                # One frame per thread, so that no more than these are in memory outside the budget at any time.
                for start in range(0, len(missing), workers):
                    group = missing[start : start + workers]
                    for frame, arrays in zip(group, pool.map(self._decode, group), strict=True):
                        self._insert(frame, arrays)
        elif missing:
            self._insert(missing[0], self._decode(missing[0]))
        return torch.tensor([self._slot[frame] for frame in frames], dtype=torch.long)

    def _insert(self, frame: int, arrays: Mapping[str, np.ndarray]) -> None:
        # Checked before a slot is freed: an error half-way would leave two frames with one slot.
        rows = {name: torch.from_numpy(arrays[name]) for name in self._stacks}
        for name, stack in self._stacks.items():
            if rows[name].shape != stack.shape[1:] or rows[name].dtype != stack.dtype:
                raise ValueError(
                    f"FrameCache: frame {frame}'s {name} has shape {tuple(rows[name].shape)} and dtype "
                    f"{rows[name].dtype}; expected {tuple(stack.shape[1:])} and {stack.dtype}"
                )
        slot = len(self._slot) if len(self._slot) < self.slots else self._slot.popitem(last=False)[1]
        for name, stack in self._stacks.items():
            stack[slot] = rows[name]
        self._slot[frame] = slot
