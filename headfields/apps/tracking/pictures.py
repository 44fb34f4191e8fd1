"""Tiles of the pictures that trackers leave of each frame: enlarged images with points drawn over them."""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from headfields.viz.images import to_uint8

__all__ = ["draw_points", "tile"]

_HEIGHT = 256
_RADIUS = 1.5


def tile(image: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
    """The image in 8 bits, enlarged by the integer factor that brings it nearest to a height of 256 pixels.

    >>> import torch
    >>> from headfields.apps.tracking.pictures import tile
    >>> tile(torch.zeros(100, 60, 3)).shape
    (300, 180, 3)
    """
    height, width = image.shape[:2]
    factor = max(round(_HEIGHT / height), 1)
    return np.array(
        Image.fromarray(to_uint8(image)).resize((factor * width, factor * height), Image.Resampling.NEAREST)
    )


def draw_points(picture: Image.Image, points: Float[Tensor, "n 2"], color: tuple[int, int, int]) -> None:
    """Draws points (N, 2), pixels (x, y), as dots into a picture; those that are not finite are left out."""
    draw = ImageDraw.Draw(picture)
    for x, y in points.tolist():
        if math.isfinite(x) and math.isfinite(y):
            draw.ellipse((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), fill=color)
