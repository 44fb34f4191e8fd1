"""How long a face takes from its message to the picture, and how many pictures a stream makes.

`python -m benchmarks.driving` streams a face by UDP over loopback, 30 messages a second, into a scene of an avatar of
Gaussians on the procedural head, as `headfields view --live` does, and draws it as the viewer's program does for a tab.
It takes the time from each send to the end of the picture that shows that message, JPEG included; a message that is
passed over, because a newer one was there first, has none. `--gaussians`, `--size`, `--rate`, `--seconds` and
`--threads` set what is measured; `--save FILE` writes the figures.
"""

import argparse
import io
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from headfields.apps.driving.face_driver import FaceDriver
from headfields.apps.driving.live import LIVE, LiveFace
from headfields.apps.driving.sender import FaceSender
from headfields.apps.driving.stream import FaceStream
from headfields.apps.viewer.articulation import HeadArticulation
from headfields.apps.viewer.looks import Picture
from headfields.apps.viewer.motion import Motion
from headfields.apps.viewer.progressive import ProgressiveRenderer
from headfields.apps.viewer.scene import Scene, View
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.records import Camera
from headfields.synthetic import procedural_head
from headfields.synthetic.head.arkit import procedural_arkit

_WARM = 10
"""Messages before those that count: caches fill, and the renderer learns its speed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gaussians", type=int, default=15_000, help="number of Gaussians")
    parser.add_argument("--size", type=int, default=256, help="height and width of the pictures, pixels")
    parser.add_argument("--rate", type=float, default=30.0, help="messages a second")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the stream")
    parser.add_argument("--threads", type=int, help="threads of PyTorch and the kernels; PyTorch's choice if not given")
    parser.add_argument("--save", type=Path, help="a JSON file of the figures")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures = measured(arguments.gaussians, arguments.size, arguments.rate, arguments.seconds)
    print(json.dumps(figures))
    if arguments.save:
        arguments.save.write_text(json.dumps(figures, indent=1) + "\n")


def measured(gaussians: int, size: int, rate: float, seconds: float) -> dict[str, Any]:
    """The figures of one stream; see the module."""
    head = procedural_head()
    with torch.no_grad():
        rest = head()
    avatar = gaussian_avatars(head.template(), count=gaussians).eval()
    template = head.template()
    scene = Scene("head", avatar, [Motion.still("rest", rest)], HeadArticulation(head), template.faces)
    sent: dict[float, float] = {}
    delays: list[float] = []
    spent: dict[str, list[float]] = {"state": [], "picture": []}
    with FaceStream("udp://127.0.0.1:0") as stream, FaceSender(str(stream.address)) as sender:
        live = LiveFace(FaceDriver(HeadArticulation(head), rest, procedural_arkit()), stream)
        scene.add(live.motion)
        shown: list[float] = []
        lock = threading.Lock()

        def draw(content: View, camera: Camera) -> Picture:
            start = time.perf_counter()
            scene.state(content)
            middle = time.perf_counter()
            face = stream.latest
            picture = scene.picture(content, camera)
            spent["state"].append(middle - start)
            spent["picture"].append(time.perf_counter() - middle)
            with lock:
                shown.append(-1.0 if face is None else float(face.times[0]))
            return picture

        def show(key: Any, picture: Picture, final: bool) -> None:
            Image.fromarray(picture.rgb).save(io.BytesIO(), "JPEG", quality=70)
            with lock:
                stamp = shown[-1]
            if stamp in sent:
                delays.append(time.perf_counter() - sent.pop(stamp))

        renderer = ProgressiveRenderer(draw, show, lambda error: print("draw:", error))
        camera, count = scene.first_camera((size, size)), 0

        def asked() -> None:
            nonlocal count
            count += 1
            renderer.request("tab", View(LIVE, frame=count), camera)

        stream.on_frame = asked
        for warm in range(_WARM):
            sender.send({"jawOpen": 0.1 * warm}, time_stamp=-10 + 0.01 * warm)
            time.sleep(0.1)
        renderer.idle(10)
        for figures in (delays, *spent.values()):
            figures.clear()
        begin = renderer.shown
        start = time.perf_counter()
        for number in range(int(seconds * rate)):
            time.sleep(max(start + number / rate - time.perf_counter(), 0))
            stamp = number / rate
            sent[stamp] = time.perf_counter()
            sender.send({"jawOpen": number % 20 / 20, "mouthSmileLeft": 0.5}, head=(0, 0.01 * (number % 20), 0),
                        time_stamp=stamp)  # fmt: skip
        took = time.perf_counter() - start
        pictures = renderer.shown - begin
        renderer.idle(5)
        renderer.close()
        counts = stream.counts
    times = 1e3 * torch.tensor(delays or [float("nan")])
    latency = {"median": times.median(), "95 %": times.quantile(0.95), "largest": times.amax()}
    return {
        "gaussians": gaussians, "size": size, "rate": rate, "threads": torch.get_num_threads(),
        "messages taken": counts.taken - _WARM, "messages late": counts.late,
        "pictures a second": round(pictures / took, 1), "load of the machine": round(os.getloadavg()[0], 1),
        **{f"latency {name}, ms": round(float(value), 1) for name, value in latency.items()},
        **{f"{name}, ms": round(1e3 * statistics.median(values), 1) for name, values in spent.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
