"""A headless Chromium for the viewer's slow tests, by Debian's chromium and chromium-driver and selenium."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--window-size=900,600", "--force-device-scale-factor=1",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with a profile of its own; skips the test where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="the viewer's tests in a browser need selenium")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    browser.set_script_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


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
