"""Whose requests the viewer answers: those of its own page, under a name of this machine."""

import http.client
import socket

import pytest

from headfields.apps.viewer.visitors import refusal
from tests.tables import table

pytest.importorskip("viser", reason="the viewer needs viser")


@table(
    ("headers", "host", "passes"),
    [
        ({"Host": "localhost:8080"}, "localhost", True),
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}, "localhost", True),
        ({"Host": "[::1]:8080", "Origin": "http://[::1]:8080"}, "localhost", True),
        ({"Host": "localhost:8080", "Origin": "http://evil.example"}, "localhost", False),
        ({"Host": "localhost:8080", "Origin": "http://localhost:9999"}, "localhost", False),
        ({"Host": "localhost:8080", "Origin": "null"}, "localhost", False),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, "localhost", False),
        ({"Host": "localhost.evil.example"}, "localhost", False),
        ({"Host": "192.168.0.7:8080"}, "localhost", False),
        ({"Host": "192.168.0.7:8080", "Origin": "http://192.168.0.7:8080"}, "0.0.0.0", True),
        ({"Host": f"{socket.gethostname()}:8080"}, "0.0.0.0", True),
        ({"Host": "evil.example:8080"}, "0.0.0.0", False),
        ({"Host": "lab.example"}, "0.0.0.0", True),
        ({"Host": "["}, "localhost", False),
        ({}, "localhost", False),
    ],
)
def test_who_is_answered(headers, host, passes) -> None:
    assert (refusal(headers, host, ["Lab.example"]) is None) == passes


def test_the_server_refuses_pages_from_elsewhere() -> None:
    from tests.apps.viewer.test_server import small_viewer

    viewer = small_viewer()
    try:
        port = int(viewer.url.rsplit(":", 1)[1])
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                   "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip

        def status(**headers: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/", headers={"Host": f"localhost:{port}", **headers})
            return connection.getresponse().status

        assert status() == 200 and status(Host="evil.example") == 403
        assert status(**upgrade, Origin=f"http://localhost:{port}") == 101
        assert status(**upgrade, Origin="http://evil.example") == 403
    finally:
        viewer.close()
