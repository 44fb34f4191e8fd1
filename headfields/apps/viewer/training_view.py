"""The avatar on screen while it trains: pictures that the viewer asks for are drawn between two steps."""

import queue
import sys
import threading
import time
from typing import Any

from headfields.apps.viewer.scene import Scene
from headfields.apps.viewer.subjects import capture_scene
from headfields.parts import Rendering
from headfields.records import Camera, HeadState

__all__ = ["BetweenSteps", "TrainingView"]

_PATIENCE = 60.0
"""Seconds that a picture waits for its turn, before it is given up: a step may take long."""
_SHARE = 0.5
"""Largest share of the time that pictures may take while somebody looks."""


class BetweenSteps:
    """An avatar that is being trained, as the viewer draws it: `render` waits until the training thread has drawn.

    Threads cannot share an avatar whose weights change, and whose averaged weights are swapped in for a picture. So a
    request waits for the end of the step, and `serve` draws it there.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._avatar: Any = None  # once training has ended, the avatar, which anyone may draw

    def render(self, camera: Camera, state: HeadState, background: Any = 1.0) -> Rendering:
        """As `headfields.Avatar.render`, with the averaged weights after the present step.

        Raises:
            TimeoutError: no step has ended within a minute.
        """
        if self._avatar is not None:
            return self._avatar.render(camera, state, background)
        request = _Request(camera, state, background)
        self._requests.put(request)
        if not request.drawn.wait(_PATIENCE):
            raise TimeoutError(f"no step of training has ended within {_PATIENCE:g} seconds")
        if isinstance(request.result, Exception):
            raise request.result
        assert request.result is not None
        return request.result

    @property
    def waits(self) -> bool:
        """Whether a picture is asked for."""
        return not self._requests.empty()

    def serve(self, avatar: Any, device: Any) -> None:
        """Draws what is asked for, from the thread that trains."""
        while self.waits:
            request = self._requests.get()
            try:
                image = avatar.render(request.camera.to(device), request.state.to(device), request.background)
                request.result = image.to("cpu")
            except Exception as error:
                request.result = error
            request.drawn.set()

    def finish(self, avatar: Any, device: Any) -> None:
        """From now on the avatar is drawn by whoever asks: training has ended."""
        self.serve(avatar, device)
        self._avatar = avatar
        self.serve(avatar, device)  # what came in between


class _Request:
    def __init__(self, camera: Camera, state: HeadState, background: Any) -> None:
        self.camera, self.state, self.background = camera, state, background
        self.drawn = threading.Event()
        self.result: Rendering | Exception | None = None


class TrainingView:
    """A callback of the trainer that serves the viewer: the avatar with its averaged weights, between two steps.

    Pictures take at most half of the time while somebody looks, and none while nobody does. Weights and figures of the
    training are those of one without it. With several processes, the first serves.

    Args:
        host, port, resolution: as for `headfields.apps.viewer.Viewer`.
        every: seconds between two pictures while nothing is moved.
        serve: whether to serve a page; False: `scene` alone, for a program of your own.

    Attributes:
        scene: what is shown; None before training begins.
        viewer: the server; None before training begins, and without `serve`.

    Raises:
        ValueError: there is no such port.
        ModuleNotFoundError: at the start of training: viser is not installed.
    """

    scene: Scene | None = None
    viewer: Any = None

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8080,
        resolution: int = 256,
        every: float | int = 5.0,
        serve: bool = True,
    ) -> None:
        if not 0 <= port < 65536:
            raise ValueError(f"TrainingView: port is {port}; expected one from 0 (any) to 65535")
        self.host, self.port, self.resolution, self.every, self.served = host, port, resolution, every, serve
        self._between = BetweenSteps()
        self._free = self._again = 0.0

    def on_start(self, trainer: Any) -> None:
        """Opens the page, once; a later call of `fit` goes on with it."""
        if not trainer.processes.is_first:
            return
        self._between._avatar = None
        if self.scene is None:
            self.scene = capture_scene(trainer.capture, self._between)
            if self.served:
                from headfields.apps.viewer.server import Viewer

                self.viewer = Viewer(self.scene, self.host, self.port, self.resolution)
                print(f"the avatar while it trains: {self.viewer.url}", file=sys.stderr, flush=True)

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Draws the pictures that are asked for, and asks for a new one every few seconds."""
        now = time.monotonic()
        if self._between.waits and now >= self._free:
            with trainer.averaged() as avatar:
                self._between.serve(avatar, trainer.device)
            spent = time.monotonic() - now
            self._free = time.monotonic() + spent * (1 / _SHARE - 1)
        if self.viewer is not None and now >= self._again and self.viewer.server.get_clients():
            self._again = now + self.every
            self.viewer.set()

    def on_end(self, trainer: Any, result: Any) -> None:
        """Draws the trained avatar from now on, until `close` or the end of the program."""
        if trainer.processes.is_first:
            self._between.finish(trainer.avatar, trainer.device)
            if self.viewer is not None:
                self.viewer.set()

    def close(self) -> None:
        """Ends the server."""
        if self.viewer is not None:
            self.viewer.close()
            self.viewer = None
