"""Faces for pages: who gets them, and that only the newest is sent."""

import json
import socket
import time

import pytest

from headfields.apps.driving.page_server import PageServer
from headfields.apps.faces.lines import motion_of_message

sync_client = pytest.importorskip("websockets.sync.client")


def face(weight: float):
    return motion_of_message(json.dumps({"time": weight, "shapes": {"jawOpen": weight}}))


def test_a_page_with_the_key_gets_frames_and_others_nothing() -> None:
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    with PageServer("ws://127.0.0.1:0") as server:
        server.send_frame(face(0.1))  # nobody is there
        assert (server.sent, server.unheard) == (1, 1)
        place = server.address.rsplit("/", 1)[0]
        for wrong in (place, f"{place}/", f"{place}/another"):
            with pytest.raises(InvalidStatus, match="403"):
                sync_client.connect(wrong, compression=None)
        with pytest.raises(InvalidStatus, match="403"):  # a name that was made to mean this machine
            port = int(place.rsplit(":", 1)[1])
            link = socket.create_connection(("127.0.0.1", port), timeout=10)
            sync_client.connect(server.address.replace("127.0.0.1", "evil.example"), sock=link, compression=None)
        assert server.refused == 4
        with sync_client.connect(server.address, compression=None, origin="null") as page:
            for weight in (0.1, 0.25, 0.5):
                if weight > 0.1:  # what was the newest before it came is the first that it gets
                    server.send_frame(face(weight))
                assert json.loads(page.recv(timeout=10))["shapes"] == {"jawOpen": weight}
            assert server.unheard == 1
            server.close()
            with pytest.raises(ConnectionClosed):
                page.recv(timeout=10)


def test_a_slow_page_gets_the_newest_frame() -> None:
    with PageServer("ws://127.0.0.1:0") as server, sync_client.connect(server.address, compression=None) as page:
        server.send_frame(face(0.0))
        page.recv(timeout=10)
        for step in range(1, 200):
            server.send_frame(face(step / 200))
        got, last = 0, 0.0
        deadline = time.monotonic() + 10
        while last < 199 / 200 and time.monotonic() < deadline:
            last, got = json.loads(page.recv(timeout=10))["shapes"]["jawOpen"], got + 1
        assert last == pytest.approx(199 / 200) and got <= 199


def test_what_is_no_websocket_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a page listens to a WebSocket, and 'udp:' is none"):
        PageServer("udp:")
    with PageServer("ws://127.0.0.1:0") as server:
        place = server.address.rsplit("/", 1)[0]
        with pytest.raises(OSError, match=f"cannot listen on {place}"):
            PageServer(place)
