"""The viewer in headless Chromium: what the page shows is what the library draws, and moves as it should."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from headfields.apps.viewer.articulation import HeadArticulation
from headfields.apps.viewer.gaussian_drawing import GaussianDrawing
from headfields.apps.viewer.looks import LOOKS
from headfields.apps.viewer.motion import Motion
from headfields.apps.viewer.scene import Scene
from headfields.apps.viewer.server import Viewer
from headfields.apps.viewer.subjects import capture_scene, head_scene
from headfields.avatar.splat_avatar import SplatAvatar
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.models.insta import insta
from headfields.synthetic import procedural_head
from tests.apps.viewer.browser import chromium, frames_per_second, free_port, own_picture, settled

pytest.importorskip("viser", reason="the viewer needs viser (the extra `viewer`)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def show(browser) -> Iterator[Any]:
    """Opens a scene in the one tab; its viewer. The page's console may have no sphere of NaN around what was shown."""
    opened: list[Viewer] = []
    browser.get_log("browser")

    def shown(scene: Scene, resolution: int = 600, gaussians: GaussianDrawing = "browser") -> Viewer:
        viewer = Viewer(scene, port=free_port(), resolution=resolution, gaussians=gaussians)
        opened.append(viewer)
        browser.get(viewer.url)
        return viewer

    yield shown
    for viewer in opened:
        viewer.close()
    if not any(hasattr(viewer.scene.avatar, "splats") for viewer in opened):  # viser's own square has one
        messages = [entry["message"] for entry in browser.get_log("browser")]
        assert not [message for message in messages if "NaN" in message]
        assert any("Connected" in message for message in messages)  # it is a log


def changed(before: np.ndarray, after: np.ndarray, threshold: int = 24) -> np.ndarray:
    return np.abs(before - after).max(-1) > threshold


def apart(page: np.ndarray, own: np.ndarray) -> float:
    """Mean difference of blocks of 8 x 8 pixels of the head: a page that is slow is drawn at a lower resolution."""
    height, width = page.shape[0] // 8, page.shape[1] // 8
    first, second = (
        image[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 3).mean((1, 3)) for image in (page, own)
    )
    return float(np.abs(first - second)[second.min(-1) < 245].mean())


def rows_of(image: np.ndarray) -> tuple[int, int]:
    """First and last row of what is not white."""
    rows = (image.min(-1) < 245).any(1).nonzero()[0]
    return int(rows.min()), int(rows.max())


@pytest.mark.slow
def test_a_head_a_second_tab_and_a_reload(browser, show) -> None:
    viewer = show(head_scene(procedural_head(), "head"), 400)
    first = settled(viewer, browser)
    viewer._handles["slider jaw pitch"].value = 15.0
    after = settled(viewer, browser)
    moved = changed(first, after)
    rows, columns = moved.nonzero()
    top, bottom = rows_of(first)
    assert moved.sum() > 200
    # The lower half of the face: its mouth and chin.
    assert rows.mean() > top + 0.2 * (bottom - top)
    assert abs(columns.mean() - (first.min(-1) < 250).nonzero()[1].mean()) < 30
    assert moved[: int(top + 0.1 * (bottom - top))].sum() < 0.02 * moved.sum()

    original = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        browser.get(viewer.url)
        assert np.abs(settled(viewer, browser, 2) - after).mean() < 3
        browser.refresh()
        assert np.abs(settled(viewer, browser, 2) - after).mean() < 3
        viewer.set(layers=frozenset({"mesh"}))
        assert (settled(viewer, browser, 2).min(-1) < 250).sum() > 5000
        assert frames_per_second(browser) > 0
    finally:
        browser.close()
        browser.switch_to.window(original)


@pytest.fixture(scope="module")
def gaussian_head() -> tuple[Any, SplatAvatar]:
    """The procedural head, and Gaussians on it whose colors differ from place to place and from side to side."""
    torch.manual_seed(0)
    head = procedural_head()
    avatar = gaussian_avatars(head.template(), count=6000, degree=1)
    with torch.no_grad():
        centers = avatar.splats(head()).means[0]
        avatar.gaussians.opacity_logit.fill_(2.0)
        avatar.gaussians.color.copy_(1.2 * torch.sin(90 * centers))
        avatar.gaussians.harmonics.normal_(std=0.15)
        avatar.gaussians.quaternion.normal_()
        avatar.gaussians.log_scale[:, 0] -= 1.0  # flat ones, so that their rotation matters
    return head, avatar.eval()


