"""Who may talk to the viewer's server: pages that it serves itself, under a name of this machine.

A browser lets a page from anywhere open a WebSocket to localhost, and a name of anybody's can be made to mean 127.0.0.1
(DNS rebinding). So a request whose `Host` is no name of this server, or whose `Origin` is another page's, is refused.
viser has no option for either; the function that it starts its server with is wrapped while it starts.
"""

import contextlib
import http
import ipaddress
import socket
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def refusal(headers: Mapping[str, str], host: str, allowed: Collection[str] = ()) -> str | None:
    """Why a request is refused; None if it may pass.

    Args:
        headers: of the request.
        host: the address that the server listens on.
        allowed: further names of this machine, as behind a proxy.
    """
    asked = headers.get("Host") or ""
    name = _name(asked)
    if not name:
        return "the request has no Host"
    if not _is_ours(name, host, allowed):
        return f"Host is {asked!r}, which is no name of this server; headfields view --allow-host {name} admits it"
    origin = headers.get("Origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc.lower() != asked.lower():
        return f"Origin is {origin!r}, a page of another server"
    return None


def _name(netloc: str) -> str:
    """The name without its port, lower case; of IPv6 without brackets."""
    try:
        return (urllib.parse.urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_ours(name: str, host: str, allowed: Collection[str]) -> bool:
    if name in (*_LOOPBACK, host.lower()) or name in {each.lower() for each in allowed}:
        return True
    if host.lower() in _LOOPBACK:
        return False
    with contextlib.suppress(ValueError):  # an address cannot be made to mean another machine
        ipaddress.ip_address(name)
        return True
    return name in (socket.gethostname().lower(), socket.getfqdn().lower())


@contextlib.contextmanager
def checked_visitors(host: str, allowed: Collection[str] = ()) -> Iterator[None]:
    """Within the block, a server of viser that starts refuses requests as `refusal` says, with status 403."""
    import websockets.asyncio.server as server

    serve = server.serve

    def checked(*arguments: Any, process_request: Callable[..., Any] | None = None, **options: Any) -> Any:
        def process(connection: Any, request: Any) -> Any:
            reason = refusal(request.headers, host, allowed)
            if reason is not None:
                return connection.respond(http.HTTPStatus.FORBIDDEN, f"headfields: {reason}\n")
            return None if process_request is None else process_request(connection, request)

        return serve(*arguments, process_request=process, **options)

    server.serve = checked  # type: ignore[assignment]
    try:
        yield
    finally:
        server.serve = serve
