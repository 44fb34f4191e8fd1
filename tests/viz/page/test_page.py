"""The page as a file: its size, what it loads, what it refuses, and the rigs that move its mesh."""

import base64
import json
import re
import zlib
from pathlib import Path

import pytest
import torch

from headfields.avatar.splat_avatar import load_avatar
from headfields.heads.blendshapes import BlendshapeHead
from headfields.models.insta import insta
from headfields.records import Camera, HeadState
from headfields.viz.clips import show
from headfields.viz.page.face_mapping import face_mapping
from headfields.viz.page.packing import Packer
from headfields.viz.page.page import page_html
from headfields.viz.page.rigs import MOTION, exact_rig, fitted_rig, rig_vertices
from tests.viz.page.avatars import moving_states, varied_avatar

LOADS = re.compile(
    r"https?:|//[a-z]|@import|url\(|\bimport\b|<link|\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|"
    r"<iframe|<object|<embed"
)
"""What makes a browser ask someone else."""


def own_words(page: str) -> str:
    """The page without data within it, and without comments of its scripts."""
    page = re.sub(r'(<script id="data"[^>]*>)[^<]*', r"\1", page)
    page = re.sub(r"data:image/(?:webp|png);base64,[A-Za-z0-9+/=]*", "", page)
    return re.sub(r"(^|\s)// .*", "", page)


def test_nothing_is_loaded(tiny_head) -> None:
    avatar = varied_avatar("rgb_avatar", tiny_head, 50)
    words = own_words(page_html(avatar, moving_states(tiny_head, 2), tiny_head, title="<b>A & B</b>"))
    assert LOADS.findall(words) == ["WebSocket"]  # of live.js, to this machine, when the user presses Connect
    assert words.count("live.connect(") + words.count("this.connect(") == 1
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", words)
    assert not [source for source in sources if source]
    assert "<b>A" not in words and "&lt;b&gt;A &amp; B&lt;/b&gt;" in words


def test_what_made_it_is_a_link_that_nothing_loads(tiny_head) -> None:
    avatar, states = varied_avatar("rgb_avatar", tiny_head, 50), moving_states(tiny_head, 2)
    words = own_words(page_html(avatar, states, tiny_head, link="https://lab.org/people/?a=1&b='2'"))
    (anchor,) = re.findall(r"<a [^>]*>[^<]*</a>", words)
    assert 'href="https://lab.org/people/?a=1&amp;b=&#x27;2&#x27;"' in anchor and ">lab.org/people</a>" in anchor
    assert LOADS.findall(words.replace(anchor, "")) == ["WebSocket"]
    for link in ("javascript:alert(1)", "lab.org", "https://", "file:///etc/passwd", 'https://a.b/"\n><script>'):
        with pytest.raises(ValueError, match=r"to_html: link is .*expected an address"):
            page_html(avatar, states, tiny_head, link=link)


def test_the_promised_size() -> None:
    """24,000 Gaussians, 57 shapes of 3,000 vertices, all of them random: nothing repeats that deflate could use."""
    torch.manual_seed(0)
    rows, columns = 60, 50
    y, x = torch.meshgrid(torch.linspace(-0.1, 0.1, rows), torch.linspace(-0.1, 0.1, columns), indexing="ij")
    vertices = torch.stack([x, y, 0.01 * torch.cos(20 * x)], -1).reshape(-1, 3)
    corner = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).flatten()
    faces = torch.cat([
        torch.stack([corner, corner + 1, corner + columns], 1),
        torch.stack([corner + 1, corner + columns + 1, corner + columns], 1),
    ])  # fmt: skip
    head = BlendshapeHead(vertices, faces, 0.004 * torch.randn(57, len(vertices), 3))

    class Plain:
        """The sheet as a template, without a mouth to close."""

        expression_names, parents, expression_count = (), (), 57

        @staticmethod
        def template():
            from headfields.records import Template

            return Template(vertices, faces)

    avatar = varied_avatar("gaussian_avatars", Plain, 24000)
    state = head(expression=torch.rand(200, 57))
    assert len(page_html(avatar, state, head).encode()) < 5_000_000


