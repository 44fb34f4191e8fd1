"""A headless Chromium that counts what its page draws, by Debian's chromium and chromium-driver and selenium.

It draws WebGL by SwiftShader, in software: what a page draws here is a lower bound for any machine with a graphics
card.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--force-device-scale-factor=1",
)  # fmt: skip

COUNTERS = """
(() => {
  const counts = window.drawing = {ticks: 0, frames: 0, posed: 0, pictures: 0, bytes: 0};
  let drew = false, fed = false;
  const prototype = WebGL2RenderingContext.prototype;
  const wrap = (name, look) => {
    const own = prototype[name];
    prototype[name] = function (...given) { look(given); return own.apply(this, given); };
  };
  for (const name of ["drawArrays", "drawElements", "drawArraysInstanced", "drawElementsInstanced"])
    wrap(name, () => { drew = true; });
  const data = (given) => {
    for (const each of given) {
      if (each instanceof HTMLImageElement || each instanceof ImageBitmap) counts.pictures++;
      else if (ArrayBuffer.isView(each) && each.byteLength >= counts.least) {
        fed = true;
        counts.bytes += each.byteLength;
      }
    }
  };
  for (const name of ["texImage2D", "texSubImage2D", "bufferData", "bufferSubData"]) wrap(name, data);
  counts.least = Infinity;
  const tick = () => {
    counts.ticks++;
    if (drew) { counts.frames++; if (fed) counts.posed++; }
    drew = fed = false;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  window.orbit = (seconds) => new Promise((done) => {
    const canvas = [...document.querySelectorAll("canvas")].sort((a, b) => b.width - a.width)[0];
    const box = canvas.getBoundingClientRect(), end = performance.now() + 1000 * seconds;
    const send = (name, x) => {
      const place = {clientX: box.left + x, clientY: box.top + box.height / 2, pointerId: 1, button: 0,
                     buttons: name === "pointerup" ? 0 : 1, pointerType: "mouse", isPrimary: true, bubbles: true};
      (name === "pointerdown" ? canvas : document).dispatchEvent(new PointerEvent(name, place));
    };
    const start = performance.now(), middle = box.width / 3;
    send("pointerdown", middle);
    const move = () => {
      send("pointermove", middle + 0.2 * box.width * Math.sin((performance.now() - start) / 600));
      if (performance.now() < end) requestAnimationFrame(move);
      else { send("pointerup", middle); done(); }
    };
    requestAnimationFrame(move);
  });
})();
"""
"""Counts, from the first line of the page on: animation frames (`ticks`); those in which the scene was drawn
(`frames`); those that drew data of at least `least` bytes for the first time (`posed`); images that became textures
(`pictures`). `orbit(seconds)` drags the pointer to and fro."""


@contextmanager
def chromium(profile: Path, size: tuple[int, int] = (900, 600)) -> Iterator[Any]:
    """A browser with a profile of its own.

    Args:
        profile: an empty folder.
        size: width and height of the window, pixels.

    Raises:
        ModuleNotFoundError: selenium is missing.
        FileNotFoundError: Chromium or its driver is missing.
    """
    from selenium import webdriver

    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        raise FileNotFoundError("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in (*SWITCHES, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


def count_from_the_start(browser: Any) -> None:
    """Counts in every page that is opened from now on."""
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNTERS})


def rates(browser: Any, seconds: float, orbit: bool, least: float | None = None) -> dict[str, float]:
    """What the page draws, a second.

    Args:
        browser: with a page that counts.
        seconds: for how long.
        orbit: whether the pointer drags the camera meanwhile.
        least: size of an update of what is drawn, bytes; None: none is counted.
    """
    return browser.execute_async_script(
        """const [seconds, orbits, least, done] = arguments, counts = window.drawing;
        counts.least = least ?? Infinity;
        const before = {...counts}, start = performance.now();
        const wait = orbits ? orbit(seconds) : new Promise((after) => setTimeout(after, 1000 * seconds));
        wait.then(() => {
          const spent = (performance.now() - start) / 1000, result = {};
          for (const name of ["ticks", "frames", "posed", "pictures", "bytes"])
            result[name] = (counts[name] - before[name]) / spent;
          done(result);
        });""",
        seconds, orbit, least,
    )  # fmt: skip
