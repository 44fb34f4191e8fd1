"""A stream of faces that comes in by UDP or WebSocket: its newest frame, and how many were dropped, and why.

A message is one frame: JSON as in a file (`headfields.apps.faces.lines`), or a packet of Live Link Face
(`headfields.apps.faces.live_link_face`). What is late, broken or too long is dropped and counted; a page of another
server may not connect.
"""

import contextlib
import http
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from headfields.apps.driving.addresses import StreamAddress, stream_address
from headfields.apps.faces.lines import motion_of_message
from headfields.apps.faces.live_link_face import motion_of_packet
from headfields.apps.faces.motion import FaceMotion
from headfields.apps.viewer.visitors import refusal

__all__ = ["LONGEST", "FaceStream", "StreamCounts"]

LONGEST = 8192
"""Bytes of a message; all 52 weights and all turns take 2,000."""
_RESTART = 2.0
"""Seconds that the time runs back by at least where a sender has begun anew; less is a message that was overtaken."""
_TOO_BIG = 1009
"""The code with which a WebSocket is closed for a message that is too long (RFC 6455)."""


@dataclass
class StreamCounts:
    """What has become of the messages of a stream.

    Attributes:
        taken: frames.
        late: frames that are older than one that was taken.
        broken: no frame, or out of range.
        oversized: longer than `LONGEST`.
        refused: connections of pages of other servers.
        reason: why the last one that was broken, oversized or refused was dropped.
    """

    taken: int = 0
    late: int = 0
    broken: int = 0
    oversized: int = 0
    refused: int = 0
    reason: str = ""

    def __str__(self) -> str:
        dropped = ("late", "broken", "oversized", "refused")
        parts = [f"{getattr(self, name)} {name}" for name in dropped if getattr(self, name)]
        return f"{self.taken} frames" + (f"; dropped: {', '.join(parts)}" if parts else "")


class FaceStream:
    """Listens for frames of a face, on a thread of its own, until it is closed.

    Args:
        address: `udp://HOST:PORT` or `ws://HOST:PORT` (`stream_address`). Without a host, this machine alone is
            listened to; with `0.0.0.0`, whoever reaches it can send.
        on_frame: called after each frame that is taken, on the thread that took it.
        allowed_hosts: further names of this machine under which WebSockets may be requested for, as behind a proxy.

    Attributes:
        address: where it listens; the port is the one that it got.
        counts: what has become of the messages.
        latest: the newest frame; None before the first.
        on_frame: may be set later.

    Raises:
        ValueError: the address is none.
        OSError: it cannot listen there.
        ModuleNotFoundError: of ws: the package websockets is not installed.
    """

    def __init__(
        self, address: str, on_frame: Callable[[], object] | None = None, allowed_hosts: Collection[str] = ()
    ) -> None:
        requested = stream_address(address)
        self.counts = StreamCounts()
        self.latest: FaceMotion | None = None
        self.on_frame, self._allowed = on_frame, allowed_hosts
        self._lock = threading.Lock()
        self._closing = False
        try:
            self._end, port = self._listen_udp(requested) if requested.scheme == "udp" else self._listen_ws(requested)
        except (OSError, UnicodeError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"cannot listen on {requested} ({reason}); another port, or another host") from error
        self.address = StreamAddress(requested.scheme, requested.host, port)

    def __enter__(self) -> "FaceStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening."""
        self._closing = True
        self._end()

    def take(self, message: bytes | str) -> bool:
        """Takes a message as if it had come in; whether it was a frame that is newer than the last.

        Args:
            message: JSON, or a packet of Live Link Face.
        """
        with self._lock:
            if len(message) > LONGEST:
                self.counts.oversized += 1
                self.counts.reason = f"{len(message)} bytes; expected at most {LONGEST}"
                return False
            try:
                packet = isinstance(message, bytes) and message[:1] not in (b"{", b" ", b"\n")
                frame = motion_of_packet(message) if packet else motion_of_message(message)  # type: ignore[arg-type]
            except ValueError as error:
                self.counts.broken += 1
                self.counts.reason = str(error)
                return False
            before = self.latest
            if before is not None and 0 <= float(before.times[0] - frame.times[0]) < _RESTART:
                self.counts.late += 1
                return False
            self.latest = frame
            self.counts.taken += 1
        if self.on_frame is not None:
            self.on_frame()
        return True

    def _listen_udp(self, address: StreamAddress) -> tuple[Callable[[], object], int]:
        family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.bind(place)
        except OSError:
            listener.close()
            raise
        listener.settimeout(0.2)

        def run() -> None:
            while not self._closing:
                try:
                    message = listener.recv(LONGEST + 1)
                except (TimeoutError, ConnectionError):
                    continue
                except OSError:
                    break
                self.take(message)
            listener.close()

        thread = threading.Thread(target=run, name="face stream", daemon=True)
        thread.start()
        return lambda: thread.join(timeout=2), listener.getsockname()[1]

    def _listen_ws(self, address: StreamAddress) -> tuple[Callable[[], object], int]:
        try:
            from websockets.exceptions import ConnectionClosed
            from websockets.sync.server import serve
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"ws:// needs websockets ({error}); install it: pip install 'headfields[viewer]'"
            ) from error

        def handle(connection: Any) -> None:
            try:
                for message in connection:
                    self.take(message)
            except ConnectionClosed as closed:
                if closed.sent is not None and closed.sent.code == _TOO_BIG:
                    with self._lock:
                        self.counts.oversized += 1
                        self.counts.reason = f"a message of more than {LONGEST} bytes"

        def admit(connection: Any, request: Any) -> Any:
            reason = refusal(request.headers, address.host, self._allowed)
            if reason is None:
                return None
            with self._lock:
                self.counts.refused += 1
                self.counts.reason = reason
            return connection.respond(http.HTTPStatus.FORBIDDEN, f"headfields: {reason}\n")

        server = serve(
            handle, address.host, address.port, compression=None, max_size=LONGEST, process_request=admit,
            close_timeout=1,
        )  # fmt: skip
        thread = threading.Thread(target=server.serve_forever, name="face stream", daemon=True)
        thread.start()

        def end() -> None:
            with contextlib.suppress(OSError):
                server.shutdown()
            thread.join(timeout=2)

        return end, server.socket.getsockname()[1]