def test_packed_numbers_come_back() -> None:
    values = {"ranged": torch.randn(40, 3), "around_zero": 0.01 * torch.randn(2, 5, 3), "exact": torch.randn(4, 2)}
    packer = Packer()
    packer.ranged("ranged", values["ranged"])
    packer.around_zero("around_zero", values["around_zero"], 1e-6)
    packer.exact("exact", values["exact"])
    packer.integers("integers", torch.tensor([0, 65535, 7]))
    packer.ranged("none", torch.zeros(0, 0))
    data = zlib.decompress(base64.b64decode(packer.stream()), -15)
    assert len(data) == 2 * 120 + 2 * 30 + 4 * 8 + 2 * 3
    low, step = packer.table[0]["low"], packer.table[0]["step"]
    first = [data[i] + 256 * data[120 + i] for i in range(120)]  # planes of bytes, column by column
    found = torch.tensor(first, dtype=torch.float64).reshape(3, 40).T * torch.tensor(step) + torch.tensor(low)
    assert torch.allclose(found.float(), values["ranged"], atol=1e-4)
    with pytest.raises(ValueError, match="65536"):
        packer.integers("integers", torch.tensor([65536]))


def test_rigs_of_models_pose_as_the_models(tiny_head) -> None:
    states = moving_states(tiny_head, 3)
    assert torch.allclose(rig_vertices(exact_rig(tiny_head), states), states.vertices, atol=1e-6)
    shape = torch.randn(1, 3)
    shaped = tiny_head(shape=shape, expression=states.expression, pose=states.pose)
    assert torch.allclose(rig_vertices(exact_rig(tiny_head, shape), shaped), shaped.vertices, atol=1e-6)
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    head = BlendshapeHead(corners, torch.tensor([[0, 1, 2]]), torch.randn(4, 3, 3))
    state = head(expression=torch.rand(5, 4))
    assert torch.allclose(rig_vertices(exact_rig(head), state), state.vertices, atol=1e-6)


def test_fitted_rigs_find_a_linear_head_and_say_how_far_they_are() -> None:
    corners, basis = torch.rand(20, 3), 0.01 * torch.randn(4, 20, 3)
    head = BlendshapeHead(corners, torch.tensor([[0, 1, 2]]), basis)
    state = head(expression=torch.rand(30, 4))
    for known in (None, basis):
        rig, posed = fitted_rig(state, known)
        assert rig.error < 1e-5 and MOTION not in posed.codes
        assert torch.allclose(rig.expression, basis, atol=1e-4)
        assert torch.allclose(rig_vertices(rig, posed), state.vertices, atol=1e-5)
    rig, posed = fitted_rig(state.replace(expression=None))  # meshes alone
    assert rig.code_names[MOTION] == tuple(f"motion_{i:02d}" for i in range(len(rig.codes[MOTION])))
    assert float((rig_vertices(rig, posed) - state.vertices).norm(dim=-1).mean()) < 2.5e-4
    lone, _ = fitted_rig(state[0])
    assert torch.equal(lone.neutral, state.vertices[0]) and lone.error == 0
    with pytest.raises(ValueError, match="no frame"):
        fitted_rig(state[:0])


def test_what_a_page_cannot_show_is_refused(tiny_head, tmp_path: Path) -> None:
    template = tiny_head.template()
    with pytest.raises(TypeError, match="headfields distill"):
        insta(template).to_html(tmp_path / "head.html")
    avatar = varied_avatar("gaussian_avatars", tiny_head, 20)
    with pytest.raises(ValueError, match="fps is 0"):
        page_html(avatar, fps=0)
    with pytest.raises(ValueError, match="head has 3 vertices"):
        page_html(avatar, head=BlendshapeHead(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.zeros(0, 3, 3)))
    with pytest.raises(ValueError, match="2 cameras, and there are 3 frames"):
        camera = Camera.orbit((0, 0, 0), 1.0, torch.tensor([0.0, 10.0]), size=(8, 8), fov=20)
        page_html(avatar, moving_states(tiny_head, 3), tiny_head, camera)
    assert not (tmp_path / "head.html").exists()


