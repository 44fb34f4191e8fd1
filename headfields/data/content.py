"""What a capture's folder holds, as a hash: two captures with one are the same, wherever they lie."""

import functools
import hashlib
from pathlib import Path

__all__ = ["capture_digest"]

_END = 4096
"""Bytes at either end of a file that are read of it: of compressed images and meshes they differ with any of it."""


@functools.lru_cache(maxsize=64)
def capture_digest(folder: str, whole: bool = True) -> str:
    """A hash of every file of a capture, by its path within the folder; hidden ones do not count.

    Args:
        folder: the capture.
        whole: whether all bytes count, or of each file its size and both ends alone, which takes a second where the
            other takes a minute.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; a capture is one")
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name, size = path.relative_to(root), path.stat().st_size
        if any(part.startswith(".") for part in name.parts):
            continue
        with open(path, "rb") as file:
            total.update(f"{name.as_posix()}\0{size}\0".encode())
            if not whole and size > 2 * _END:
                total.update(file.read(_END))
                file.seek(-_END, 2)
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    return total.hexdigest()[:20]
