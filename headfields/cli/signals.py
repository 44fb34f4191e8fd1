"""Ctrl-C, SIGTERM and the end of a terminal as exceptions: a command that they end leaves nothing half-written."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP."""


@contextlib.contextmanager
def ending_as_interrupts() -> Iterator[list[KeyboardInterrupt]]:
    """Within the block SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP `Terminated`; gives those that were raised.

    Modules in C turn an exception in the middle of their import into another one, so what was raised is kept. What is
    ignored (by `nohup`) stays ignored, and long work, which ends at a step (`headfields.runs.interrupts`), has handlers
    of its own meanwhile. Nothing changes outside of the main thread.
    """
    raised: list[KeyboardInterrupt] = []

    def handle(number: int, frame: FrameType | None) -> None:
        raised.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
        raise raised[-1]

    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}
    for number, handler in before.items():
        if handler in _DEFAULT:
            signal.signal(number, handle)
    try:
        yield raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet() -> None:
    """Ignores a second Ctrl-C while the command says that it ends; `ending_as_interrupts` takes it back."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
