"""The viewer's server: its callbacks without a browser; and, slowly, in headless Chromium."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headfields.apps.viewer.browser_gaussians import draw_gaussians, packed_gaussians
from headfields.apps.viewer.looks import LOOKS
from headfields.apps.viewer.scene import SplatArrays
from headfields.apps.viewer.server import Viewer
from headfields.apps.viewer.subjects import head_scene
from headfields.cli import main
from headfields.heads.blendshapes import BlendshapeHead
from tests.apps.viewer.browser import free_port
from tests.tables import table

viser = pytest.importorskip("viser", reason="the viewer needs viser (the extra `viewer`)")
from viser._messages import GuiUpdateMessage  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]


class FakeClient:
    """A browser tab as the viewer sees it, with a camera in front of the head."""

    def __init__(self) -> None:
        self.client_id = 7
        self.background: list[np.ndarray | None] = []
        self.told: list[tuple[str, str]] = []
        self.files: list[tuple[str, bytes]] = []
        self.scene = self.camera = self
        self.wxyz, self.position = np.array([0.0, 1.0, 0, 0]), np.array([0.0, 0, 1.0])  # looks along -z, y up
        self.fov, self.aspect, self.image_height = 0.4, 1.5, 60

    def set_background_image(self, image: np.ndarray | None, **_: Any) -> None:
        self.background.append(image)

    def flush(self) -> None:
        pass

    def add_notification(self, title: str, body: str, **_: Any) -> "FakeClient":
        self.told.append((title, body))
        return self

    def remove(self) -> None:
        pass

    def send_file_download(self, name: str, content: bytes) -> None:
        self.files.append((name, content))


def small_viewer() -> Viewer:
    """A viewer of one triangle with an expression."""
    corners = torch.tensor([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.0, 0.1, 0.0]])
    shift = torch.zeros(1, 3, 3)
    shift[0, 2, 1] = 0.1
    head = BlendshapeHead(corners, torch.tensor([[0, 1, 2]]), shift, expression_names=("taller",))
    return Viewer(head_scene(head, "triangle"), port=free_port(), resolution=64)


@pytest.fixture(scope="module")
def viewer():
    running = small_viewer()
    yield running
    running.close()


def press(viewer: Viewer, name: str, value: Any) -> None:
    """What viser does when somebody moves a handle of the panel."""
    handle = viewer._handles[name]
    handle.value = value
    for _ in range(200):
        if viewer.idle(0.05):
            return


def test_it_listens_on_this_machine_alone(viewer: Viewer) -> None:
    port = int(viewer.url.rsplit(":", 1)[1])
    assert viewer.url == f"http://localhost:{port}"
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    listening = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
    assert f"00000000:{port:04X}" not in listening  # 0.0.0.0


def test_a_slider_changes_the_view_and_the_layers_what_is_drawn(viewer: Viewer) -> None:
    press(viewer, "slider taller", 0.5)
    assert viewer.view.values["taller"] == 0.5
    press(viewer, "layer mesh", True)
    node = viewer._nodes["mesh"]
    assert node.vertices[2, 1] == pytest.approx(0.15)
    press(viewer, "slider taller", 1.0)
    assert viewer._nodes["mesh"] is node and node.vertices[2, 1] == pytest.approx(0.2)  # moved, not made again
    press(viewer, "layer mesh", False)
    assert "mesh" not in viewer._nodes
    viewer._reset()
    assert viewer.idle(5) and not viewer.view.values and viewer._handles["slider taller"].value == 0.0


def test_a_tab_gets_pictures_of_what_it_cannot_draw(viewer: Viewer, monkeypatch) -> None:
    client: Any = FakeClient()
    monkeypatch.setattr(viewer.server, "get_clients", lambda: {7: client})
    viewer.set(look="color")
    assert viewer.idle(60)  # the first picture imports what draws it
    last = client.background[-1]
    assert last.shape == (60, 90, 3)
    rows, columns = (last.min(-1) < 240).nonzero()
    assert abs(columns.mean() - 45) < 2 and abs(rows.mean() - 40) < 6  # the triangle is wider below
    viewer.set(layers=frozenset())
    assert viewer.idle(10) and client.background[-1] is None
    viewer.set(layers=frozenset({"avatar"}))
    assert viewer.idle(10)
    viewer._save_screenshot(client)
    viewer._save_video(client, "the motion", 1)
    (shot, png), (clip, video) = client.files
    assert shot.endswith(".png") and png[:4] == b"\x89PNG"
    assert clip.endswith((".mp4", ".gif")) and len(video) > 500
    assert [title for title, _ in client.told] == ["screenshot", "video"]
    monkeypatch.undo()
    viewer._disconnected(client)


def test_what_the_browser_has_is_not_sent_again(viewer: Viewer, monkeypatch) -> None:
    client: Any = FakeClient()
    eyes: list[torch.Tensor] = []
    arrays = SplatArrays(*(np.full((2, *shape), 1e-3, np.float32) for shape in ((3,), (3, 3), (3,), (1,))))
    monkeypatch.setattr(viewer.server, "get_clients", lambda: {7: client})
    monkeypatch.setattr(viewer.scene, "gaussians", lambda view, moving=False: object())
    monkeypatch.setattr(viewer.scene, "splats", lambda view, eye, moving: eyes.append(eye) or arrays)
    viewer.set(layers=frozenset({"avatar", "mesh"}), values={"taller": 0.2})
    assert viewer.idle(10)
    sent, vertices = len(eyes), viewer._nodes["mesh"].vertices
    viewer._changed.set()  # as a camera that moves
    assert viewer.idle(10) and len(eyes) == sent and viewer._nodes["mesh"].vertices is vertices
    for step in range(20):
        client.position = np.array([0.01 * step, 0, 1.0])
        viewer._changed.set()
        time.sleep(0.005)
    assert viewer.idle(10) and len(eyes) - sent <= 8
    assert eyes[-1][0] == pytest.approx(0.19)  # the last one counts
    sent = len(eyes)
    viewer.set()  # as a training that has changed the avatar
    assert viewer.idle(10) and len(eyes) == sent + 1
    monkeypatch.undo()
    viewer._disconnected(client)
    viewer.set(layers=frozenset({"avatar"}))
    assert viewer.idle(10) and "proxy" not in viewer._nodes


def test_camera_of_a_tab(viewer: Viewer) -> None:
    camera = viewer.camera_of(FakeClient(), 64)
    assert camera.size == (60, 90) and torch.allclose(camera.center, torch.tensor([0.0, 0, 1.0]))
    pixel, depth = camera.project(torch.tensor([[0.1, 0.1, 0.0]]))
    assert float(depth) == pytest.approx(1.0) and float(pixel[0, 0]) > 45 and float(pixel[0, 1]) < 30


@table(
    "message",
    [
        {"aspect": 1e9}, {"aspect": float("nan")}, {"fov": float("nan")}, {"fov": 0.0}, {"image_height": 10**9},
        {"position": np.array([np.nan, 0, 0])}, {"wxyz": np.zeros(4)}, {"position": np.full(3, 1e300)},
    ],
)  # fmt: skip
def test_a_camera_message_is_kept_within_bounds(viewer: Viewer, message) -> None:
    client = FakeClient()
    vars(client).update(message)
    camera = viewer.camera_of(client, 64)
    assert camera.size[0] <= 64 and camera.size[1] <= 8 * 64
    assert camera.world_to_camera.isfinite().all() and camera.intrinsics.isfinite().all()


def say(viewer: Viewer, name: str, value: Any) -> None:
    """A browser's message of a control, as viser takes it, and the wait for what follows."""
    handle = viewer._handles[name]
    message = GuiUpdateMessage(handle._impl.uuid, {"value": value})
    asyncio.run(viewer.server.gui._handle_gui_updates(0, message))
    for changed in handle._impl.update_cb:
        changed(None)


