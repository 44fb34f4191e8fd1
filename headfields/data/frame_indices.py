"""Frame indices as callers name them (integers, slices, masks, lists, tensors, arrays), made one list of integers."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Frames", "frame_index", "frame_indices"]

Frames = Any
"""Which frames: an integer, integers in a list, range, tensor or array, a slice, or a boolean mask of all frames."""


def frame_indices(frames: Frames, count: int, owner: str) -> list[int]:
    """Frame indices in the order given; an integer is one frame, and an empty list none.

    Args:
        frames: see `Frames`. Negative integers are out of range; a slice counts from the end as Python's do.
        count: F, number of frames.
        owner: name of the capture or function, for messages.

    Raises:
        TypeError: an index is no integer (3.5, True, a name).
        IndexError: one is out of range, or a mask is not one of F frames.

    >>> from headfields.data.frame_indices import frame_indices
    >>> frame_indices(3, 6, "capture"), frame_indices(slice(-2, None), 6, "capture")
    ([3], [4, 5])
    """
    if isinstance(frames, slice):
        return list(range(*frames.indices(count)))
    if isinstance(frames, Tensor):
        frames = frames.detach().cpu().numpy()
    if isinstance(frames, np.ndarray):
        if frames.ndim > 1:
            raise TypeError(f"{owner}: frames has shape {frames.shape}; pass one axis, or an integer")
        if frames.dtype == bool:
            if frames.shape != (count,):
                raise IndexError(f"{owner}: frames is a mask of shape {frames.shape}; expected ({count},)")
            return np.flatnonzero(frames).tolist()
        if frames.size and not np.issubdtype(frames.dtype, np.integer):
            raise TypeError(f"{owner}: frames has dtype {frames.dtype}; pass integers (frames.long() or round first)")
        frames = frames.tolist()
    single = isinstance(frames, (str, bytes)) or not isinstance(frames, Iterable)
    indices = [_index(frame, owner) for frame in ([frames] if single else frames)]
    outside = [frame for frame in indices if not 0 <= frame < count]
    if outside:
        last = f"frames 0 to {count - 1}" if count else "no frames"
        raise IndexError(f"{owner}: frame {outside[0]} is out of range; it has {last}")
    return indices


def frame_index(frame: Any, count: int, owner: str) -> int:
    """The index of one frame, given as an integer (also NumPy's, or a tensor without axes).

    Raises:
        TypeError: it is no integer.
        IndexError: it is out of range.
    """
    return frame_indices(_index(frame, owner), count, owner)[0]


def _index(frame: Any, owner: str) -> int:
    shaped = isinstance(frame, (Tensor, np.ndarray)) and frame.ndim > 0
    boolean = isinstance(frame, (bool, np.bool_)) or getattr(frame, "dtype", None) in (torch.bool, np.dtype(bool))
    if boolean or shaped:  # True and an array of one entry would pass as an index
        raise TypeError(f"{owner}: frame {_shown(frame)} is a {type(frame).__name__}; pass integers")
    try:
        return operator.index(frame)
    except TypeError:
        raise TypeError(f"{owner}: frame {_shown(frame)} is a {type(frame).__name__}; pass integers") from None


def _shown(frame: Any) -> str:
    text = repr(frame)
    return text if len(text) <= 40 else f"{text[:37]}..."
