"""Serves faces to pages of avatars, which connect when their user asks for it (`headfields/viz/page/live.js`)."""

import contextlib
import hmac
import http
import secrets
import threading
from collections.abc import Collection
from typing import Any

from headfields.apps.driving.addresses import stream_address
from headfields.apps.faces.lines import message_of_motion
from headfields.apps.faces.motion import FaceMotion
from headfields.apps.viewer.visitors import refusal

__all__ = ["PageServer"]


class PageServer:
    """A WebSocket on this machine that sends each page the newest frame; frames that a page is too slow for are left
    out.

    A page from the disk has no origin that could be checked, and a browser lets any page connect to this machine. So
    the address has a key, drawn anew each time, and whoever does not know it gets nothing.

    Args:
        address: `ws://HOST:PORT`; without them 127.0.0.1 and 8765, and with port 0 any that is free.
        allowed_hosts: further names of this machine, as behind a proxy.

    Attributes:
        address: what the user pastes into the page, with the key.
        sent: number of frames that were given.
        unheard: number of them for which no page was there.
        refused: connections without the key, or under another name.

    Raises:
        ValueError: the address is no WebSocket's.
        OSError: it cannot listen there.
        ModuleNotFoundError: the package websockets is not installed.
    """

    def __init__(self, address: str = "ws:", allowed_hosts: Collection[str] = ()) -> None:
        at = stream_address(address)
        if at.scheme != "ws":
            raise ValueError(f"a page listens to a WebSocket, and {address!r} is none; expected ws://HOST:PORT")
        try:
            from websockets.exceptions import ConnectionClosed
            from websockets.sync.server import serve
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"pages need websockets ({error}); install it: pip install 'headfields[viewer]'"
            ) from error
        self.sent = self.unheard = self.refused = 0
        self._key = f"/{secrets.token_urlsafe(12)}"
        self._news, self._newest, self._number = threading.Condition(), "", 0
        self._pages, self._closing = 0, False

        def admit(connection: Any, request: Any) -> Any:
            known = hmac.compare_digest(str(request.path).encode(), self._key.encode())
            hosts = request.headers.get_all("Host")
            if known and len(hosts) == 1 and refusal({"Host": hosts[0]}, at.host, allowed_hosts) is None:
                return None
            self.refused += 1
            return connection.respond(http.HTTPStatus.FORBIDDEN, "headfields: the key is another\n")

        def handle(connection: Any) -> None:
            with self._news:
                self._pages += 1
            seen = 0  # a page that comes late begins with the newest frame
            try:
                while True:
                    with self._news:
                        while not self._closing and self._number == seen:
                            self._news.wait()
                        if self._closing:
                            return
                        message, seen = self._newest, self._number
                    connection.send(message)
            except ConnectionClosed:
                pass
            finally:
                with self._news:
                    self._pages -= 1

        try:
            self._server = serve(
                handle, at.host, at.port, compression=None, max_size=1024, process_request=admit, close_timeout=1
            )
        except (OSError, OverflowError) as error:
            raise OSError(
                f"cannot listen on {at} ({getattr(error, 'strerror', None) or error}); another port"
            ) from error
        port = self._server.socket.getsockname()[1]
        self.address = f"ws://{f'[{at.host}]' if ':' in at.host else at.host}:{port}{self._key}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="face pages", daemon=True)
        self._thread.start()

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        with contextlib.suppress(OSError):
            self._server.shutdown()
        self._thread.join(timeout=2)

    def send_frame(self, motion: FaceMotion, frame: int = 0) -> None:
        """Makes a frame of a motion the newest."""
        text = message_of_motion(motion, frame)
        with self._news:
            self._newest, self._number = text, self._number + 1
            self.sent += 1
            self.unheard += not self._pages
            self._news.notify_all()
