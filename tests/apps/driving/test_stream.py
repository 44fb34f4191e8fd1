"""Faces over loopback: by UDP and WebSocket, late, broken, oversized ones, pages from elsewhere; and into a scene."""

import json
import math
import time
from collections.abc import Callable

import pytest
import torch

from headfields.apps.driving.addresses import stream_address
from headfields.apps.driving.face_driver import FaceDriver
from headfields.apps.driving.live import LIVE, LiveFace
from headfields.apps.driving.sender import FaceSender, play
from headfields.apps.driving.stream import LONGEST, FaceStream
from headfields.apps.faces.lines import motion_of_lines
from headfields.apps.faces.live_link_face import packet_of_motion
from headfields.apps.faces.motion import FaceMotion
from headfields.apps.viewer.subjects import head_scene
from headfields.heads.blendshapes import BlendshapeHead
from tests.data.tiny import blob


def comes(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def messages(first: int = 0, count: int = 100) -> FaceMotion:
    lines = [json.dumps({"time": i / 30, "shapes": {"jawOpen": i / 1000}}) for i in range(first, first + count)]
    motion = motion_of_lines("\n".join(lines))
    return motion.replace(times=motion.times + first / 30)


@pytest.mark.parametrize("scheme", ["udp", "ws"])
def test_two_hundred_messages_of_which_some_are_broken(scheme) -> None:
    if scheme == "ws":
        pytest.importorskip("websockets", reason="the extra `viewer` brings websockets")
    motion = messages()
    broken = ["", "{", "[]", json.dumps({"time": 9, "shapes": {"jawOpen": math.nan}}), "x" * 400]
    heard: list[int] = []
    with FaceStream(f"{scheme}://127.0.0.1:0", lambda: heard.append(1)) as stream:
        counts = stream.counts
        with FaceSender(str(stream.address)) as sender:
            for frame in range(100):  # in turn, so that no buffer overflows on a busy machine
                sender.send_frame(motion, frame)
                sender._put(broken[frame % 5] if frame % 2 else message(frame))
                assert comes(lambda frame=frame: counts.taken + counts.broken + counts.late == 2 * (frame + 1))
        assert (counts.taken, counts.broken, counts.late) == (100, 50, 50) and len(heard) == 100
        assert stream.latest is not None and stream.latest.weights(0) == pytest.approx({"jawOpen": 0.099})
        assert str(counts) == "100 frames; dropped: 50 late, 50 broken"
        sender = FaceSender(str(stream.address))
        sender._put(json.dumps({"time": 0, "shapes": {}}) + LONGEST * " ")
        assert comes(lambda: counts.oversized == 1)
        with FaceSender(str(stream.address)) as again:  # a sender that begins anew
            again.send({"cheekPuff": 0.5}, head=(0, 0.1, 0), time_stamp=0.25)
            assert comes(lambda: counts.taken == 101) and stream.latest.weights(0) == {"cheekPuff": 0.5}
            with pytest.raises(ValueError, match="did you mean cheekPuff"):
                again.send({"cheekPuf": 0.5})
        sender.close()


def message(frame: int) -> str:
    """Of a moment before, that was overtaken."""
    return json.dumps({"time": (frame - 0.5) / 30, "shapes": {"jawOpen": 1}})


def test_packets_of_live_link_face_come_in_beside_json() -> None:
    with FaceStream("udp://127.0.0.1:0") as stream:
        assert stream.take(packet_of_motion(messages(60, 1)))
        assert stream.latest is not None and float(stream.latest.times[0]) == pytest.approx(2.0, abs=1e-4)
        for noise in (b"\x06", bytes(range(256)), b"\x00" * 300, b"\xff" * LONGEST):
            assert not stream.take(noise)
        assert not stream.take(b"\x06" * (LONGEST + 1))
        assert (stream.counts.broken, stream.counts.oversized) == (4, 1)
        with pytest.raises(OSError, match=rf"cannot listen on udp://127.0.0.1:{stream.address.port} .*in use"):
            FaceStream(str(stream.address))


def test_a_page_of_another_server_is_refused() -> None:
    client = pytest.importorskip("websockets.sync.client", reason="the extra `viewer` brings websockets")
    from websockets.exceptions import InvalidStatus

    with FaceStream("ws://127.0.0.1:0") as stream:
        for headers in ({"Origin": "https://elsewhere.example"}, {"Origin": "null"}):
            with pytest.raises(InvalidStatus, match="403"):
                client.connect(f"{stream.address}/", additional_headers=headers, proxy=None)
        assert stream.counts.refused == 2 and "Origin is 'null'" in stream.counts.reason


def test_addresses() -> None:
    assert str(stream_address("ws:")) == "ws://127.0.0.1:8765"
    for text in ("", "http://x:1", "udp://x:99999", "udp://127.0.0.1:1/path", "127.0.0.1:9", "udp://x:y"):
        with pytest.raises(ValueError, match="no address of a stream"):
            stream_address(text)
    with pytest.raises(OSError, match=r"nobody listens at ws://127\.0\.0\.1:9 "):
        FaceSender("ws://127.0.0.1:9")


def test_a_recorded_motion_is_sent_in_its_own_time() -> None:
    motion = messages(0, 4)
    with FaceStream("udp://127.0.0.1:0") as stream, FaceSender(str(stream.address)) as sender:
        start = time.monotonic()
        play(sender, motion, speed=0.5, loop=True, stop=lambda: sender.sent >= 6)
        assert time.monotonic() - start >= 5 * 2 / 30 - 0.01
        assert comes(lambda: stream.counts.taken == 6) and not stream.counts.late
        assert stream.latest is not None and stream.latest.weights(0) == pytest.approx({"jawOpen": 0.001})


def test_a_live_face_is_a_motion_of_the_scene() -> None:
    template, faces = blob()
    basis = 0.01 * torch.ones(1, len(template), 3)
    head = BlendshapeHead(template, faces, basis, expression_names=("jawOpen",))
    scene = head_scene(head)
    assert scene.articulation is not None
    with FaceStream("udp://127.0.0.1:0") as stream:
        live = LiveFace(FaceDriver(scene.articulation, head()), stream)
        scene.add(live.motion)
        view = scene.first_view()
        rest = scene.state(type(view)(LIVE)).vertices
        stream.take('{"time": 1, "shapes": {"jawOpen": 0.5}}')
        moved = scene.state(type(view)(LIVE, frame=1)).vertices
        assert torch.allclose(moved - rest, torch.tensor(0.005), atol=1e-6)
        assert live.state() is live.state()
        with pytest.raises(ValueError, match="a motion live already"):
            scene.add(live.motion)
