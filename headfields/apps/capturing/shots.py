"""Shots of a recording: cuts between scenes, and black frames, from small gray copies of its frames."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

__all__ = ["BLACK", "cuts_between", "thumbnail"]

BLACK = 0.02
"""Mean brightness of an image, of 1, below which nothing can be made out in it."""
_SIDE = 24
_CHANGE = 0.10
"""Mean difference of two gray copies, of 1, from which on they may be of two scenes."""
_RATIO = 5.0
"""How many times the usual difference from frame to frame a cut's is, at least."""


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "24 24"]:
    """A small gray copy of an image, in [0, 1]."""
    gray = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(gray, np.float32) / 255


def cuts_between(thumbnails: Float[np.ndarray, "f n n"]) -> list[int]:
    """Frames at which another scene begins: they differ from the frame before by much more than frames usually do.

    A head that turns fast changes several differences in a row, a cut only one. Black frames are passed over.

    Args:
        thumbnails: (F, N, N) of all frames, in [0, 1].

    >>> import numpy as np
    >>> from headfields.apps.capturing.shots import cuts_between
    >>> scenes = np.zeros((8, 4, 4)) + 0.5
    >>> scenes[5:, :2] = 1.0
    >>> cuts_between(scenes)
    [5]
    """
    lit = [frame for frame in range(len(thumbnails)) if thumbnails[frame].mean() >= BLACK]
    change = np.array([np.abs(thumbnails[after] - thumbnails[before]).mean() for before, after in pairwise(lit)])
    cuts = []
    for row, value in enumerate(change):
        near = np.delete(change[max(row - 5, 0) : row + 6], min(row, 5))
        usual = float(np.median(near)) if len(near) else 0.0
        if value > max(_CHANGE, _RATIO * usual):
            cuts.append(lit[row + 1])
    return cuts
