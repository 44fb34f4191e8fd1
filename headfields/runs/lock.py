"""A lock on a run folder: one process writes to it at a time."""

import contextlib
import json
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from headfields.files.locks import lock_file

_held: dict[Path, int] = {}  # threads of this process that hold a lock
_guard = threading.Lock()


class RunLockedError(RuntimeError):
    """Another process (or another run in this one) writes to the run folder."""


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Within the `with` block this process alone writes to `folder`, which must exist.

    The lock is the operating system's (on the file `.lock`, which stays) and ends with the process, however it ends,
    so a killed run leaves nothing to clean up. A thread that holds the lock may acquire it again. On a file system
    without locks it is not enforced.

    Raises:
        RunLockedError: the folder is locked; the message says by whom.
        OSError: the file cannot be written.
    """
    path = folder.resolve() / ".lock"
    with _guard:
        holder = _held.get(path)
        if holder is None:
            _held[path] = threading.get_ident()
    if holder == threading.get_ident():
        yield
        return
    if holder is not None:
        raise RunLockedError(f"{folder} is in use by another thread; use one folder per run")
    try:
        with open(path, "a+", encoding="utf-8") as file:
            if not lock_file(file):
                raise RunLockedError(f"{folder} is in use by {_holder(file)}; stop it, or name another folder")
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
            file.flush()
            yield
    finally:
        with _guard:
            del _held[path]


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
