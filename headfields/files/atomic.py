"""Atomic file writing: the new file appears whole, or the old one stays.

Every file of the library is written through `replacing`, but for logs, which grow by a line at a time.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from headfields.files.locks import lock_folder

__all__ = ["replacing", "replacing_folder", "write_bytes", "write_image", "write_text"]

_SCRATCH = re.compile(r"\.(.{1,40})\.[a-z0-9_]{8}\.tmp")
_swept: set[Path] = set()


@contextlib.contextmanager
def replacing(path: str | Path, previous: Path | None = None) -> Iterator[Path]:
    """A temporary path to write to in a `with` block; at its end, the file there takes the place of the one at `path`.

    The temporary file lies on the same disk, in a hidden folder next to `path`, under the name of `path` (writers that
    go by the ending work). It is on disk before it is moved, so a crash at any moment leaves a whole file. If the block
    raises, it is removed, and the file at `path` stays. What a killed writer leaves is removed by the next process
    that writes to the folder.

    Args:
        path: the file; its folder is created. A symbolic link stays, and the file that it points to is replaced. The
            new file has the permissions of the old one.
        previous: a path in the same folder that keeps the file now at `path`; None discards it.

    Raises:
        OSError: the file cannot be written, for lack of space or permission, or `path` is a folder or a device. The
            message has `path`; the files there and at `previous` are unchanged.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is {'a folder' if target.is_dir() else 'a device'}; a file can't take its place")
    with _scratch(path, target) as scratch:
        temporary = scratch / target.name
        with _naming(path):
            temporary.touch()
            mode = (target if target.exists() else temporary).stat().st_mode & 0o777
        with _naming(path, temporary):
            yield temporary
        with _naming(path):
            temporary.chmod(mode)  # safetensors, for one, grants only the owner access
            _sync(temporary)
            if previous is not None and target.exists():
                _keep(target, previous, scratch / f".{previous.name}")
            os.replace(temporary, target)
            _sync(target.parent)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill in a `with` block; at its end it takes the place of the folder at `path`.

    As `replacing`, but a folder cannot be replaced in one step: a crash just between the two leaves the old folder in a
    hidden one next to `path`, and none at `path`.

    Raises:
        OSError: the folder cannot be written; the message has `path`, and the folder there is unchanged.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    with _scratch(path, target) as scratch:
        temporary, old = scratch / target.name, scratch / ".old"
        temporary.mkdir()
        with _naming(path, temporary):
            yield temporary
        with _naming(path):
            if target.exists():
                os.rename(target, old)
            try:
                os.rename(temporary, target)
            except OSError:
                if old.exists():
                    os.rename(old, target)
                raise
            _sync(target.parent)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes a file as `replacing` does, and returns its path."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Writes a file in UTF-8 as `replacing` does, and returns its path."""
    return write_bytes(path, text.encode())


def write_image(path: str | Path, pixels: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"]) -> Path:
    """Writes an image in the format of the path's ending as `replacing` does, and returns its path."""
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"write_image: {path} ends in {path.suffix!r}, which is no format of images; use .png")
    encoded = io.BytesIO()  # Pillow's own errors on a full disk give no reason
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, format=kind)
    return write_bytes(path, encoded.getvalue())


@contextlib.contextmanager
def _scratch(path: Path, target: Path) -> Iterator[Path]:
    """A hidden folder next to `target`, whose folder is created, for as long as the block runs."""
    with _naming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".new", dir=target.parent))
        lock = _locked(made)
        scratch = made.with_suffix(".tmp")  # under this name only once it is locked, so that no other process sweeps it
        made.rename(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder, the first time that this process writes to it."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(".*.tmp"):
        match = _SCRATCH.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):  # another process sweeps, too; or the draft is another user's
            lock = _locked(path)
            if lock is None:  # its writer lives, or there are no locks
                continue
            try:  # a folder that was moved aside (`replacing_folder`) is no draft and stays
                if all(entry.name.lstrip(".").startswith(match[1].lstrip(".")) for entry in path.iterdir()):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None if another does, or where folders have no locks."""
    if os.name == "nt":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    if lock_folder(descriptor):
        return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Puts `path` into an OSError of the block that names no file, or `temporary`; the block may read other files."""
    try:
        yield
    except OSError as error:
        name = str(path)
        if temporary is not None and error.filename is not None:
            if not str(error.filename).startswith(str(temporary)):
                raise
            name += str(error.filename).removeprefix(str(temporary))
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or "cannot be written", name) from error


def _keep(path: Path, previous: Path, link: Path) -> None:
    """Gives the file at `path` the name `previous` as well; without hard links, that name alone for a moment."""
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows does not open folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
