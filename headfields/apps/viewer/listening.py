"""What a server of the viewer needs: the package viser, and an address of this machine."""

import errno
import socket
from typing import Any

__all__ = ["check_address", "require_viser"]


def check_address(host: str, port: int) -> None:
    """Whether a server can listen there; viser waits forever where it cannot. A port that is not free passes.

    Args:
        host: a name or address of this machine.
        port: from 0 (any) on.

    Raises:
        OSError: the host is no address of this machine, or the port is not allowed.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            return
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot listen on host {host!r}, port {port} ({reason}); localhost is this machine alone, 0.0.0.0 all its "
            "addresses, and ports below 1024 may be reserved"
        ) from error


def require_viser() -> Any:
    """The module viser.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    try:
        import viser
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the viewer needs viser ({error}); install it: pip install 'headfields[viewer]'"
        ) from error
    return viser
