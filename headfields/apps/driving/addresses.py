"""Addresses of streams of faces: `udp://HOST:PORT` and `ws://HOST:PORT`, on this machine alone unless they say so."""

import urllib.parse
from dataclasses import dataclass
from typing import Literal, cast

__all__ = ["StreamAddress", "stream_address"]

_PORTS = {"udp": 11111, "ws": 8765}
"""11111 is where Live Link Face sends to."""


@dataclass(frozen=True)
class StreamAddress:
    """Where a stream is listened for, or sent to.

    Attributes:
        scheme: of the transport.
        host, port: a name or an address, and a port; 0: any that is free.
    """

    scheme: Literal["udp", "ws"]
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def stream_address(text: str) -> StreamAddress:
    """The address that a text is: `udp://127.0.0.1:11111`, `ws://:8765`, `udp:`.

    Without a host it is 127.0.0.1, and without a port 11111 (UDP) or 8765 (WebSocket).

    Raises:
        ValueError: it is none.

    >>> from headfields.apps.driving.addresses import stream_address
    >>> str(stream_address("udp:")), str(stream_address("ws://0.0.0.0:9000"))
    ('udp://127.0.0.1:11111', 'ws://0.0.0.0:9000')
    """
    expected = "expected udp://HOST:PORT or ws://HOST:PORT, as udp://127.0.0.1:11111"
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address of a stream ({error}); {expected}") from error
    if parts.scheme not in _PORTS or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text!r} is no address of a stream; {expected}")
    scheme = cast(Literal["udp", "ws"], parts.scheme)
    return StreamAddress(scheme, parts.hostname or "127.0.0.1", _PORTS[scheme] if port is None else port)
