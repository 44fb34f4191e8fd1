"""The viewer's frames a second: what a page draws and gets in headless Chromium, and what the program makes alone.

`python -m benchmarks.viewer RUN [RUN ...]` opens each run in a page whose scene has 256 x 256 pixels and counts for
four seconds each, in the page itself: how often the scene is drawn while the pointer orbits, how many new poses are
drawn while the motion plays at 60 frames a second, and, for avatars of fields, how many pictures arrive while the
pointer orbits and while the motion plays. `--no-browser` measures the program alone: one slider is moved fifty times a
second, and what would be sent is counted. `--save FILE` writes the figures as JSON.

The browser draws WebGL in software, on the cores that the program uses as well: its figures are lower bounds.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.browser import chromium, count_from_the_start, rates
from headfields.apps.viewer import Viewer
from headfields.apps.viewer.gaussian_drawing import GaussianDrawing
from headfields.apps.viewer.looks import Picture
from headfields.apps.viewer.progressive import ProgressiveRenderer
from headfields.apps.viewer.scene import Scene
from headfields.apps.viewer.subjects import capture_scene
from headfields.cli import open_run

SECONDS = 4.0
RATE = 50.0
PORT = 8790
PANEL = 20.0
"""Seconds that a page may take to open."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--size", type=int, default=256, help="height and width of the scene, pixels")
    parser.add_argument("--layers", nargs="+", choices=("avatar", "mesh"), default=["avatar", "mesh"])
    parser.add_argument("--gaussians", choices=("browser", "program"), default="program", help="who draws Gaussians")
    parser.add_argument("--no-browser", action="store_true", help="the program alone")
    parser.add_argument("--save", type=Path, help="a JSON file of the figures")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "size": arguments.size}
    for path in arguments.runs:
        run, config = open_run.open_run(path)
        avatar = open_run.open_avatar(run, config, 2048).eval()
        scene = capture_scene(open_run.capture_of(config, None, 2048), avatar)
        measured: dict[str, Any] = {"faces": len(scene.faces)}
        is_field = not hasattr(avatar, "splats")
        if not is_field:
            measured["gaussians"] = len(avatar.gaussians)
        for layer in arguments.layers:
            if arguments.no_browser and layer == "avatar" and (is_field or arguments.gaussians == "program"):
                measured[layer] = pictures(scene, arguments.size)
            elif arguments.no_browser:
                measured[layer] = {"updates": updates(scene, layer)}
            else:
                measured[layer] = in_browser(scene, layer, arguments.size, arguments.gaussians)
            print(path.name, layer, json.dumps(measured[layer]), flush=True)
        figures[path.name] = measured
    if arguments.save:
        arguments.save.write_text(json.dumps(figures, indent=1) + "\n")


def in_browser(scene: Scene, layer: str, size: int, gaussians: GaussianDrawing) -> dict[str, float]:
    """Frames, poses and pictures a second in a page.

    Args:
        scene: what is shown.
        layer: the one layer of it that is shown.
        size: height and width of the scene in the page, pixels.
        gaussians: who draws Gaussians.
    """
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        viewer = Viewer(scene, port=PORT, resolution=size, gaussians=gaussians)
        viewer.set(layers=frozenset({layer}))
        try:
            count_from_the_start(browser)
            browser.get(viewer.url)
            square(browser, viewer, size)
            viewer.idle(60)
            mesh = 12 * len(viewer.scene.vertices(viewer.view))
            least = mesh if layer == "mesh" else 32 * len(getattr(scene.avatar, "gaussians", range(10**6)))
            rates(browser, 1.0, True, least)  # shaders are made for the first frames
            viewer.idle(60)
            orbit = rates(browser, SECONDS, True, least)
            viewer._handles["rate"].value = 60
            viewer._handles["play"].value = True
            rates(browser, 1.0, False, least)
            before, start = viewer.updates, time.monotonic()
            play = rates(browser, SECONDS, False, least)
            sent = (viewer.updates - before) / (time.monotonic() - start)
            viewer._handles["play"].value = False
        finally:
            viewer.close()
    figures = {
        "orbiting: frames": orbit["frames"], "orbiting: pictures": orbit["pictures"],
        "playing: frames": play["frames"], "playing: new poses": play["posed"], "playing: pictures": play["pictures"],
        "playing: updates of the program": sent, "playing: megabytes": play["bytes"] / 1e6,
    }  # fmt: skip
    return {name: round(value, 1) for name, value in figures.items() if value}


def square(browser: Any, viewer: Viewer, size: int) -> None:
    """Gives the page the size at which its scene has `size` x `size` pixels.

    Raises:
        TimeoutError: it does not take it.
    """
    window, end = [900, 600], time.monotonic() + PANEL
    while time.monotonic() < end:
        metrics = {"width": window[0], "height": window[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(1.0)
        canvas = browser.execute_script(
            """const all = [...document.querySelectorAll("canvas")].sort((a, b) => b.width - a.width);
            return all.length ? [all[0].clientWidth, all[0].clientHeight] : null;"""
        )
        if not viewer.server.get_clients() or canvas is None:
            continue
        if canvas == [size, size]:
            return
        window = [window[axis] + size - canvas[axis] for axis in range(2)]
    raise TimeoutError(f"the scene in the page has {canvas} pixels; expected {size} x {size}")


def positions(scene: Scene, seconds: float) -> Any:
    """The values of the first slider, moved to and fro for some seconds."""
    control, start, index = scene.controls[0], time.monotonic(), 0
    while time.monotonic() - start < seconds:
        index += 1
        yield {control.name: control.high * (index % 100) / 100}
        time.sleep(1 / RATE)


def pictures(scene: Scene, size: int) -> dict[str, float]:
    """Coarse pictures a second while the slider moves, their height, and the seconds to the sharp one."""
    shown: list[Picture] = []
    renderer = ProgressiveRenderer(scene.picture, lambda key, picture, final: shown.append(picture))
    view, camera = scene.first_view(), scene.first_camera((size, size))
    for seconds in (1.0, SECONDS):  # the first to learn the speed
        shown.clear()
        for values in positions(scene, seconds):
            renderer.request(0, replace(view, values=values), camera)
    count, height, start = len(shown), shown[-1].rgb.shape[0], time.monotonic()
    renderer.idle(60)
    sharp = time.monotonic() - start
    renderer.close()
    return {"pictures": round(count / SECONDS, 1), "rows": height, "seconds to the sharp one": round(sharp, 1)}


def updates(scene: Scene, layer: str) -> float:
    """How often a second the browser would get what it draws."""
    viewer = Viewer(scene, port=PORT)
    viewer.set(layers=frozenset({layer}))
    viewer.idle(60)
    before, start = viewer.updates, time.monotonic()
    for values in positions(scene, SECONDS):
        viewer.set(values=values)
    rate = (viewer.updates - before) / (time.monotonic() - start)
    viewer.close()
    return round(rate, 1)


if __name__ == "__main__":
    main()
