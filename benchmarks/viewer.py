"""The viewer's frames a second, without a browser: pictures while a slider moves, and what a browser draws itself.

`python -m benchmarks.viewer RUN [RUN ...]` moves one slider fifty times a second for four seconds for each run. For an
avatar of a field it counts the coarse pictures of a 256 x 256 view that were drawn, and how long the sharp one took
afterwards. For an avatar of Gaussians it counts how often all Gaussians were posed, packed and sent; for every run, how
often the tracked mesh was.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from headfields.cli import runs
from headfields.viz.viewer import ProgressiveRenderer, Scene, Viewer, capture_scene
from headfields.viz.viewer.looks import Picture

SECONDS = 4.0
RATE = 50.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    for path in arguments.runs:
        run, config = runs.open_run(path)
        avatar = runs.load_avatar(run, config, 2048).eval()
        scene = capture_scene(runs.capture_of(config, None, 2048), avatar)
        print(f"{path.name}:", pictures(scene, arguments.size) if not hasattr(avatar, "splats") else "", flush=True)
        if hasattr(avatar, "splats"):
            print(f"  {len(avatar.gaussians)} Gaussians: {updates(scene, 'avatar'):.1f} updates/s", flush=True)
        print(f"  tracked mesh of {len(scene.faces)} faces: {updates(scene, 'mesh'):.1f} updates/s", flush=True)


def positions(scene: Scene, seconds: float) -> Any:
    """The values of the first slider, moved to and fro for some seconds."""
    control, start, index = scene.controls[0], time.monotonic(), 0
    while time.monotonic() - start < seconds:
        index += 1
        yield {control.name: control.high * (index % 100) / 100}
        time.sleep(1 / RATE)


def pictures(scene: Scene, size: int) -> str:
    """Coarse pictures a second while the slider moves, their height, and the time to the sharp one."""
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
    return f"{count / SECONDS:.1f} pictures/s of {height} rows, sharp ({size} rows) after {sharp:.1f} s"


def updates(scene: Scene, layer: str) -> float:
    """How often a second the browser would get what it draws."""
    viewer = Viewer(scene, port=8790)
    viewer.set(layers=frozenset({layer}))
    viewer.idle(60)
    before, start = viewer.updates, time.monotonic()
    for values in positions(scene, SECONDS):
        viewer.set(values=values)
    rate = (viewer.updates - before) / (time.monotonic() - start)
    viewer.close()
    return rate


if __name__ == "__main__":
    main()
