"""The page in headless Chromium: what it poses and draws is what `SplatRenderer` draws of the same Gaussians."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.browser import chromium
from headfields.records import Camera, HeadState
from headfields.viz.page.rigs import fitted_rig, rig_vertices
from tests.viz.page.avatars import PRESETS, moving_states, varied_avatar

ENOUGH = 40.0
"""dB between the page's picture and the library's."""
READ = """
const [state, camera, done] = arguments, page = window.headfields;
(async () => {
  await page.ready;
  if (state) page.setState(state);
  page.setCamera(camera);
  page.setBackground([0.3, 0.6, 0.9]);
  const { width, height, pixels } = await page.read();
  let text = "";
  for (let i = 0; i < pixels.length; i += 32768) text += String.fromCharCode(...pixels.subarray(i, i + 32768));
  return { width, height, pixels: btoa(text) };
})().then(done, (error) => done({ error: `${error} ${error.stack}` }));
"""
BACKGROUND = torch.tensor([0.3, 0.6, 0.9])


@pytest.fixture(autouse=True)
def the_same_draws() -> None:
    """Of random avatars: one picture in some fifty has Gaussians of nearly the same depth in another order."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        running = chromium(tmp_path_factory.mktemp("profile"), (480, 400))
        with running as opened:
            opened.execute_cdp_cmd("Network.enable", {})
            opened.execute_cdp_cmd("Network.emulateNetworkConditions", {
                "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0,
            })  # fmt: skip
            yield opened
    except (ModuleNotFoundError, FileNotFoundError) as error:
        pytest.skip(f"the page's tests in a browser need selenium and Chromium: {error}")


def shown(browser: Any, state: HeadState | None, camera: Camera) -> np.ndarray:
    """The page's picture (H, W, 3) of a frame, by a camera."""
    values = None
    if state is not None:
        values = {"codes": {name: code[0].tolist() for name, code in state.codes.items()}}
        values |= {} if state.expression is None else {"expression": state.expression[0].tolist()}
        values |= {} if state.pose is None else {"pose": state.pose[0].tolist()}
    view = {
        "world_to_camera": camera.world_to_camera.tolist(), "intrinsics": camera.intrinsics.tolist(),
        "size": list(camera.size),
    }  # fmt: skip
    picture = browser.execute_async_script(READ, values, view)
    assert "error" not in picture, picture["error"]
    pixels = np.frombuffer(base64.b64decode(picture["pixels"]), np.uint8)
    return pixels.reshape(picture["height"], picture["width"], 4)[..., :3] / 255.0


def nearness(browser: Any, avatar: Any, state: HeadState, camera: Camera, own: HeadState | None = None) -> float:
    """dB between the page and the library; `own`: what the library poses in place of the page's state."""
    library = avatar.render(camera, state if own is None else own, BACKGROUND).rgb.clamp(0, 1).numpy()
    assert np.abs(library - BACKGROUND.numpy()).max(-1).mean() > 0.05  # there is a head
    return float(-10 * np.log10(((shown(browser, state, camera) - library) ** 2).mean()))


def complaints(browser: Any) -> list[str]:
    """What the console has, but for the driver's note that a test reads pixels back."""
    return [
        line["message"] for line in browser.get_log("browser") if "GPU stall due to ReadPixels" not in line["message"]
    ]


