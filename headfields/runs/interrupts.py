"""Ctrl-C, SIGTERM and the end of a terminal as a flag, so that a step is never cut in half."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
