"""Image and number files, with errors that name the frame and the field."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from headfields.data.errors import CaptureError

_CHANNELS = {"1": 1, "L": 1, "P": 3, "I": 1, "I;16": 1, "I;16B": 1, "LA": 4, "PA": 4, "RGB": 3, "RGBA": 4}


@dataclass(frozen=True)
class ImageHeader:
    """`size` (height, width) and number of `channels` (4 where there is alpha)."""

    size: tuple[int, int]
    channels: int


def image_header(path: Path, where: str, field: str) -> ImageHeader:
    """Size and channels without decoding; a PNG that lacks its end is found out here too.

    Raises:
        CaptureError: not an image, or cut short.
    """
    try:
        with Image.open(path) as image:
            header = ImageHeader((image.height, image.width), _CHANNELS.get(image.mode, 3))
            if image.format == "PNG":
                with path.open("rb") as file:
                    file.seek(-12, 2)
                    if file.read()[4:8] != b"IEND":
                        raise CaptureError(f"{where}: {field} {path} is cut short (no PNG end mark); copy it again")
            return header
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise CaptureError(f"{where}: {field} {path} is not a readable image: {error}") from error


def decode_image(path: Path, where: str, field: str, kind: Literal["rgba", "label", "depth"]) -> np.ndarray:
    """Pixels: `"rgba"` (H, W, 4) uint8, alpha 255 where there is none; `"label"` (H, W) uint8, the red channel;
    `"depth"` (H, W) uint16.

    Raises:
        CaptureError: cannot be decoded, or depth that is not 16 bits.
    """
    try:
        with Image.open(path) as image:
            if kind == "rgba":
                return np.array(image.convert("RGBA"))
            pixels = np.array(image.convert("RGB") if image.mode == "P" else image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CaptureError(f"{where}: {field} {path} cannot be decoded: {error}") from error
    if kind == "label":
        red = pixels[..., 0] if pixels.ndim == 3 else pixels
        if red.dtype != np.uint8:
            raise CaptureError(f"{where}: {field} {path} holds {red.dtype} values; expected 8-bit labels")
        return np.ascontiguousarray(red)
    if pixels.ndim != 2 or pixels.dtype == np.uint8 or pixels.min() < 0 or pixels.max() > 65535:
        raise CaptureError(
            f"{where}: {field} {path} has shape {pixels.shape} and dtype {pixels.dtype}; expected one 16-bit channel"
        )
    return pixels.astype(np.uint16)


def read_numbers(path: Path, where: str, field: str) -> np.ndarray:
    """All numbers of a text file (white space and commas separate), (N,) float32.

    Raises:
        CaptureError: unreadable, not numbers, none at all, or not finite.
    """
    try:
        values = np.array([float(token) for token in path.read_text().replace(",", " ").split()])
    except (OSError, ValueError) as error:
        raise CaptureError(f"{where}: {field} {path} is not a list of numbers: {error}") from error
    if not len(values):
        raise CaptureError(f"{where}: {field} {path} is empty")
    if not np.isfinite(values).all():
        line = int(np.nonzero(~np.isfinite(values))[0][0])
        raise CaptureError(f"{where}: {field} {path}: value {line + 1} is {values[line]}; every one must be finite")
    return values.astype(np.float32)
