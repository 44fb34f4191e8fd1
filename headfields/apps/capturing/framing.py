"""Framing of a recording: one square crop of all frames around the face, and its size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

__all__ = ["Framing", "framing_of"]

_AROUND = (2.1, 1.25, 1.35)
"""Side of the crop in heights of the landmarks' box, and how far it reaches above and below the box's middle: hair
above, the neck below."""
_QUANTILE = 0.02


@dataclass(frozen=True)
class Framing:
    """A rectangle of the source, resized.

    Attributes:
        left, top, width, height: of the source, pixels; it may reach beyond the image, where pixels are black and
            transparent.
        size: (height, width) of the resized images.
    """

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per pixel of the source, along x and y."""
        return self.size[1] / self.width, self.size[0] / self.height

    def image(self, pixels: UInt8[np.ndarray, "h w *c"], nearest: bool = False) -> UInt8[np.ndarray, "i j *c"]:
        """The framed part of an image."""
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        cropped = Image.fromarray(pixels).crop(box)
        if cropped.size == (self.size[1], self.size[0]):
            return np.asarray(cropped)
        method = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
        return np.asarray(cropped.resize((self.size[1], self.size[0]), method))

    def points(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Pixels of the framed image from those of the source."""
        moved = (points - np.array([self.left, self.top])) * np.array(self.scale)
        return np.asarray(moved, np.float32)


def framing_of(
    source: tuple[int, int], landmarks: Float[np.ndarray, "f l 2"] | None, side: int | None,
    box: tuple[int, int, int, int] | None = None, square: bool = False,
) -> Framing:  # fmt: skip
    """The framing of a recording.

    Args:
        source: (height, width) of the source.
        landmarks: (F, L, 2) of all frames, pixels, NaN where unknown: the crop is a square around them; None for none.
        side: largest side of the framed images, pixels, which are not enlarged; None for the crop's own.
        box: left, top, width and height, in place of a crop around the landmarks.
        square: whether the crop around the landmarks stays a square at the image's border, beyond which pixels are
            black and transparent, and becomes `side` pixels even if that enlarges it: images of several cameras are of
            one size.

    Raises:
        ValueError: the box is empty or outside of the source, or side is below 32.
    """
    height, width = source
    if side is not None and side < 32:
        raise ValueError(f"framing_of: side is {side}; expected at least 32 pixels")
    if box is not None:
        left, top, across, down = box
        if across < 32 or down < 32 or left < 0 or top < 0 or left + across > width or top + down > height:
            raise ValueError(
                f"framing_of: box is {box}; expected left, top, width and height, at least 32 pixels each, within the "
                f"source's {width}x{height}"
            )
    else:
        whole = landmarks is None
        left, top, across, down = (0, 0, width, height) if landmarks is None else _around(source, landmarks, square)
        if square and side is not None and not whole:
            return Framing(left, top, across, down, (side, side))
    factor = 1.0 if side is None else min(side / max(across, down), 1.0)
    size = (max(round(down * factor), 1), max(round(across * factor), 1))
    return Framing(left, top, across, down, size)


def _around(source: tuple[int, int], landmarks: np.ndarray, square: bool) -> tuple[int, int, int, int]:
    height, width = source
    known = np.isfinite(landmarks).all(-1).sum(1) >= 6
    if not known.any():
        side = max(width, height)
        return (0, 0, side, side) if square else (0, 0, width, height)
    low, high = np.nanmin(landmarks[known], axis=1), np.nanmax(landmarks[known], axis=1)
    middle, tall = (low + high) / 2, np.maximum((high - low)[:, 1], 0.8 * (high - low)[:, 0])
    reach, above, below = _AROUND
    left = np.quantile(middle[:, 0] - reach / 2 * tall, _QUANTILE)
    right = np.quantile(middle[:, 0] + reach / 2 * tall, 1 - _QUANTILE)
    top = np.quantile(middle[:, 1] - above * tall, _QUANTILE)
    bottom = np.quantile(middle[:, 1] + below * tall, 1 - _QUANTILE)
    side = int(np.ceil(max(right - left, bottom - top)))
    across, down = (side, side) if square else (min(side, width), min(side, height))
    x, y = (left + right) / 2 - across / 2, (top + bottom) / 2 - down / 2
    if square:
        return round(x), round(y), side, side
    return int(np.clip(round(x), 0, width - across)), int(np.clip(round(y), 0, height - down)), across, down
