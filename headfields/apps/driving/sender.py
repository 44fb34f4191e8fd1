"""Sends faces to a stream: frames by their weights and turns, and recorded motions at the speed they were recorded."""

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from headfields.apps.driving.addresses import stream_address
from headfields.apps.faces.lines import message_of_motion, motion_of_message
from headfields.apps.faces.motion import FaceMotion

__all__ = ["FaceSender", "play"]


class FaceSender:
    """A sender of frames to `headfields view --live`, or to any `FaceStream`.

    Args:
        address: `udp://HOST:PORT` or `ws://HOST:PORT`.

    Attributes:
        sent: number of frames.
        address: where to.
        unheard: number of frames that nobody listened for, as far as UDP on this machine tells.

    Raises:
        ValueError: the address is none, or a frame is out of range.
        OSError: nobody listens to a WebSocket there.
        ModuleNotFoundError: of ws: the package websockets is not installed.

    >>> from headfields.apps.driving.sender import FaceSender
    >>> from headfields.apps.driving.stream import FaceStream
    >>> with FaceStream("udp://127.0.0.1:0") as stream, FaceSender(str(stream.address)) as sender:
    ...     sender.send({"jawOpen": 0.4}, head=(0.0, 0.2, 0.0))
    """

    def __init__(self, address: str) -> None:
        to = self.address = stream_address(address)
        self.sent = self.unheard = 0
        self._start = time.monotonic()
        if to.scheme == "ws":
            try:
                from websockets.sync.client import connect
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    f"ws:// needs websockets ({error}); install it: pip install 'headfields[viewer]'"
                ) from error
            try:
                link = socket.create_connection((to.host, to.port), timeout=5)
                link.settimeout(None)
                connection: Any = connect(f"{to}/", sock=link, compression=None, close_timeout=1)
            except OSError as error:
                raise OSError(f"nobody listens at {to} ({error.strerror or error})") from error
            self._put: Callable[[str], object] = connection.send
            self.close: Callable[[], None] = connection.close
            return
        family, kind, _, _, place = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_DGRAM)[0]
        link = socket.socket(family, kind)
        link.connect(place)
        self._put, self.close = (lambda message: link.send(message.encode())), link.close

    def __enter__(self) -> "FaceSender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        shapes: Mapping[str, float | int],
        head: Sequence[float | int] | None = None,
        left_eye: Sequence[float | int] | None = None,
        right_eye: Sequence[float | int] | None = None,
        jaw: Sequence[float | int] | None = None,
        time_stamp: float | int | None = None,
    ) -> None:
        """Sends a frame.

        Args:
            shapes: weights by ARKit's names; those that are left out are 0.
            head, left_eye, right_eye, jaw: rotation vectors, radians (`FaceMotion`); None: not turned.
            time_stamp: seconds on a clock of the caller's; since the sender was made, if None.
        """
        turns = {"head": head, "left_eye": left_eye, "right_eye": right_eye, "jaw": jaw}
        message: dict[str, Any] = {"time": time.monotonic() - self._start if time_stamp is None else time_stamp}
        message |= {"shapes": dict(shapes), **{key: list(turn) for key, turn in turns.items() if turn is not None}}
        text = json.dumps(message)
        motion_of_message(text)  # an error here is the caller's, who would not hear of it otherwise
        self._deliver(text)

    def send_frame(self, motion: FaceMotion, frame: int = 0) -> None:
        """Sends a frame of a motion, with the motion's time."""
        self._deliver(message_of_motion(motion, frame))

    def _deliver(self, text: str) -> None:
        try:
            self._put(text)
            self.sent += 1
        except ConnectionRefusedError:
            self.unheard += 1


@runtime_checkable
class _Receiver(Protocol):
    def send_frame(self, motion: FaceMotion, frame: int = 0) -> None: ...


def play(
    sender: _Receiver,
    motion: FaceMotion,
    speed: float | int = 1.0,
    loop: bool = False,
    stop: Callable[[], object] = bool,
) -> None:
    """Sends a motion, each frame when its time has come; frames whose time is over before they are sent are left out.

    Args:
        sender: where to: a `FaceSender` or `headfields.apps.driving.page_server.PageServer`.
        motion: T frames.
        speed: 2 is twice as fast.
        loop: whether it begins anew at its end.
        stop: asked before each frame; true ends it.
    """
    times = (motion.times - motion.times[:1]).div(speed).tolist()
    length = times[-1] + (times[-1] / max(len(times) - 1, 1) if len(times) > 1 else 1 / 30) if times else 0.0
    start, rounds = time.monotonic(), 0
    while times and not (rounds and not loop):
        for frame, due in enumerate(times):
            wait = start + rounds * length + due - time.monotonic()
            while wait > 0 and not stop():
                time.sleep(min(wait, 0.1))
                wait = start + rounds * length + due - time.monotonic()
            if stop():
                return
            following = times[frame + 1] if frame + 1 < len(times) else length
            if wait + following - due > 0 or frame + 1 == len(times):
                now = motion[frame : frame + 1]
                sender.send_frame(now.replace(times=now.times * 0 + rounds * length + due))
        rounds += 1
