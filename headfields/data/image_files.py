"""Reading image files and files of numbers, with errors that name the frame, the field and the remedy."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from headfields.data.errors import CaptureError
from headfields.files.images import open_image
from headfields.files.reading import file_bytes

__all__ = [
    "ImageHeader", "Kind", "decode_image", "exists", "has_images", "image_header", "images_of", "read_numbers",
]  # fmt: skip

Kind = Literal["rgba", "label", "depth"]
_CHANNELS = {"L": 1, "LA": 2, "La": 2, "PA": 4, "RGBA": 4, "RGBa": 4}
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_NUMBER = 1e4
_ORIENTATION = 0x0112
"""EXIF's tag; values from 5 on swap rows and columns."""
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_FOLDERS = ("images", "frames", "source", "rgb")
"""Subfolders that images of a folder may lie in, tried in this order."""


@dataclass(frozen=True)
class ImageHeader:
    """`size` (height, width) and number of `channels`: 1 or 3, and one more with alpha."""

    size: tuple[int, int]
    channels: int

    @property
    def has_alpha(self) -> bool:
        """Whether the image has a matte."""
        return self.channels in (2, 4)


def exists(path: Path) -> bool:
    """Whether the file exists; False for a name that the file system does not accept."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def image_header(path: Path, where: str, field: str, kind: Kind, upright: bool = False) -> ImageHeader:
    """Size and channels without decoding; a truncated PNG is detected too.

    Args:
        path, where, field, kind, upright: as for `decode_image`.

    Raises:
        CaptureError: not an image, truncated, or in a mode that cannot hold `kind`.
    """
    try:
        with open_image(path) as image:
            header = ImageHeader(_size(image, upright), _channels(image))
            mode, png = image.mode, image.format == "PNG"
        with path.open("rb") as file:
            file.seek(-12, 2)
            whole = not png or file.read()[4:8] == b"IEND"
    except Exception as error:  # Pillow's plugins raise any exception of their parsers
        raise CaptureError(f"{where}: {field} {path} is not a readable image ({error}); export it again") from error
    if not whole:
        raise CaptureError(f"{where}: {field} {path} is cut short (no PNG end mark); copy it again")
    _check_mode(mode, kind, f"{where}: {field} {path}")
    return header


def decode_image(
    path: Path, where: str, field: str, kind: Kind, size: tuple[int, int], upright: bool = False
) -> np.ndarray:
    """Pixels: `"rgba"` (H, W, 4) uint8, alpha 255 if the file has none; `"label"` (H, W) uint8, the red channel;
    `"depth"` (H, W) uint16.

    Args:
        path: the file.
        where, field: frame and JSON key, for messages.
        kind: the field's content, which decides the modes that are accepted.
        size: (height, width) that is expected.
        upright: whether the image is turned as its EXIF orientation says: a phone's photographs, which viewers show so.
            False for images that a tracker has measured, whose pixels are taken as they are stored.

    Raises:
        CaptureError: the file cannot be decoded, has another size, or a mode that cannot hold `kind`.
    """
    what = f"{where}: {field} {path}"
    try:
        data = file_bytes(path)
        fault = _png_fault(data)
        if fault is not None:
            raise CaptureError(f"{what} cannot be decoded: {fault}; copy it again")
        with open_image(data) as image:
            _check_mode(image.mode, kind, what)
            _check_size(_size(image, upright), size, what)  # before it is decoded
            turned = ImageOps.exif_transpose(image) if upright else image
            if kind == "rgba":
                pixels = np.array(turned.convert("RGBA"))
            else:
                pixels = np.array(turned.convert("RGB") if turned.mode == "P" else turned)
    except (CaptureError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise any exception of their parsers
        raise CaptureError(f"{what} cannot be decoded ({error}); export it again") from error
    if kind == "label":
        return np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 else pixels)
    if kind == "depth":
        if pixels.min() < 0 or pixels.max() > 65535:
            raise CaptureError(f"{what} holds {pixels.min()} to {pixels.max()}; expected 16 bits, 0 to 65535")
        return pixels.astype(np.uint16)
    return pixels


def _size(image: Image.Image, upright: bool) -> tuple[int, int]:
    """(height, width), those of the turned image if it is to be upright."""
    lying = upright and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if lying else (image.height, image.width)


def _check_size(own: tuple[int, int], size: tuple[int, int], what: str) -> None:
    if own != size:
        raise CaptureError(
            f"{what} is {own[1]}x{own[0]} pixels; expected {size[1]}x{size[0]} as when the capture was opened"
        )


def _png_fault(data: bytes) -> str | None:
    """The fault in the chunks of a PNG, in words, or None (also for other formats).

    Pillow stops at the last row of pixels and does not check the checksums of image data, so a flipped bit would become
    a wrong color. Checking them takes a tenth of a millisecond.
    """
    if not data.startswith(_PNG):
        return None
    view, at = memoryview(data), len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            name = bytes(view[at + 4 : at + 8]).decode("latin-1")
            return f"the checksum of its {name!r} chunk at byte {at} is wrong"
        if view[at + 4 : at + 8] == b"IEND":
            return None
        at = end
    return "it is cut short"


def read_numbers(path: Path, where: str, field: str, missing: bool = False) -> np.ndarray:
    """All numbers of a text file, (N,) float32, separated by white space or by commas between numbers with points.

    Args:
        path: the file.
        where, field: frame and JSON key, for messages.
        missing: whether "nan" may stand for a missing value.

    Raises:
        CaptureError: the file is unreadable or empty, or holds words, decimal commas or numbers that are not finite or
            beyond ±10,000.
    """
    what = f"{where}: {field} {path}"
    try:
        text = file_bytes(path).decode("utf-8-sig")
        values = np.array([_number(token) for chunk in text.split() for token in _tokens(chunk)], np.float64)
    except (OSError, ValueError, MemoryError) as error:
        raise CaptureError(
            f"{what} is not a list of numbers ({error}); expected decimals with a point, one a line"
        ) from error
    if not len(values):
        raise CaptureError(f"{what} is empty; write it again, or remove its path from the frame")
    bad = ~(np.abs(values) <= _LARGEST_NUMBER)  # true for NaN
    if missing:
        bad &= ~np.isnan(values)
    if bad.any():
        index = int(np.nonzero(bad)[0][0])
        raise CaptureError(
            f"{what}: value {index + 1} is {values[index]}; expected finite numbers within ±{_LARGEST_NUMBER:g}"
        )
    return values.astype(np.float32)


def _tokens(chunk: str) -> list[str]:
    """The numbers of one blank-separated chunk: "0.5,1.5," are two; "0,5" is ambiguous and refused."""
    parts = [part for part in chunk.split(",") if part]
    if len(parts) > 1 and not all(re.search("[.eEn]", part) for part in parts):
        raise ValueError(f"{chunk!r} may be one number with a decimal comma or several")
    return parts


def _number(token: str) -> float:
    if "_" in token:  # Python reads 1_000
        raise ValueError(f"could not read {token!r}")
    return float(token)


def _channels(image: Image.Image) -> int:
    transparent = "transparency" in image.info or (image.palette is not None and image.palette.mode == "RGBA")
    channels = _CHANNELS.get(image.mode, 3)
    return channels + 1 if transparent and channels in (1, 3) else channels


def _check_mode(mode: str, kind: Kind, what: str) -> None:
    deep = mode == "I" or mode.startswith("I;")
    if kind == "depth" and not deep:
        raise CaptureError(f"{what} has mode {mode}; expected one 16-bit channel, e.g. a PNG of millimeters")
    if kind != "depth" and (deep or mode in ("1", "F")):
        expected = "8-bit labels" if kind == "label" else "8 bits per channel, RGBA at best"
        raise CaptureError(f"{what} has mode {mode}; expected {expected}")


def has_images(path: Path) -> bool:
    """Whether there are images in the folder, see `images_of`."""
    try:
        return bool(images_of(path))
    except CaptureError:
        return False


def images_of(path: Path) -> tuple[Path, list[Path]]:
    """The folder that images lie in, `path` or one of its subfolders, and they, in natural order.

    Raises:
        CaptureError: there are none.
    """
    for folder in (path, *(path / name for name in _FOLDERS)):
        if folder.is_dir():
            files = [file for file in folder.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES]
            if files:
                return folder, sorted(files, key=lambda file: natural_key(file.stem))
    raise CaptureError(
        f"{path} has no images ({', '.join(_IMAGE_SUFFIXES)}), nor has a folder {', '.join(_FOLDERS)} in it; name a "
        "video or a folder of images"
    )


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """A sort key of names that puts 2.png before 10.png."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
