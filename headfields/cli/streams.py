"""Standard streams that are closed, or whose other end is gone: the work goes on without them.

A command may run for hours, and its last checkpoint must not depend on a terminal: `2>&-` closes stderr, a terminal
that hangs up makes each write to it fail, and so does `2>&1 | head`.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["open_closed_descriptors", "tolerant_stderr", "tolerant_stdout"]


def open_closed_descriptors() -> None:
    """Opens the null device in place of standard streams that are closed.

    Otherwise the next file that is opened gets the number of stderr, and what libraries print goes into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def tolerant_stdout() -> Iterator[None]:
    """Within the `with` block, text that cannot be written to stdout is dropped.

    A reader that has gone is no error: `headfields --help | head -1`. Any other failure (a full disk) is one when the
    work is done.

    Raises:
        SystemExit: with 1, at the end of the block, where stdout failed otherwise.
    """
    before = sys.stdout
    stream = _Output(before)
    sys.stdout = cast(TextIO, stream)
    try:
        yield
    finally:
        stream.flush()
        sys.stdout = before
        if stream.error is not None:
            print(f"headfields: error: stdout cannot be written: {stream.error.strerror}", file=sys.stderr)
            raise SystemExit(1)


@contextlib.contextmanager
def tolerant_stderr() -> Iterator[None]:
    """Within the `with` block, text that cannot be written to stderr is dropped."""
    before = sys.stderr
    sys.stderr = cast(TextIO, _Tolerant(before))
    try:
        yield
    finally:
        sys.stderr = before


class _Tolerant:
    """A text stream without errors of the operating system."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Output(_Tolerant):
    """A text stream that goes on into the null device where it fails; what is in its buffer goes there, too.

    Attributes:
        error: how it failed, unless its reader has gone.
    """

    error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)
