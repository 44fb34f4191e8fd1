"""Pictures that are coarse while something moves and sharpen at rest, drawn on a thread of their own."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from headfields.apps.viewer.looks import Picture
from headfields.records import Camera

__all__ = ["ProgressiveRenderer", "band", "factors"]

BUDGET = 0.12
"""Seconds that a coarse picture, and a band of a finer one, may take: what a slider waits at most."""
REST = 0.15
"""Seconds without a change after which pictures sharpen."""
COARSEST = 1 / 8


@dataclass
class _Request:
    """The newest thing to draw for one browser.

    Attributes:
        content: what is drawn.
        camera: at full size.
        arrived: when, by `time.monotonic`.
        version: grows with every request.
        level: how many pictures of it have been shown.
        size_shown: size of the last of them, relative to the full one.
    """

    content: Any
    camera: Camera
    arrived: float | int
    version: int
    level: int = 0
    size_shown: float | int = 0.0


def factors(pixels: int, speed: float | int, budget: float | int = BUDGET) -> list[float]:
    """Sizes of the pictures of a request, relative to the full one: from what the budget allows by doubling to 1.

    >>> from headfields.apps.viewer.progressive import factors
    >>> factors(256 * 256, speed=1e5, budget=0.1), factors(64 * 64, speed=1e5, budget=0.1)
    ([0.390625, 0.78125, 1.0], [1.0])
    """
    first = (max(speed * budget, 1.0) / max(pixels, 1)) ** 0.5
    first = max(round(first * 256) / 256, COARSEST)
    sizes = []
    while first < 0.9:
        sizes.append(first)
        first *= 2
    return [*sizes, 1.0]


def band(camera: Camera, first: int, last: int) -> Camera:
    """The camera of the rows from `first` up to `last` of its image."""
    lens = camera.intrinsics.clone()
    lens[..., 1, 2] -= first
    return camera.replace(intrinsics=lens, size=(last - first, camera.size[1]))


class ProgressiveRenderer:
    """Draws the newest request of each browser: coarse at once, finer once nothing has changed for a moment.

    A finer picture is drawn in bands of rows and given up between two bands when a newer request arrives, so a request
    waits for about `BUDGET` seconds and never for a whole picture.

    Args:
        draw: `(content, camera)` to a picture; called on this thread only.
        show: `(key, picture, final)`; `final` for full size. An exception ends nothing but that picture.
        failed: called with the error of `draw` or `show`.
    """

    def __init__(
        self,
        draw: Callable[[Any, Camera], Picture],
        show: Callable[[Hashable, Picture, bool], None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self._draw, self._show, self._failed = draw, show, failed
        self._requests: dict[Hashable, _Request] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._count = 0
        self.speed = 2e4
        """Pixels a second, measured while drawing."""
        self.shown = 0
        """Number of pictures shown so far."""
        self._thread = threading.Thread(target=self._run, name="progressive renderer", daemon=True)
        self._thread.start()

    def request(self, key: Hashable, content: Any, camera: Camera) -> None:
        """Replaces what is drawn for a browser; returns at once.

        Args:
            key: which browser.
            content: for `draw`.
            camera: one camera at full size.
        """
        with self._wake:
            self._count += 1
            self._requests[key] = _Request(content, camera, time.monotonic(), self._count)
            self._wake.notify()

    def forget(self, key: Hashable) -> None:
        """Stops drawing for a browser that has left."""
        with self._wake:
            self._requests.pop(key, None)

    def close(self) -> None:
        """Ends the thread after the band that it draws."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=10)

    def idle(self, timeout: float | int) -> bool:
        """Waits until nothing is left to draw; whether that was reached in `timeout` seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with self._wake:
                if not self._requests:
                    return True
            time.sleep(0.01)
        return False

    def _run(self) -> None:
        while (task := self._next()) is not None:
            key, request = task
            try:
                self._advance(key, request)
            except Exception as error:
                self._finish(key, request)
                if self._failed is not None:
                    self._failed(error)

    def _next(self) -> tuple[Hashable, _Request] | None:
        """The request to work on: the coarsest first, so that no browser waits for another's detail."""
        with self._wake:
            while not self._closing:
                now = time.monotonic()
                ready = [(r.level, r.version, key) for key, r in self._requests.items() if self._is_due(r, now)]
                if ready:
                    key = min(ready, key=lambda entry: entry[:2])[2]
                    return key, self._requests[key]
                self._wake.wait(timeout=REST / 3 if self._requests else None)
            return None

    @staticmethod
    def _is_due(request: _Request, now: float | int) -> bool:
        return request.level == 0 or now - request.arrived >= REST

    def _is_current(self, key: Hashable, request: _Request) -> bool:
        return self._requests.get(key) is request and not self._closing

    def _finish(self, key: Hashable, request: _Request) -> None:
        with self._wake:
            if self._requests.get(key) is request:
                del self._requests[key]

    def _advance(self, key: Hashable, request: _Request) -> None:
        """Draws and shows the next picture of a request."""
        height, width = request.camera.size
        sizes = factors(height * width, self.speed)
        size = sizes[0] if request.level == 0 else next((s for s in sizes if s > request.size_shown), 1.0)
        camera = request.camera if size == 1 else request.camera.scaled(size)
        picture = self._whole(key, request, camera)
        if picture is None:
            return
        with self._wake:
            request.level += 1
            request.size_shown = size
        if size >= 1:
            self._finish(key, request)
        self._show(key, picture, size >= 1)
        self.shown += 1

    def _whole(self, key: Hashable, request: _Request, camera: Camera) -> Picture | None:
        """The picture, in bands unless it is the first of its request; None if a newer request has come."""
        height, width = camera.size
        rows = height if request.level == 0 else max(int(self.speed * BUDGET / max(width, 1)), 1)
        bands = []
        for first in range(0, height, rows):
            if request.level and not self._is_current(key, request):
                return None
            last = min(first + rows, height)
            start = time.perf_counter()
            bands.append(self._draw(request.content, camera if rows >= height else band(camera, first, last)))
            speed = (last - first) * width / max(time.perf_counter() - start, 1e-6)
            self.speed += 0.3 * (min(speed, 1e8) - self.speed)
        if len(bands) == 1:
            return bands[0]
        return Picture(np.concatenate([each.rgb for each in bands]), np.concatenate([each.depth for each in bands]))
