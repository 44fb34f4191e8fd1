"""How long a face takes from its message to the picture, and how many pictures a stream makes.

`python -m benchmarks.driving` streams a face by UDP over loopback, 30 messages a second, into a scene of an avatar of
Gaussians on the procedural head, as `headfields view --live` does, and draws it as the viewer's program does for a tab.
It takes the time from each send to the end of the picture that shows that message, JPEG included; a message that is
passed over, because a newer one was there first, has none. `--gaussians`, `--size`, `--rate`, `--seconds` and
`--threads` set what is measured; `--save FILE` writes the figures.

With `--page` the messages go on to the avatar's page in headless Chromium, as `headfields drive --page --live udp:`
sends them, and the page draws them in software: the time ends when WebGL says that the picture is done.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.browser import chromium
from headfields.apps.driving.face_driver import FaceDriver
from headfields.apps.driving.live import LIVE, LiveFace
from headfields.apps.driving.page_server import PageServer
from headfields.apps.driving.sender import FaceSender
from headfields.apps.driving.stream import FaceStream
from headfields.apps.faces.motion import FaceMotion
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
    parser.add_argument("--page", action="store_true", help="into the avatar's page in Chromium")
    parser.add_argument("--threads", type=int, help="threads of PyTorch and the kernels; PyTorch's choice if not given")
    parser.add_argument("--save", type=Path, help="a JSON file of the figures")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    measure = into_page if arguments.page else measured
    figures = measure(arguments.gaussians, arguments.size, arguments.rate, arguments.seconds)
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
        took = _send(sender, rate, seconds, sent, time.perf_counter)
        pictures = renderer.shown - begin
        renderer.idle(5)
        renderer.close()
        counts = stream.counts
    return {
        "gaussians": gaussians, "size": size, "rate": rate, "threads": torch.get_num_threads(),
        "messages taken": counts.taken - _WARM, "messages late": counts.late,
        "pictures a second": round(pictures / took, 1), **_latency(delays),
        **{f"{name}, ms": round(1e3 * statistics.median(values), 1) for name, values in spent.items()},
    }  # fmt: skip


def _send(
    sender: FaceSender, rate: float, seconds: float, sent: dict[float, float], clock: Callable[[], float]
) -> float:
    """Sends a face that talks and turns, notes when by its time stamp, and says how long that took."""
    start = time.perf_counter()
    for number in range(int(seconds * rate)):
        time.sleep(max(start + number / rate - time.perf_counter(), 0))
        stamp = number / rate
        sent[stamp] = clock()
        sender.send({"jawOpen": number % 20 / 20, "mouthSmileLeft": 0.5}, head=(0, 0.01 * (number % 20), 0),
                    time_stamp=stamp)  # fmt: skip
    return time.perf_counter() - start


def _latency(seconds: list[float]) -> dict[str, float]:
    times = 1e3 * torch.tensor(seconds or [float("nan")])
    found = {"median": times.median(), "95 %": times.quantile(0.95), "largest": times.amax()}
    latency = {f"latency {name}, ms": round(float(value), 1) for name, value in found.items()}
    return {**latency, "load of the machine": round(os.getloadavg()[0], 1)}


_WATCH = """
const [address, side, done] = arguments, take = live.take.bind(live), finish = show.finish.bind(show), ask = show.ask;
let newest = null, asked = null;
window.shown = [];
live.take = (data) => { take(data); newest = JSON.parse(data).time; };
show.ask = (request) => { if (request.state) asked = newest; ask(request); };
show.finish = async (picture) => {
  const stamp = asked, drawn = finish(picture);
  await show.painter.drawn();
  shown.push([stamp, (performance.timeOrigin + performance.now()) / 1000]);
  await drawn;
};
view.camera = ((own) => () => {
  const camera = own(), scale = side / Math.max(camera.width, camera.height);
  const lens = camera.lens.map((x, k) => (k < 6 ? x * scale : x));
  return { ...camera, lens, width: Math.round(camera.width * scale), height: Math.round(camera.height * scale) };
})(view.camera.bind(view));
live.connect(address);
const opened = () => (live.socket?.readyState === 1 ? done(true) : setTimeout(opened, 20));
opened();
"""
"""Notes the time stamp of the frame in each picture, and when the picture was there; fixes the size of pictures."""


def into_page(gaussians: int, size: int, rate: float, seconds: float) -> dict[str, Any]:
    """The figures of one stream into a page; see the module."""
    head = procedural_head()
    avatar = gaussian_avatars(head.template(), count=gaussians).eval()
    sent: dict[float, float] = {}
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile", (700, 900)) as browser:
        page = avatar.to_html(Path(folder) / "head.html", head=head, arkit=procedural_arkit())
        browser.get(page.as_uri())
        browser.execute_async_script("window.headfields.ready.then(arguments[0]);")
        with (
            FaceStream("udp://127.0.0.1:0") as stream, PageServer("ws://127.0.0.1:0") as server,
            FaceSender(str(stream.address)) as sender,
        ):  # fmt: skip
            browser.execute_async_script(_WATCH, server.address, size)
            stream.on_frame = lambda: server.send_frame(_newest(stream))
            for warm in range(3 * _WARM):
                sender.send({"jawOpen": 0.03 * warm}, time_stamp=-10 + 0.01 * warm)
                time.sleep(0.1)
            browser.execute_script("shown.length = 0;")
            took = _send(sender, rate, seconds, sent, time.time)
            time.sleep(1)
            shown = [(stamp, at) for stamp, at in browser.execute_script("return shown") if stamp in sent]
            counts = stream.counts
    first = {stamp: at for stamp, at in reversed(shown)}
    return {
        "gaussians": gaussians, "size": size, "rate": rate, "messages taken": counts.taken - 3 * _WARM,
        "messages late": counts.late, "pictures a second": round(len(first) / took, 1),
        **_latency([at - sent[stamp] for stamp, at in first.items()]),
    }  # fmt: skip


def _newest(stream: FaceStream) -> FaceMotion:
    assert stream.latest is not None
    return stream.latest


if __name__ == "__main__":
    main()