def cameras(size: int) -> list[Camera]:
    skewed = Camera.orbit((0.0, 0.0, 0.02), 0.35, -70, -15, size=(size, size + 10), fov=40)  # near: some are cut off
    lens = skewed.intrinsics.clone()
    lens[0, 1], lens[0, 2] = 3.0, lens[0, 2] + 7
    return [
        Camera.orbit((0.0, 0.0, 0.02), 0.9, 0, 0, size=(size, size), fov=24),
        Camera.orbit((0.0, 0.05, 0.02), 0.8, 140, 20, size=(size, size), fov=22),
        skewed.replace(intrinsics=lens),
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_twenty_states_by_three_cameras(browser, tiny_head, tmp_path: Path, preset: str) -> None:
    head = tiny_head
    avatar = varied_avatar(preset, head, 700, **({"degree": 3} if preset == "gaussian_avatars" else {}))
    states = moving_states(head, 20)
    browser.get(avatar.to_html(tmp_path / "head.html", states, head).as_uri())
    assert min(nearness(browser, avatar, states[i], camera) for i in range(20) for camera in cameras(96)) > ENOUGH
    assert not complaints(browser)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_as_many_gaussians_as_avatars_have(browser, head, tmp_path: Path, preset: str) -> None:
    avatar = varied_avatar(preset, head, 24000 if preset == "gaussian_avatars" else 14000)
    states = moving_states(head, 20)
    path = avatar.to_html(tmp_path / "head.html", states, head)
    assert path.stat().st_size < 5_000_000
    browser.get(path.as_uri())
    worst = min(nearness(browser, avatar, states[i], camera) for i in range(20) for camera in cameras(256))
    print(f"{preset}: at least {worst:.1f} dB, {path.stat().st_size / 1e6:.2f} MB")
    assert worst > ENOUGH
    assert not complaints(browser)


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"preset": "gaussian_avatars", "antialiased": True}, {"preset": "rgb_avatar", "centered": False},
    {"preset": "rgb_avatar", "degree": 1}, {"preset": "flash_avatar", "bounded": True, "round_start": True},
    {"preset": "flash_avatar", "follows": "translation"},
])  # fmt: skip
def test_variants_of_the_presets(browser, tiny_head, tmp_path: Path, options: dict[str, Any]) -> None:
    avatar = varied_avatar(head=tiny_head, count=1500, **options)
    states = moving_states(tiny_head, 2)
    browser.get(avatar.to_html(tmp_path / "head.html", states, tiny_head).as_uri())
    assert nearness(browser, avatar, states[1], cameras(128)[1]) > ENOUGH
    assert not complaints(browser)


@pytest.mark.slow
def test_a_fitted_rig_moves_as_it_says(browser, head, tmp_path: Path) -> None:
    """Without the head model the page has the linear rig: it draws what the library draws of the rig's vertices."""
    avatar, states = varied_avatar("rgb_avatar", head, 3000), moving_states(head, 40)
    rig, known = fitted_rig(states)
    assert 0 < rig.error < 1.5e-3
    browser.get(avatar.to_html(tmp_path / "head.html", states).as_uri())
    own = known[7].replace(vertices=rig_vertices(rig, known[7]))
    assert nearness(browser, avatar, known[7], cameras(128)[0], own) > ENOUGH
    assert not complaints(browser)


@pytest.mark.slow
def test_the_controls(browser, tiny_head, tmp_path: Path) -> None:
    """Keys, mouse, sliders and the clip do what they say; the page says nothing on the console."""
    from selenium.webdriver import ActionChains, Keys

    avatar, states = varied_avatar("gaussian_avatars", tiny_head, 300), moving_states(tiny_head, 200)
    browser.set_window_size(1000, 850)  # so that no control is covered
    browser.get(avatar.to_html(tmp_path / "head.html", states, tiny_head, fps=50).as_uri())
    browser.execute_async_script("window.headfields.ready.then(arguments[0]);")

    def look(of: str) -> Any:
        return browser.execute_script(f"return {of};")

    def press(element: Any, *keys: str) -> None:
        browser.execute_script("arguments[0].focus();", element)
        ActionChains(browser).send_keys(*keys).perform()

    canvas = browser.find_element("id", "view")
    before = look("[view.yaw, view.pitch, view.distance, view.target[0]]")
    press(canvas, Keys.ARROW_RIGHT, Keys.ARROW_UP, "+")
    turned = look("[view.yaw, view.pitch, view.distance, view.target[0]]")
    assert turned[0] > before[0] and turned[1] > before[1] and turned[2] < before[2] and turned[3] == before[3]
    ActionChains(browser).drag_and_drop_by_offset(canvas, 60, 0).perform()
    assert look("view.yaw") < turned[0]
    browser.find_element("id", "reset-view").click()
    assert look("[view.yaw, view.pitch, view.distance, view.target[0]]") == pytest.approx(before)

    press(canvas, " ")
    assert look("player.playing")
    browser.execute_async_script("setTimeout(arguments[0], 4500);")  # 200 frames at 50 a second, and on from the start
    passed = look("player.time")
    assert look("player.playing") and passed < 199
    press(canvas, " ")
    assert not look("player.playing")

    slider = browser.find_element("css selector", "input[aria-label='expression 1']")
    value = float(slider.get_property("value"))
    press(slider, Keys.ARROW_RIGHT)
    assert look("show.values[0]") == pytest.approx(float(slider.get_property("value")), abs=1e-4)
    assert float(slider.get_property("value")) > value
    browser.find_element("id", "reset-face").click()
    assert look("show.values.every((x) => x === 0)")
    browser.find_element("css selector", "[aria-label='Black']").click()
    assert look("show.background") == [0, 0, 0, 1]
    assert not complaints(browser)


