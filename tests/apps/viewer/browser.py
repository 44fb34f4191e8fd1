"""A headless Chromium for the viewer's tests, by Debian's chromium and chromium-driver and selenium."""

import io
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import browser as headless
from headfields.apps.viewer.server import Viewer


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with a profile of its own; skips the test where there is none."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(headless.chromium(profile))
        except (ModuleNotFoundError, FileNotFoundError) as error:
            pytest.skip(f"the viewer's tests in a browser need selenium and Chromium: {error}")
        yield running


def pixels(browser: Any) -> np.ndarray:
    """The page as (H, W, 3) of 8 bits."""
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))


def frames_per_second(browser: Any, seconds: float = 2.0) -> float:
    """How often the page is drawn."""
    count = browser.execute_async_script(
        """const done = arguments[1], end = performance.now() + 1000 * arguments[0]; let count = 0;
        const step = () => { count++; performance.now() < end ? requestAnimationFrame(step) : done(count); };
        requestAnimationFrame(step);""",
        seconds,
    )
    return count / seconds


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


TOP, RIGHT = 150, 560
"""Above and to the right of these, notifications and the panel lie over the scene."""
AXES = 64
"""Size of the corner with the axes of the view."""


def settled(viewer: Viewer, browser: Any, tabs: int = 1) -> np.ndarray:
    """The scene in the page, (H, W, 3) of signed integers without panel and notifications, once `tabs` are connected
    and nothing changes any more."""
    end = time.monotonic() + 90
    while len(viewer.server.get_clients()) < tabs and time.monotonic() < end:
        time.sleep(0.1)
    before, still = pixels(browser), 0
    while time.monotonic() < end:
        viewer.idle(10)
        time.sleep(0.8)
        now = pixels(browser)
        still = still + 1 if (now[TOP:] == before[TOP:]).all() else 0
        if still >= 2 and (now[TOP:, :RIGHT].min(-1) < 250).sum() > 1000:
            return _scene_part(now)
        before = now
    raise AssertionError("the page did not settle in 90 seconds")


def own_picture(viewer: Viewer, browser: Any) -> np.ndarray:
    """What the library draws for the one tab, cut like `settled`."""
    (client,) = viewer.server.get_clients().values()
    height = len(pixels(browser))
    picture = viewer.scene.picture(viewer.view, viewer.camera_of(client, min(height, viewer.resolution))).rgb
    if len(picture) < height:
        size = (round(picture.shape[1] * height / len(picture)), height)
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    return _scene_part(picture)


def _scene_part(page: np.ndarray) -> np.ndarray:
    part = page[TOP:, :RIGHT].astype(int)
    part[-AXES:, :AXES] = 255
    return part
