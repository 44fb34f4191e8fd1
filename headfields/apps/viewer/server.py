"""The viewer in the browser: a thin front of viser over `Scene` and `ProgressiveRenderer`."""

import contextlib
import io
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from headfields.apps.viewer.articulation import Control
from headfields.apps.viewer.browser_gaussians import draw_gaussians, packed_gaussians
from headfields.apps.viewer.browser_lights import light_scene
from headfields.apps.viewer.gaussian_drawing import GaussianDrawing, WhoDraws
from headfields.apps.viewer.listening import check_address, require_viser
from headfields.apps.viewer.looks import FAR, LOOKS, Picture
from headfields.apps.viewer.motion import PLAYED
from headfields.apps.viewer.progressive import ProgressiveRenderer
from headfields.apps.viewer.recording import Path as CameraPath
from headfields.apps.viewer.recording import encoded_image, encoded_video, video_views
from headfields.apps.viewer.scene import ON_SURFACE, Scene, View
from headfields.apps.viewer.visitors import checked_visitors
from headfields.data.errors import CaptureError
from headfields.ops.rotations import quaternion_from_rotation, rotation_from_quaternion
from headfields.records import Camera
from headfields.runs.interrupts import InterruptFlag

__all__ = ["Viewer"]

CLAY, WIRE = (204, 204, 204), (40, 90, 200)
_ERROR_EVERY = 0.4
"""Seconds between two comparisons with the truth while something moves."""
_COLORS_EVERY = 0.2
"""Seconds between two updates of colors from harmonics while a camera alone moves: all Gaussians are sent again."""
_FRAME_EVERY = 0.1
"""Seconds between two updates of the scrubber while the motion plays."""


_WIDEST = 8.0
"""Width of a picture relative to its height, at most: a message of a browser can ask for any."""


_FASTEST, _LONGEST = 60, 20
"""Frames a second, and seconds of a turntable, at most."""


def _within(value: Any, low: float | int, high: float | int, usual: float | int) -> float:
    """A number of a browser's message, within its bounds; `usual` if it is none."""
    number = float(value)
    return float(min(max(number, low), high) if math.isfinite(number) else usual)


def _among(value: Any, choices: Iterable[Any]) -> Any:
    """What a browser's message chooses; the first of the choices if it is none of them."""
    known = list(choices)
    return value if value in known else known[0]


def _who_connects(host: str) -> str:
    """What an address means, for the page."""
    if host.lower() in ("localhost", "127.0.0.1", "::1"):
        return "this machine alone"
    return "every machine that reaches this one can see and move it"


