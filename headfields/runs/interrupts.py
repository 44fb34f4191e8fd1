"""Ctrl-C, SIGTERM, the end of a terminal or of the parent as a flag, so that a step is never cut in half."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_REMINDER = 1.0
"""Seconds between signals to a process whose parent has ended."""


def end_with_parent() -> None:
    """Ends this process of `multiprocessing` when its parent ends, however that ends: one that was killed tells nobody.

    This process gets SIGTERM until it ends, from a thread that waits on the parent. Within an `InterruptFlag` it is as
    if it had been interrupted: the step ends, and what is needed to go on is saved. Does nothing in a process that
    `multiprocessing` has not started.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_REMINDER)

    threading.Thread(target=watch, args=(parent.sentinel,), name="end_with_parent", daemon=True).start()


class InterruptFlag:
    """Within the `with` block SIGINT, SIGTERM and SIGHUP only set the flag; a second SIGINT raises KeyboardInterrupt.

    A signal that the process ignores stays ignored: `nohup` does so with SIGHUP, a shell's `&` with SIGINT. Outside the
    main thread, where Python allows no signal handlers, the flag is never set and signals have their usual effect.
    """

    def __init__(self) -> None:
        self._set = False
        self._handlers: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._set

    def __enter__(self) -> "InterruptFlag":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._set = True