def test_a_message_of_the_panel_is_kept_within_bounds(viewer: Viewer) -> None:
    """Browsers send what their sliders and lists allow; a program that connects may send anything of the same type."""
    nan = float("nan")
    for value, kept in [(0.5, 0.5), (1e30, 1.0), (-1e30, -1.0), (nan, 0.0), (float("inf"), 0.0)]:
        say(viewer, "slider taller", value)
        assert viewer.view.values["taller"] == kept
    for name, field, usual in [("motion", "motion", "rest"), ("look", "look", LOOKS[0])]:
        say(viewer, name, "nothing of the kind")
        assert getattr(viewer.view, field) == usual
    for value in (10**12, -5):
        say(viewer, "frame", value)
        assert viewer.view.frame == 0
    say(viewer, "play", True)
    say(viewer, "rate", 10**12)
    time.sleep(0.1)
    say(viewer, "rate", -3)
    say(viewer, "play", False)
    assert viewer.idle(10) and all(thread.is_alive() for thread in viewer._threads)
    press(viewer, "reset", True)
    assert not viewer.view.values


def test_gaussians_are_packed_as_viser_packs_them(viewer: Viewer) -> None:
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(5, 3, 3)) * 2e-4  # Gaussians of 0.2 mm: square meters would be 0 in half precision
    arrays = SplatArrays(
        rng.normal(size=(5, 3)).astype(np.float32), (axes @ axes.transpose(0, 2, 1)).astype(np.float32),
        rng.integers(0, 256, (5, 3)).astype(np.float32) / 255, rng.integers(0, 256, (5, 1)).astype(np.float32) / 255,
    )  # fmt: skip
    node = draw_gaussians(viewer.server.scene, "/packed", arrays)
    packed = packed_gaussians(arrays)
    assert np.abs(packed[:, :7].view(np.float32)[:, :3] - node.buffer[:, :3].view(np.float32)).max() < 1e-3
    assert (np.abs(packed[:, 7:].view(np.uint8).astype(int) - node.buffer[:, 7:].view(np.uint8)) <= 1).all()
    upper = packed[:, 4:7].copy().view(np.float16).astype(np.float64) * node.scale**2
    expected = arrays.covariances.reshape(5, 9)[:, [0, 1, 2, 4, 5, 8]]
    assert np.abs(upper - expected).max() < 1e-3 * np.abs(expected).max()
    node.remove()


