"""Image files, opened by Pillow without its readers that run programs, and within a largest size."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from headfields.files.reading import check_file

__all__ = ["open_image"]

# Pillow decides by the content, not by the name; its reader of EPS runs Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA")
_PIXELS = 2**26


@contextlib.contextmanager
def open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """Opens a PNG, JPEG, WebP, TIFF, BMP, GIF, PPM or TGA; pixels are decoded when they are used.

    Args:
        source: the file, of which the header is read at once, or its bytes.

    Raises:
        FileNotFoundError: no such file, or it is a folder, pipe or device.
        ValueError: more than 67 million pixels (8192 x 8192).
        Exception: not an image, or a damaged one; Pillow's readers raise anything. Use it within `reading`.
    """
    Image.init()
    file = io.BytesIO(source) if isinstance(source, bytes) else check_file(source)
    with Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        if image.width * image.height > _PIXELS:
            raise ValueError(f"it is {image.width}x{image.height} pixels; expected at most {_PIXELS} in all")
        yield image
