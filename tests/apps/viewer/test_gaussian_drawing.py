"""Who draws Gaussians: a page's speed from its cameras, and a viewer that follows it."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch

from headfields.apps.viewer.gaussian_drawing import PageSpeed, WhoDraws
from headfields.apps.viewer.looks import Picture
from headfields.apps.viewer.mesh_painter import MeshPainter
from headfields.apps.viewer.motion import Motion
from headfields.apps.viewer.scene import Scene, View
from headfields.mesh.mesh import Mesh
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.records import Camera
from headfields.synthetic import procedural_head
from tests.tables import table


def speed_of(intervals: list[float]) -> PageSpeed:
    """The speed after cameras with these intervals."""
    speed = PageSpeed()
    for now in itertools.accumulate(intervals, initial=5.0):
        speed.camera_moved(now)
    return speed


def test_a_page_that_draws_three_times_a_second_is_slow() -> None:
    assert speed_of([0.33] * 5).rate is None  # too few to know
    speed = speed_of([0.33] * 6)
    assert speed.rate == pytest.approx(3.03, abs=0.01) and speed.is_slow


@table(
    "intervals",
    [
        [1 / 60] * 30,
        [0.09] * 30,  # eleven a second
        [0.4, 0.02] * 10,  # a wheel turned notch by notch: the camera glides for some frames
        [0.5, 0.3, 0.02, 0.25, 0.02, 0.4, 0.5] * 4,  # moved slowly by hand
        [0.3, 0.3, 4.0] * 10,  # never enough in a row
        [],
    ],
)
def test_a_page_that_is_fast_is_not_slow(intervals: list[float]) -> None:
    assert not speed_of(intervals).is_slow


def test_a_slow_page_stays_slow_when_the_program_draws_for_it() -> None:
    speed = speed_of([0.33] * 6 + [1 / 60] * 50)
    assert speed.rate == pytest.approx(60) and speed.is_slow


def test_the_slowest_tab_decides_until_it_leaves() -> None:
    drawing = WhoDraws()
    rates = [drawing.camera_moved(tab, 0.3 * step if tab else step / 60) for step in range(12) for tab in (0, 1)]
    known = [rate for rate in rates if rate is not None]
    assert len(known) == 1 and known[0] == pytest.approx(1 / 0.3)  # said once
    assert drawing.is_program
    drawing.forget(0)
    assert drawing.is_program
    drawing.forget(1)
    assert not drawing.is_program


def test_a_fixed_setting_does_not_follow_the_page() -> None:
    browser, program = WhoDraws("browser"), WhoDraws("program")
    assert all(each.camera_moved(0, step / 2) is None for each in (browser, program) for step in range(20))
    assert program.is_program and not browser.is_program


def test_a_setting_that_there_is_not(unchecked: None) -> None:
    with pytest.raises(ValueError, match="gaussians is 'client'; expected one of automatic, browser, program"):
        WhoDraws("client")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scene() -> Scene:
    head = procedural_head()
    avatar = gaussian_avatars(head.template(), count=200, degree=0).eval()
    with torch.no_grad():
        avatar.gaussians.opacity_logit.fill_(3.0)
    return Scene("gaussians", avatar, [Motion.still("rest", head())], faces=head.faces)


def test_a_slow_tab_gets_pictures_instead_of_gaussians(scene, monkeypatch) -> None:
    pytest.importorskip("viser", reason="the viewer needs viser (the extra `viewer`)")
    from headfields.apps.viewer.server import Viewer
    from tests.apps.viewer.browser import free_port
    from tests.apps.viewer.test_server import FakeClient

    client: Any = FakeClient()
    messages: list[str] = []
    client.add_notification = lambda title, body, **_: messages.append(body)
    client.position, client.aspect = np.array([0.0, 0, 1.2]), 1.0
    viewer = Viewer(scene, port=free_port(), resolution=48)
    try:
        monkeypatch.setattr(viewer.server, "get_clients", lambda: {7: client})
        viewer.set()
        assert viewer.idle(10) and "avatar" in viewer._nodes and not client.background
        clock = itertools.count(10.0, 0.4)
        monkeypatch.setattr(WhoDraws, "camera_moved", _at(clock, WhoDraws.camera_moved))
        for _ in range(7):
            viewer._camera_moved(client)
        assert viewer.idle(10) and "avatar" not in viewer._nodes
        assert len(messages) == 1 and "2.5 times a second" in messages[0]
        picture = client.background[-1]
        assert picture.shape == (48, 48, 3) and (picture.min(-1) < 200).sum() > 20
        count = viewer._pictures.shown
        viewer._camera_moved(client)
        assert viewer.idle(10) and viewer._pictures.shown == count + 1  # one picture for a camera, not two
        viewer._handles["gaussians"].value = "browser"
        assert _until(viewer, lambda: "avatar" in viewer._nodes and client.background[-1] is None)
        viewer._handles["gaussians"].value = "program"
        assert _until(viewer, lambda: "avatar" not in viewer._nodes and client.background[-1] is not None)
    finally:
        monkeypatch.undo()
        viewer.close()


def test_the_program_draws_the_proxy_while_something_moves(scene, monkeypatch) -> None:
    pytest.importorskip("viser", reason="the viewer needs viser (the extra `viewer`)")
    from headfields.apps.viewer.server import Viewer
    from tests.apps.viewer.browser import free_port
    from tests.apps.viewer.test_server import FakeClient

    motion = next(iter(scene.motions.values()))
    slow = MeshPainter(Mesh(motion.state_of(0).vertices[0], scene.faces))
    both = Scene("slow", slow, [motion], faces=scene.faces, proxy=scene.avatar)
    drawn: list[bool] = []
    own = both.picture

    def picture(view: View, camera: Camera, stand_in: bool) -> Picture:
        drawn.append(stand_in)
        return own(view, camera, stand_in)

    monkeypatch.setattr(both, "picture", picture)
    client: Any = FakeClient()
    viewer = Viewer(both, port=free_port(), resolution=24, gaussians="program")
    try:
        monkeypatch.setattr(viewer.server, "get_clients", lambda: {7: client})
        viewer.set()
        assert _until(viewer, lambda: len(drawn) >= 2 and not drawn[-1])  # sharp at rest
        assert drawn[0] and "proxy" not in viewer._nodes
    finally:
        monkeypatch.undo()
        viewer.close()


def _at(clock: Any, method: Any) -> Any:
    return lambda self, tab, now: method(self, tab, next(clock))


def _until(viewer: Any, condition: Any) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if viewer.idle(1) and condition():
            return True
        time.sleep(0.02)
    return False