@table(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{here}/notes.txt"], "no head model (.npz), mesh"),
        (["{here}/square.obj", "--motion", "x"], "--motion is for a run or a capture"),
        (["{here}/square.obj", "--background", "2"], "--background is 2.0"),
        (["{here}/square.obj", "--port", "70000"], "--port is 70000"),
        (["{here}/other.npz"], "neither v_template"),
        (["{here}/square.obj", "--host", "300.1.1.1"], "cannot listen on host '300.1.1.1'"),
        (["{here}/square.obj", "--host", "192.0.2.1"], "cannot listen on host '192.0.2.1'"),
        (["{here}/empty"], "The folder is empty"),
        (["{here}/begun"], "neither an avatar nor a checkpoint yet"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "square.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text('{"format": 1}')
    assert main(["view", *(argument.format(here=tmp_path) for argument in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_a_port_in_use(viewer: Viewer) -> None:
    port = int(viewer.url.rsplit(":", 1)[1])
    other = Viewer(viewer.scene, port=port)
    assert int(other.url.rsplit(":", 1)[1]) > port  # the next free one
    other.close()


def test_without_viser_the_error_says_what_to_install(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    assert main(["view", str(tmp_path)]) == 1
    assert "pip install 'headfields[viewer]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_ends_with_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "square.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    command = [sys.executable, "-m", "headfields", "view", str(tmp_path / "square.obj"), "--port", str(free_port())]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert re.match(r"square: http://localhost:\d+ \(Ctrl-C ends it\)", line)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in errors