@pytest.mark.slow
def test_gaussians_are_drawn_as_the_library_draws_them_and_move(browser, show, gaussian_head) -> None:
    head, avatar = gaussian_head
    states = [head(), head(pose=torch.tensor([[[0.0, 0.4, 0.0], *[[0.0] * 3] * 4]]))]
    scene = Scene(
        "gaussians", avatar, [Motion("turns", 2, lambda frame: states[frame])], HeadArticulation(head), head.faces
    )
    viewer = show(scene)
    first = settled(viewer, browser)
    own = own_picture(viewer, browser)
    shown, expected = first.min(-1) < 210, own.min(-1) < 210  # without the tails
    assert expected.sum() > 20_000
    assert (shown & expected).sum() / (shown | expected).sum() > 0.97
    inside = shown & expected
    # Eight bits a Gaussian, and tails of less than a fiftieth cut off.
    assert apart(first, own) < 3
    assert np.abs((first - own)[inside].mean(0)).max() < 2
    assert own[inside].std(0).min() > 15  # a picture that has something to compare

    viewer._handles["slider jaw pitch"].value = 20.0
    opened = settled(viewer, browser)
    moved = changed(first, opened)
    top, bottom = rows_of(own)
    assert moved[: int(top + 0.1 * (bottom - top))].sum() < 0.02 * moved.sum()  # the eyes and above
    assert moved[int(top + 0.25 * (bottom - top)) :].sum() > 1000
    own = own_picture(viewer, browser)
    assert apart(opened, own) < 3 and apart(first, own) > 5

    viewer._handles["slider jaw pitch"].value = 0.0
    viewer._handles["frame"].value = 1
    turned = settled(viewer, browser)
    own = own_picture(viewer, browser)
    assert changed(first, turned).sum() > 10_000
    assert apart(turned, own) < 3 and apart(first, own) > 5


@pytest.mark.slow
def test_gaussians_that_the_program_draws(browser, show, gaussian_head) -> None:
    head, avatar = gaussian_head
    scene = Scene("gaussians", avatar, [Motion.still("rest", head())], HeadArticulation(head), head.faces)
    viewer = show(scene, 200, "program")
    first = settled(viewer, browser)
    assert "avatar" not in viewer._nodes
    assert apart(first, own_picture(viewer, browser)) < 3  # a JPEG, enlarged by the browser
    viewer._handles["slider jaw pitch"].value = 20.0
    opened = settled(viewer, browser)
    own = own_picture(viewer, browser)
    assert apart(opened, own) < 3 and apart(first, own) > 5
    viewer._handles["gaussians"].value = "browser"
    assert apart(settled(viewer, browser), own) < 5 and "avatar" in viewer._nodes


@pytest.mark.slow
def test_a_field_is_the_picture_that_the_library_draws(browser, show, capture) -> None:
    torch.manual_seed(0)
    avatar = insta(capture.template, expression_width=capture.state([0]).expression.shape[1], log2_table_size=10)
    viewer = show(capture_scene(capture, avatar.eval()), 48)
    for changes in ({}, {"frame": 2}, {"look": "depth"}, {"look": "normals"}, {"look": "nearest triangle"}):
        viewer.set(**changes)
        assert viewer.idle(300)
        page = settled(viewer, browser)
        assert np.abs(page - own_picture(viewer, browser)).mean() < 6, changes  # a JPEG, enlarged by the browser


@pytest.mark.slow
def test_every_layer_of_a_capture_shows(browser, show, capture) -> None:
    viewer = show(capture_scene(capture))
    plain = settled(viewer, browser)
    assert np.abs(plain - own_picture(viewer, browser)).mean() < 4
    for look in LOOKS[1:]:
        viewer.set(look=look)
        assert changed(plain, settled(viewer, browser)).sum() > 3000, look
    viewer.set(look="color")
    for layer in ("mesh", "wireframe"):
        viewer.set(layers=frozenset({"avatar", layer}))
        assert changed(plain, settled(viewer, browser), 8).sum() > 1000, layer
    viewer.set(layers=frozenset({"mesh", "cameras"}))
    with_cameras = settled(viewer, browser)
    viewer.set(layers=frozenset({"mesh"}))
    mesh = settled(viewer, browser)
    assert len(viewer.scene.cameras()) == len(capture)
    assert with_cameras.shape == mesh.shape
    silhouette = mesh.min(-1) < 245
    clay = plain.min(-1) < 245
    assert (silhouette & clay).sum() / (silhouette | clay).sum() > 0.97  # the browser's mesh lies where ours is drawn
    viewer.set(canonical=True)
    assert viewer.idle(30)
    assert np.array_equal(viewer._nodes["mesh"].vertices, capture.template.canonical_vertices.numpy())


@pytest.mark.slow  # 16 s; test_files_of_the_panel shows in the default run that the page works
def test_a_tab_that_closes_while_it_is_drawn_for(browser, show, capture, capsys) -> None:
    torch.manual_seed(0)
    avatar = insta(capture.template, expression_width=capture.state([0]).expression.shape[1], log2_table_size=10)
    viewer = show(capture_scene(capture, avatar.eval()), 48)
    settled(viewer, browser)
    original = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(viewer.url)
    while len(viewer.server.get_clients()) < 2:
        pass
    for frame in (1, 2, 3):
        viewer.set(frame=frame)
    browser.close()
    browser.switch_to.window(original)
    viewer.set(values={"neck yaw": 30.0})
    assert viewer.idle(300)
    page = settled(viewer, browser)
    assert np.abs(page - own_picture(viewer, browser)).mean() < 6
    assert len(viewer.server.get_clients()) == 1 and "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_files_of_the_panel(browser, show, capture) -> None:
    viewer = show(capture_scene(capture), 64)
    viewer.set(layers=frozenset(viewer.scene.layers))
    settled(viewer, browser)
    (client,) = viewer.server.get_clients().values()
    sent: list[tuple[str, bytes]] = []
    client.send_file_download = lambda name, content: sent.append((name, content))
    viewer._save_screenshot(client)
    viewer._save_video(client, "the motion", 1)
    (shot, png), (clip, video) = sent
    assert shot.endswith(".png") and png[:4] == b"\x89PNG"
    assert clip.endswith((".mp4", ".gif")) and len(video) > 500