def test_an_avatar_alone_has_a_page(tiny_head) -> None:
    """Without motion: the template at rest, or the preview's frame and camera."""
    avatar = varied_avatar("gaussian_avatars", tiny_head, 20)
    info = json.loads(re.search(r'id="info"[^>]*>([^<]*)', page_html(avatar))[1])
    assert info["clip"]["frames"] == 0 and info["sliders"] == []
    avatar.preview = Camera.orbit((0, 0, 0), 1.0, size=(30, 20), fov=20), HeadState(tiny_head.template_vertices[None])
    info = json.loads(re.search(r'id="info"[^>]*>([^<]*)', page_html(avatar))[1])
    assert (info["camera"]["height"], info["camera"]["width"]) == (30, 20)


def test_an_avatar_file_knows_what_moves_it(tiny_head, tmp_path: Path) -> None:
    """A loaded avatar has the sliders of its rig, without head and capture."""
    avatar = varied_avatar("gaussian_avatars", tiny_head, 20)
    avatar.preview = Camera.orbit((0, 0, 0), 1.0, size=(20, 20), fov=20), moving_states(tiny_head, 1)
    avatar.rig = exact_rig(tiny_head)
    avatar.save(tmp_path / "avatar.safetensors")
    loaded = load_avatar(tmp_path / "avatar.safetensors")
    states = moving_states(tiny_head, 2)
    assert torch.allclose(rig_vertices(loaded.rig, states), states.vertices, atol=3e-5)  # half a precision
    info = json.loads(re.search(r'id="info"[^>]*>([^<]*)', page_html(loaded))[1])
    titles = {group["title"]: [item["name"] for item in group["items"]] for group in info["sliders"]}
    assert titles["Expression"][0] == "expression 1" and "jaw pitch" in titles["Joints"]
    shown = loaded._repr_html_()
    assert "<iframe" in shown and "srcdoc" in shown and "jaw pitch" in show(loaded).html()


def test_frames_of_several_cameras_are_one(tiny_head) -> None:
    avatar, states = varied_avatar("gaussian_avatars", tiny_head, 20), moving_states(tiny_head, 2)
    twice = states[torch.tensor([0, 0, 1, 1])]
    views = Camera.orbit((0, 0, 0), 1.0, torch.tensor([0.0, 30.0, 0.0, 30.0]), size=(16, 16), fov=20)
    info = json.loads(re.search(r'id="info"[^>]*>([^<]*)', page_html(avatar, twice, tiny_head, views))[1])
    assert info["clip"]["frames"] == 2 and not info["clip"]["moves"]
    info = json.loads(re.search(r'id="info"[^>]*>([^<]*)', page_html(avatar, states, tiny_head, views[:2]))[1])
    assert info["clip"]["moves"]


def test_what_a_live_face_moves_is_in_the_page(tiny_head) -> None:
    """The rest is in test_in_browser.py, `test_a_stream_moves_the_head_when_the_user_asks`."""
    rig = exact_rig(tiny_head)
    mapping = {"jawOpen": {"expression_002": 0.5, "pose:jaw": [0.25, 0, -0.125]}, "tongueOut": {}}
    pose = len(rig.expression)
    assert face_mapping(mapping, rig, {"jaw": 2}) == {
        "jawOpen": [(2, 0.5), (pose + 6, 0.25), (pose + 8, -0.125)], "tongueOut": [],
    }  # fmt: skip
    for recipe, said in [
        ({"nothing": 1.0}, "to_html: arkit: jawOpen: the head has no target nothing"),
        ({"pose:tail": [0, 0, 0]}, "has no joint tail; it has jaw"),
        ({"pose:jaw": 0.3}, "pose:jaw is 0.3; expected three finite numbers"),
    ]:
        with pytest.raises(ValueError, match=re.escape(said)):
            face_mapping({"jawOpen": recipe}, rig, {"jaw": 2})
