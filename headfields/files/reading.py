"""Errors of readers: whatever goes wrong while a file is read becomes a documented error with the file's name in it."""

import contextlib
import errno
import json
import os
import pickle
import reprlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["FileVersionError", "UnsafePickleError", "brief", "check_file", "file_bytes", "read_json", "reading"]

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxlong, _REPR.maxother = 2, 60, 40, 60
_LONGEST = 400  # characters of a reason
_NAMED = "_names_a_file"  # attribute of an error that has been through `reading`: of another file, perhaps, as it read


class UnsafePickleError(pickle.UnpicklingError, ValueError):
    """The pickle names something other than NumPy, scipy.sparse, tensors, plain containers and chumpy."""


class FileVersionError(ValueError):
    """The file has another version of its format than the one this library reads (`headfields.files.versions`)."""


def brief(value: Any) -> str:
    """A short repr, whatever the value: lists that share lists may have no end, and integers millions of digits."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # Python refuses to print an integer of more than 4300 digits
        return f"a {type(value).__name__} too large to print"


@contextlib.contextmanager
def reading(
    path: str | Path, what: str, error: type[ValueError] = ValueError, remedy: str = "", where: str | None = None
) -> Iterator[None]:
    """Within the `with` block every failure is a documented error, and names the file.

    A parser of a damaged file may raise anything. An OSError of the file system stays what it is, as does a refusal to
    run code or to read another version, and an `error` of a class of its own, or one that names the file or comes from
    within another `reading`.

    Args:
        path: the file or folder.
        what: what it should be, in words: "an npz file".
        error: the class of the errors about its content.
        remedy: the end of the message, if the failure has none of its own.
        where: the file's name in messages; the path if None.

    Raises:
        OSError: the file system refuses (FileNotFoundError: there is no such file).
        error: anything else.
    """
    name = str(path) if where is None else where
    try:
        yield
    except Exception as failure:
        text = " ".join(str(failure).split())
        if isinstance(failure, FileNotFoundError) and failure.errno is None:
            raise  # of `check_file`, or of a reader: it names the file, or one that belongs to it
        if isinstance(failure, OSError) and failure.errno is not None:
            if failure.filename is not None or name in text:
                raise
            raise type(failure)(failure.errno, failure.strerror, name) from failure
        if error is not ValueError and isinstance(failure, error):
            raise  # it names frame and field, as errors of its class do
        if isinstance(failure, ValueError) and (name in text or hasattr(failure, _NAMED)):
            setattr(failure, _NAMED, True)
            if isinstance(failure, error | UnsafePickleError | FileVersionError):
                raise
            raise error(text + (f"; {remedy}" if remedy else "")) from failure
        reasons = {EOFError: "it is cut short", MemoryError: "it needs more memory than there is"}
        reason = text or reasons.get(type(failure), "no reason given")
        reason = reason if len(reason) <= _LONGEST else reason[: _LONGEST - 3] + "..."
        kind = "" if type(failure) is ValueError else f" ({type(failure).__name__})"
        end = f"; {remedy}" if remedy else ""
        named = error(f"{name}: not {what} that can be read: {reason}{kind}{end}")
        setattr(named, _NAMED, True)
        raise named from failure


def check_file(path: str | Path) -> Path:
    """The path, if it is a regular file's; a pipe or a device, which may have no end, is none.

    Raises:
        FileNotFoundError: there is no such file, or it is a folder, pipe, socket, device or circle of links.
        OSError: the file system refuses to say.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise FileNotFoundError(f"{path} is not a file: {getattr(error, 'strerror', 'its name has a null')}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise FileNotFoundError(f"{path} is not a file but {kind}")
    return path


def file_bytes(path: str | Path) -> bytes:
    """The content of a file; raises as `check_file`, or OSError if it cannot be read."""
    return check_file(path).read_bytes()


def read_json(path: str | Path, error: type[ValueError] = ValueError) -> Any:
    """The content of a JSON file, UTF-8 with or without a byte-order mark.

    Raises:
        FileNotFoundError, OSError: as `file_bytes`.
        error: it is not JSON, is nested hundreds of levels deep, or has an integer of thousands of digits; the message
            names the file and, for malformed JSON, line and column.
    """
    with reading(path, "JSON", error):
        return json.loads(file_bytes(path).decode("utf-8-sig"))
