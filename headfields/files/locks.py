"""The operating system's locks on files: they end with the process that holds them, however it ends."""

from typing import IO, Any

__all__ = ["lock_file", "lock_folder"]


def lock_file(file: IO[str]) -> bool:
    """Locks an open file if it is free, until it is closed.

    Returns:
        False if another holds it; True also where a file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def lock_folder(descriptor: int) -> bool:
    """Locks a folder, by a descriptor of `os.open`, until it is closed.

    Returns:
        Whether it is locked now; False also where there are no locks of folders.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_on_windows(file: IO[str]) -> bool:
    import msvcrt

    locking: Any = msvcrt
    file.seek(1 << 20)  # far behind the text, so that others can still read it
    try:
        locking.locking(file.fileno(), locking.LK_NBLCK, 1)
    except OSError:
        return False
    return True
