"""A folder that is written whole: what a try that did not end has left there refuses no other."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from headfields.files.locks import lock_file

__all__ = ["filling", "has_unfinished"]

_MARK = ".headfields_unfinished"  # in the folder while it is being filled; a name that nobody else gives


def has_unfinished(folder: Path) -> bool:
    """Whether a folder is being filled, or its writer was killed."""
    return (folder / _MARK).is_file()


@contextlib.contextmanager
def filling(folder: Path, op: str) -> Iterator[None]:
    """A new or empty folder to fill in a `with` block; after an error or Ctrl-C it is empty again.

    It is marked meanwhile, so that the next call clears what a killed one has left.

    Args:
        folder: created if missing.
        op: the function that fills it, for messages.

    Raises:
        FileExistsError: it is a file, holds something else, or another process fills it.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{op}: {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not has_unfinished(folder) and any(folder.iterdir()):
        raise FileExistsError(f"{op}: folder {folder} is not empty; name a new one")
    mark = folder / _MARK
    with contextlib.ExitStack() as ending:
        file = ending.enter_context(open(mark, "a+", encoding="utf-8"))
        if not lock_file(file):
            raise FileExistsError(f"{op}: another process writes to {folder}; name a new folder")
        file.truncate(0)
        file.write("This folder is being written, or its writer was killed.\n")
        file.flush()
        _clear(folder)
        try:
            yield
        except BaseException:
            _clear(folder)
            ending.close()  # Windows removes no open file
            mark.unlink()
            raise
    mark.unlink()


def _clear(folder: Path) -> None:
    """Removes what is in a folder but the mark."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _MARK:
            path.unlink()
