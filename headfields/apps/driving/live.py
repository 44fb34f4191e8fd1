"""A stream of faces as a motion of the viewer: the state of its newest frame."""

import threading

from headfields.apps.driving.face_driver import FaceDriver
from headfields.apps.driving.stream import FaceStream
from headfields.apps.faces.motion import FaceMotion
from headfields.apps.viewer.motion import Motion
from headfields.records import HeadState

__all__ = ["LIVE", "LiveFace"]

LIVE = "live"
"""The name of the motion."""


class LiveFace:
    """The head as the stream's newest frame has it; at rest before the first.

    Args:
        driver: what moves the head.
        stream: where frames come from.

    Attributes:
        motion: for the viewer's scene; it has one frame, whose state changes.
    """

    def __init__(self, driver: FaceDriver, stream: FaceStream) -> None:
        self._driver, self._stream = driver, stream
        self._lock = threading.Lock()
        self._state: tuple[FaceMotion | None, HeadState] = (None, driver.rest)
        self.motion = Motion(LIVE, 1, lambda frame: self.state())

    def state(self) -> HeadState:
        """The head's state now."""
        face = self._stream.latest
        with self._lock:
            if face is not None and self._state[0] is not face:
                self._state = (face, self._driver.state(face))
            return self._state[1]