class Viewer:
    """Serves a scene to any number of browser tabs, which share the panel and have cameras of their own.

    Args:
        scene: what is shown.
        host: the address to listen on; "localhost" is this machine alone.
        port: the next free one is taken if it is not free.
        resolution: largest height of pictures that the program draws, pixels.
        gaussians: who draws avatars of Gaussians.
        allowed_hosts: further names under which browsers may ask for the page, as behind a proxy. Requests under names
            that are not this server's, and those of pages from elsewhere, are refused.

    Attributes:
        url: where it listens.
        view: what is set up now.
        gaussians: who draws avatars of Gaussians.
        updates: number of times that what the browser draws was brought up to date.

    Raises:
        ModuleNotFoundError: viser is not installed.
        OSError: it cannot listen there.
        ValueError: nobody of that name draws Gaussians.
    """

    def __init__(
        self,
        scene: Scene,
        host: str = "localhost",
        port: int = 8080,
        resolution: int = 512,
        gaussians: GaussianDrawing = "automatic",
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        viser = require_viser()
        check_address(host, port)
        self.scene, self.resolution, self.gaussians = scene, resolution, WhoDraws(gaussians)
        self.view = scene.first_view()
        self.updates = 0
        banner = contextlib.redirect_stdout(io.StringIO())  # viser's own
        with banner, checked_visitors(host, allowed_hosts):
            self.server = viser.ViserServer(host=host, port=port, label=scene.name, verbose=False)
        self._host = host
        self.url = f"http://{host}:{self.server.get_port()}"
        self._pictures = ProgressiveRenderer(self._draw, self._show, _report)
        self._changed, self._closing, self._is_updating = threading.Event(), False, False
        self._moved = time.monotonic()
        self._nodes: dict[str, Any] = {}
        self._version = 0  # of what is shown: grows with every change but those of cameras
        self._posed: dict[str, Any] = {}  # for which state each node of the mesh was sent last
        self._gaussians_sent: tuple[str, int, torch.Tensor, float] | None = None  # node, version, eye, time
        self._old_colors = False  # whether a camera has moved since
        self._stood_in = False  # whether the last pictures that the program was asked for show the proxy
        self._with_background: set[Hashable] = set()
        self._handles: dict[str, Any] = {}
        self._error_done: tuple[View | None, float] = (None, 0.0)
        camera = scene.first_camera()
        self.server.scene.set_up_direction("+y")
        light_scene(self.server.scene)
        first = self.server.initial_camera
        first.position, first.look_at = camera.center.numpy(), scene.center.numpy()
        first.up = np.array([0.0, 1.0, 0.0])
        first.fov = _fov(camera)
        first.near, first.far = 0.02 * scene.extent, 50.0 * scene.extent
        self._build_panel()
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._disconnected)
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._update_loop, "viewer updates"), (self._play_loop, "viewer playback"))
        ]
        for thread in self._threads:
            thread.start()
        self._changed.set()

    def close(self) -> None:
        """Ends the server and its threads."""
        self._closing = True
        self._changed.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._pictures.close()
        self.server.stop()

    def wait(self, ready: Callable[[], object] | None = None) -> None:
        """Serves until Ctrl-C, SIGTERM or the end of the terminal, then closes.

        Args:
            ready: called once, from when on one of these ends it in order.
        """
        try:
            with InterruptFlag() as interrupt:
                if ready is not None:
                    ready()
                while not interrupt:
                    time.sleep(0.1)
        finally:
            self.close()

    def idle(self, timeout: float | int = 10.0) -> bool:
        """Waits until the browser has everything at full quality; whether that was reached in `timeout` seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            before = self.updates
            is_idle = self._has_everything() and self._pictures.idle(0.01)
            if is_idle and self._has_everything() and self.updates == before:
                return True
            time.sleep(0.02)
        return False

    def set(self, **changes: Any) -> None:
        """Changes the view as the panel would: `motion`, `frame`, `values`, `look`, `canonical`, `layers`."""
        self.view = replace(self.view, **changes)
        self._version += 1
        self._moved = time.monotonic()
        self._changed.set()

    def choose(self, motion: str) -> None:
        """Shows a motion of the scene, as the panel does."""
        self._handles["motion"].value = motion
        if self.view.motion != motion:
            self._set_motion(motion)

    def refresh(self, motion: str) -> None:
        """Shows a motion anew that changes by itself, if it is the one that is shown."""
        if self.view.motion == motion:
            self.set(frame=self.view.frame + 1)  # a state is known by its frame

    def _has_everything(self) -> bool:
        return not self._is_updating and not self._has_changes()

    def _has_changes(self) -> bool:
        return self._changed.is_set() or self._old_colors

    # The panel

    def _build_panel(self) -> None:
        gui, scene = self.server.gui, self.scene
        gui.configure_theme(show_share_button=False)
        gui.main_panel.dock_right()
        gui.add_markdown(f"On {self.url}: {_who_connects(self._host)}.")
        with gui.add_folder("Motion"):
            names = list(scene.motions)
            motion = gui.add_dropdown("motion", names, initial_value=names[0])
            frame = gui.add_slider("frame", 0, max(self._motion.count - 1, 1), 1, 0, disabled=self._motion.count < 2)
            play = gui.add_checkbox("play", False, disabled=all(each.count < 2 for each in scene.motions.values()))
            rate = gui.add_slider("frames a second", 1, _FASTEST, 1, PLAYED)
        self._handles |= {"motion": motion, "frame": frame, "play": play, "rate": rate}
        motion.on_update(lambda _: self._set_motion(motion.value))
        frame.on_update(lambda _: self._set_frame(frame.value))
        with gui.add_folder("Show"):
            for layer in scene.layers:
                box = gui.add_checkbox(layer, layer in self.view.layers)
                box.on_update(self._layer_callback(layer, box))
                self._handles[f"layer {layer}"] = box
            looks = [look for look in LOOKS if look != "nearest triangle" or scene.faces is not None]
            look = gui.add_dropdown("look", looks, initial_value=looks[0])
            look.on_update(lambda _: self.set(look=_among(look.value, looks)))
            self._handles["look"] = look
            if self._has_gaussians:
                drawings = get_args(GaussianDrawing)
                drawing = gui.add_dropdown("gaussians by", drawings, initial_value=self.gaussians.setting)
                drawing.on_update(lambda _: self._set_gaussians(_among(drawing.value, drawings)))
                self._handles["gaussians"] = drawing
            if scene.canonical is not None:
                canonical = gui.add_checkbox("canonical space", False)
                canonical.on_update(lambda _: self.set(canonical=bool(canonical.value)))
                self._handles["canonical"] = canonical
        self._build_sliders()
        if scene.capture is not None:
            with gui.add_folder("Truth"):
                through = gui.add_button("look through the frame's camera")
                through.on_click(lambda event: self._look_through(event.client))
                compare = gui.add_checkbox("error against the frame", False)
                compare.on_update(lambda _: self._changed.set())
                blank = np.full((8, 24, 3), 255, np.uint8)
                image = gui.add_image(blank, label="truth | rendering | error", visible=False)
                figure = gui.add_markdown("", visible=False)
            self._handles |= {"compare": compare, "error image": image, "error figure": figure, "through": through}
        with gui.add_folder("Save", expand_by_default=False):
            shot = gui.add_button("screenshot")
            shot.on_click(lambda event: self._save_screenshot(event.client))
            path = gui.add_dropdown("video of", ["the motion", "a turntable"], initial_value="a turntable")
            seconds = gui.add_slider("turntable, seconds", 1, _LONGEST, 1, 4)
            record = gui.add_button("video")
            paths = get_args(CameraPath)
            record.on_click(lambda event: self._save_video(
                event.client, _among(path.value, paths), _within(seconds.value, 1, _LONGEST, 4)
            ))  # fmt: skip
        self._handles |= {"screenshot": shot, "path": path, "seconds": seconds, "video": record}

    def _build_sliders(self) -> None:
        gui = self.server.gui
        groups: dict[str, list[Control]] = {}
        for control in self.scene.controls:
            groups.setdefault(control.group, []).append(control)
        for group, controls in groups.items():
            with gui.add_folder(group.capitalize(), expand_by_default=len(controls) <= 12):
                for control in controls:
                    label = f"{control.name} {control.unit}".strip()
                    step = (control.high - control.low) / 200 or 0.01
                    slider = gui.add_slider(label, control.low, control.high, step, 0.0)
                    slider.on_update(self._slider_callback(control, slider))
                    self._handles[f"slider {control.name}"] = slider
        if groups:
            reset = gui.add_button("sliders to 0")
            reset.on_click(lambda _: self._reset())
            self._handles["reset"] = reset

    def _layer_callback(self, layer: str, box: Any) -> Callable[[Any], None]:
        def changed(_: Any) -> None:
            layers = self.view.layers | {layer} if box.value else self.view.layers - {layer}
            self.set(layers=frozenset(layers))

        return changed

    def _slider_callback(self, control: Control, slider: Any) -> Callable[[Any], None]:
        def changed(_: Any) -> None:
            value = _within(slider.value, control.low, control.high, 0.0)
            self.set(values={**self.view.values, control.name: value})

        return changed

    def _reset(self) -> None:
        for name, handle in self._handles.items():
            if name.startswith("slider "):
                handle.value = 0.0
        self.set(values={})

    @property
    def _motion(self) -> Any:
        return self.scene.motions[self.view.motion]

    def _set_frame(self, value: Any) -> None:
        frame = int(_within(value, 0, max(self._motion.count - 1, 0), 0))
        if frame != self.view.frame:  # else the program moved the scrubber
            self.set(frame=frame)

    def _set_motion(self, value: Any) -> None:
        name = _among(value, self.scene.motions)
        count = self.scene.motions[name].count
        self.set(motion=name, frame=0)
        slider = self._handles["frame"]
        slider.value, slider.max, slider.disabled = 0, max(count - 1, 1), count < 2

    def _set_gaussians(self, drawing: GaussianDrawing) -> None:
        self.gaussians = WhoDraws(drawing)
        self.set()

    def _look_through(self, client: Any) -> None:
        """Puts a tab's camera where the frame was taken; its principal point is taken to be the center."""
        frame = self.scene.truth_frame(self.view)
        if client is None or frame is None:
            return
        camera = self.scene.capture.camera([frame])[0]
        pose = camera.world_to_camera.reshape(4, 4)
        eye, forward, up = camera.center.reshape(3), pose[2, :3], -pose[1, :3]
        distance = float((self.scene.center - eye) @ forward)
        with client.atomic():
            client.camera.fov = _fov(camera)
            client.camera.up_direction = up.numpy()
            client.camera.position = eye.numpy()
            client.camera.look_at = (eye + max(distance, 0.1) * forward).numpy()

    # Browser tabs

    def _connected(self, client: Any) -> None:
        client.camera.on_update(lambda camera: self._camera_moved(client))
        self._changed.set()

    def _disconnected(self, client: Any) -> None:
        self._pictures.forget(client.client_id)
        self._with_background.discard(client.client_id)
        self.gaussians.forget(client.client_id)

    def _camera_moved(self, client: Any) -> None:
        self._moved = time.monotonic()
        if {"avatar", "proxy"} & set(self._nodes):
            self._measure(client)
        self._request(client, self.view, self._is_moving())
        if self._has_gaussians and not self.gaussians.is_program:
            self._changed.set()

    def _measure(self, client: Any) -> None:
        """Notes a camera of a tab that draws Gaussians, and changes over to the program where that is slow."""
        rate = self.gaussians.camera_moved(client.client_id, time.monotonic())
        if rate is not None:
            client.add_notification(
                "Gaussians are drawn by the program",
                f"This browser draws them {rate:.1f} times a second. Show, gaussians by: browser changes back.",
                auto_close_seconds=10.0,
            )
            self.set()

    @property
    def _has_gaussians(self) -> bool:
        return self.scene.proxy is not None or hasattr(self.scene.avatar, "splats")

    def _browser_gaussians(self, view: View, moving: bool) -> Any | None:
        """The avatar of Gaussians that the browser draws; None if there is none, or the program draws it."""
        return None if self.gaussians.is_program else self.scene.gaussians(view, moving)

    def _draw(self, content: tuple[View, bool], camera: Camera) -> Picture:
        view, stand_in = content
        return self.scene.picture(view, camera, stand_in)

    def _is_moving(self) -> bool:
        return time.monotonic() - self._moved < 0.3 or bool(self._handles["play"].value)

    def camera_of(self, client: Any, height: int) -> Camera:
        """The camera of a tab, with an image of at most `height` rows."""
        view = client.camera
        rows = max(min(height, int(_within(view.image_height, 0, height, height)) or height), 2)
        columns = max(round(rows * _within(view.aspect, 0.1, _WIDEST, 1.0)), 2)
        turn, place = (torch.tensor(np.asarray(each), dtype=torch.float64) for each in (view.wxyz, view.position))
        if not (turn.isfinite().all() and place.isfinite().all() and turn.norm() > 1e-6):
            return self.scene.first_camera().scaled(rows / self.scene.first_camera().size[0])
        rotation = rotation_from_quaternion(turn).T
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = rotation
        pose[:3, 3] = -rotation @ place.clamp(-1e6, 1e6)
        focal = 0.5 * rows / math.tan(_within(view.fov, 0.01, 3.0, 0.4) / 2)
        lens = torch.tensor([[focal, 0, columns / 2], [0, focal, rows / 2], [0, 0, 1.0]])
        return Camera(pose.float(), lens, (rows, columns))

    def _request(self, client: Any, view: View, moving: bool) -> None:
        """Asks for a picture of the avatar unless the browser draws it."""
        if "avatar" not in view.layers or self._browser_gaussians(view, moving) is not None:
            self._pictures.forget(client.client_id)
            if client.client_id in self._with_background:
                self._with_background.discard(client.client_id)
                client.scene.set_background_image(None)
            return
        try:
            camera = self.camera_of(client, self.resolution)
        except AssertionError:  # the tab has not told its camera yet; it will
            return
        shown = self.scene.gaussians(view, moving)
        stand_in = shown is not None and shown is self.scene.proxy
        self._stood_in = self._stood_in or stand_in
        self._pictures.request(client.client_id, (view, stand_in), camera)

    def _show(self, key: Hashable, picture: Picture, final: bool) -> None:
        client = self.server.get_clients().get(key)
        if client is None or self._closing:
            return
        others = self.view.layers & {"mesh", "wireframe", "landmarks", "cameras"}
        depth = picture.depth if others else None
        client.scene.set_background_image(
            picture.rgb,
            format="jpeg",
            jpeg_quality=92 if final else 70,
            depth=None if depth is None else np.minimum(depth + ON_SURFACE, FAR),
        )
        client.flush()
        self._with_background.add(key)

    # What the browser draws

    def _update_loop(self) -> None:
        while not self._closing:
            self._changed.wait(timeout=0.25)
            if self._closing:
                return
            at_rest = ("proxy" in self._nodes or self._stood_in) and not self._is_moving()
            if not self._has_changes() and not at_rest:
                self._compare()
                continue
            self._is_updating = True  # before the change is taken, so that `idle` sees one of the two
            self._changed.clear()
            try:
                self._update()
            except Exception as error:
                _report(error)
            self._is_updating = False
            self._compare()

    def _update(self) -> None:
        version, view, moving = self._version, self.view, self._is_moving()
        clients = list(self.server.get_clients().values())
        self._stood_in = False
        with self.server.atomic():
            self._update_gaussians(view, version, moving, clients)
            self._update_mesh(view)
            self._update_points(view)
        if ("cameras" in view.layers) != ("cameras" in self._nodes):
            self._update_cameras(view)
        for client in clients:
            self._request(client, view, moving)
        self.updates += 1

    def _update_gaussians(self, view: View, version: int, moving: bool, clients: list[Any]) -> None:
        shown = self._browser_gaussians(view, moving)
        name = None if shown is None else "proxy" if self._is_proxy(view) else "avatar"
        for other in ("avatar", "proxy"):
            if other in self._nodes and other != name:
                self._nodes.pop(other).remove()
        self._old_colors = False
        if name is None:
            return
        eye = self.scene.first_camera().center
        for client in clients[:1]:
            with contextlib.suppress(AssertionError):
                eye = torch.tensor(np.asarray(client.camera.position), dtype=torch.float32)
        now, node = time.monotonic(), self._nodes.get(name)
        if node is not None and self._gaussians_sent is not None and self._gaussians_sent[:2] == (name, version):
            _, _, before, when = self._gaussians_sent
            if torch.equal(eye, before):
                return
            if now - when < _COLORS_EVERY:
                self._old_colors = True
                return
        arrays = self.scene.splats(view, eye, moving)
        if arrays is None:
            return
        if not len(arrays.centers):  # the browser takes no node of none
            if node is not None:
                self._nodes.pop(name).remove()
        elif node is None or len(node.buffer) != len(arrays.centers):
            self._nodes[name] = draw_gaussians(self.server.scene, f"/{name}", arrays)
        else:
            node.buffer = packed_gaussians(arrays)
        self._gaussians_sent = (name, version, eye, now)

    def _is_proxy(self, view: View) -> bool:
        return not hasattr(self.scene.avatar, "splats")

    def _update_mesh(self, view: View) -> None:
        unlit = {"cast_shadow": False, "receive_shadow": False}  # shadows of a head on itself hide what one looks at
        styles = {
            "mesh": {"color": CLAY, "side": "double", **unlit},
            "wireframe": {"color": WIRE, "wireframe": True, **unlit},
        }
        for layer, style in styles.items():
            node = self._nodes.get(layer)
            if layer not in view.layers or self.scene.faces is None:
                if node is not None:
                    self._nodes.pop(layer).remove()
                continue
            state = self.scene.state(view)
            if node is not None and self._posed.get(layer) is state:
                continue
            self._posed[layer] = state
            vertices, faces = self.scene.mesh(view)
            if node is None:
                self._nodes[layer] = self.server.scene.add_mesh_simple(f"/{layer}", vertices, faces, **style)
                continue
            node.vertices = vertices
            if len(node.faces) != len(faces):
                node.faces = faces

    def _update_points(self, view: View) -> None:
        node = self._nodes.get("landmarks")
        if "landmarks" not in view.layers:
            if node is not None:
                self._nodes.pop("landmarks").remove()
            return
        points = self.scene.points(view)
        if node is None:
            self._nodes["landmarks"] = self.server.scene.add_point_cloud(
                "/landmarks", points, (220, 40, 40), point_size=0.008 * self.scene.extent, point_shape="circle"
            )
        else:
            node.points = points

    def _update_cameras(self, view: View) -> None:
        if "cameras" not in view.layers:
            self._nodes.pop("cameras").remove()
            return
        scene = self.server.scene
        self._nodes["cameras"] = scene.add_frame("/cameras", show_axes=False)
        try:
            views = self.scene.cameras()
        except CaptureError as error:
            _report(error)
            return
        for each in views:
            pose = torch.linalg.inv(each.camera.world_to_camera.reshape(4, 4).double())
            height, width = each.camera.size
            frustum = scene.add_camera_frustum(
                f"/cameras/{each.frame}", fov=_fov(each.camera), aspect=width / height, scale=0.12 * self.scene.extent,
                image=each.thumbnail, wxyz=_quaternion(pose[:3, :3]), position=pose[:3, 3].numpy(), color=WIRE,
                thickness=2.0, thickness_units="screen",
            )  # fmt: skip
            frustum.on_click(lambda _, frame=each.frame: self._go_to(frame))

    def _go_to(self, frame: int) -> None:
        if self._motion.recorded:
            self._handles["frame"].value = frame
            self.set(frame=frame)

    def _compare(self) -> None:
        """The error against the frame's image, when it is asked for and not too often."""
        box = self._handles.get("compare")
        if box is None:
            return
        view, (done, when) = self.view, self._error_done
        image, figure = self._handles["error image"], self._handles["error figure"]
        if not box.value:
            image.visible = figure.visible = False
            self._error_done = (None, when)
            return
        if view is done or time.monotonic() - when < _ERROR_EVERY:
            return
        try:
            result = self.scene.error(view)
        except Exception as error:
            _report(error)
            result = None
        self._error_done = (view, time.monotonic())
        image.visible, figure.visible = result is not None, True
        if result is None:
            figure.content = "this frame has no image to compare with"
        else:
            image.image, figure.content = result[0], f"{result[1]:.2f} dB, at {result[0].shape[0]} rows"

    def _play_loop(self) -> None:
        shown, behind = 0.0, False
        while not self._closing:
            play, rate = self._handles["play"], self._handles["rate"]
            start = time.monotonic()
            if play.value and self._motion.count > 1:
                frame = (self.view.frame + 1) % self._motion.count
                self.set(frame=frame)
                behind = start - shown < _FRAME_EVERY
                if not behind:  # the panel of every tab is laid out again
                    self._handles["frame"].value, shown = frame, start
            elif behind:
                self._handles["frame"].value, behind = self.view.frame, False
            each = 1 / _within(rate.value, 1, _FASTEST, PLAYED)
            time.sleep(max(each - (time.monotonic() - start), 0.002) if play.value else 0.05)

    # Files

    def screenshot(self, client: Any) -> bytes:
        """A PNG of what a tab shows, drawn at the tab's height up to `resolution`."""
        return encoded_image(self.scene.snapshot(self.view, self.camera_of(client, self.resolution)))

    def video(self, client: Any, path: CameraPath, seconds: float | int, progress: Callable[[float], None]) -> bytes:
        """An mp4 (or GIF without ffmpeg) of what a tab shows, along a path."""
        camera = self.camera_of(client, self.resolution)
        views = video_views(self.scene, self.view, camera, path, seconds, PLAYED)
        return encoded_video((self.scene.snapshot(view, each) for view, each in views), len(views), PLAYED, progress)

    def _save_screenshot(self, client: Any) -> None:
        with _told(client, "screenshot"):
            client.send_file_download(f"{self.scene.name}_{self.view.frame:05d}.png", self.screenshot(client))

    def _save_video(self, client: Any, path: CameraPath, seconds: float | int) -> None:
        with _told(client, "video") as note:

            def progress(share: float | int) -> None:
                note.body = f"{share:.0%}"

            content = self.video(client, path, seconds, progress)
            client.send_file_download(f"{self.scene.name}.{'gif' if content[:3] == b'GIF' else 'mp4'}", content)


@contextlib.contextmanager
def _told(client: Any, what: str) -> Iterator[Any]:
    """A notification in the tab while a file is made, and the error if it cannot be."""
    note = client.add_notification(what, "drawing ...", loading=True, with_close_button=False)
    try:
        yield note
    except Exception as error:
        client.add_notification(f"no {what}", str(error), color="red")
        _report(error)
    finally:
        note.remove()


def _report(error: Exception) -> None:
    """An error of a thread: the viewer goes on, and the terminal has the reason."""
    text = "".join(traceback.format_exception_only(error)).strip()
    if not str(error):  # an assertion of another library says nothing
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        text += "".join(f" in {each.name}, {each.filename}:{each.lineno}" for each in frame)
    if text != _reported.get("last"):  # the same one comes with every change
        _reported["last"] = text
        print("headfields view:", text, file=sys.stderr, flush=True)


_reported: dict[str, str] = {}


def _fov(camera: Camera) -> float:
    """The vertical field of view, radians."""
    return 2 * math.atan(0.5 * camera.size[0] / float(camera.intrinsics[..., 1, 1]))


def _quaternion(rotation: torch.Tensor) -> np.ndarray:
    return quaternion_from_rotation(rotation).numpy()