@pytest.mark.slow
def test_without_webgl_there_is_the_picture_and_a_sentence(browser, tiny_head, tmp_path: Path) -> None:
    avatar = varied_avatar("gaussian_avatars", tiny_head, 50)
    path = avatar.to_html(tmp_path / "head.html", moving_states(tiny_head, 1), tiny_head)
    script = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "HTMLCanvasElement.prototype.getContext = () => null;"}
    )
    try:
        browser.get(path.as_uri())
        assert browser.execute_async_script("window.headfields.ready.then(arguments[0]);") is False
        assert "needs a browser with WebGL2" in browser.find_element("id", "notice").text
        poster = browser.find_element("id", "poster")
        assert poster.is_displayed() and int(poster.get_property("naturalWidth")) > 100
        assert not browser.find_element("id", "view").is_displayed()
        assert all("this one has none" in line for line in complaints(browser))
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.slow
def test_a_stream_moves_the_head_when_the_user_asks(browser, tiny_head, tmp_path: Path) -> None:
    """The page connects to this machine alone, to the address that was pasted, and to nothing before."""
    from headfields.apps.driving.page_server import PageServer
    from headfields.apps.faces.lines import motion_of_message

    def online(is_online: bool) -> None:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {
            "offline": not is_online, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        })  # fmt: skip

    def until(script: str) -> Any:
        wait = "const go = () => (" + script + ") ? done(true) : setTimeout(go, 20); go();"
        return browser.execute_async_script("const done = arguments[0];" + wait)

    avatar = varied_avatar("gaussian_avatars", tiny_head, 200)
    arkit = {
        "mouthPucker": {"expression_003": 0.5, "pose:jaw": [0.2, 0, 0]},
        "eyeLookUpLeft": {"pose:left_eye": [-0.5, 0, 0]},
    }
    path = avatar.to_html(tmp_path / "head.html", moving_states(tiny_head, 2), tiny_head, arkit=arkit)
    browser.set_window_size(1000, 850)
    online(True)
    try:
        with PageServer("ws://127.0.0.1:0") as server:
            browser.get(path.as_uri())
            browser.execute_async_script("window.headfields.ready.then(arguments[0]);")
            assert browser.execute_script("return live.socket") is None
            browser.execute_script("live.connect('ws://example.com:80/');")
            assert browser.execute_script("return live.socket") is None
            browser.execute_script("document.querySelector('#live details').open = true;")
            browser.find_element("id", "live-address").send_keys(server.address)
            button = browser.find_element("id", "live-connect")
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'});", button)
            button.click()
            until("live.socket && live.socket.readyState === 1")
            server.send_frame(motion_of_message('{"time": 0, "shapes": {"jawOpen": 1}, "jaw": [0.3, 0, 0]}'))
            until("live.taken === 1")
            jaw = browser.execute_script("return show.values[layout.starts.pose + 3 * info.joints.jaw]")
            assert jaw == pytest.approx(0.3, abs=1e-6) and server.refused == 0
            server.send_frame(motion_of_message(
                '{"time": 1, "shapes": {"mouthPucker": 0.5, "eyeLookUpLeft": 1}, "jaw": [0.3, 0, 0],'
                ' "left_eye": [0.2, 0.1, 0], "right_eye": [0.2, 0.1, 0]}'
            ))  # fmt: skip
            until("live.taken === 2")
            values = browser.execute_script("return Array.from(show.values)")
            joint = browser.execute_script("return layout.starts.pose"), tiny_head.joints
            assert values[3] == pytest.approx(0.25, abs=1e-6)
            places = {part: joint[0] + 3 * joint[1][part] for part in ("jaw", "left_eye", "right_eye")}
            assert values[places["jaw"]] == pytest.approx(0.4, abs=1e-6)  # 0.5 of the mapping's, and the frame's own
            assert values[places["left_eye"]] == pytest.approx(-0.5, abs=1e-6)  # once: the look says what the turn says
            assert values[places["right_eye"]] == pytest.approx(0, abs=1e-6)
    finally:
        online(False)
    until("live.socket === null")
    assert browser.execute_script("return live.dropped") == 0
    assert not complaints(browser)
