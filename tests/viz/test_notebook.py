"""Objects in a notebook: small tables and pictures, quickly, and never an error in a cell."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.data.formats.insta_writer import write_insta
from headfields.parts import Rendering
from headfields.records import Camera, HeadState
from headfields.records.display import Displayed
from headfields.viz.clips import Clip, Grid, show, turn_angles, turntable
from tests.data.tiny import blob, tiny_frames
from tests.tables import table

CORNERS = torch.tensor([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.0, 0.1, 0.0]])
MESH = hf.Mesh(CORNERS, torch.tensor([[0, 1, 2]]))
CAMERA = Camera.orbit((0, 0, 0), 1.0, size=(8, 8), fov=20)


def pictures(html: str) -> list[np.ndarray]:
    """The images within a page."""
    contents = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) for content in contents]


class Painted:
    """An avatar whose image is gray by where its camera stands."""

    def render(self, camera: Camera, state: HeadState, background: float = 1.0) -> Rendering:
        gray = torch.full((*camera.size, 3), 0.5 + 0.5 * float(torch.nn.functional.normalize(camera.center, dim=0)[0]))
        return Rendering(gray, torch.ones(camera.size), torch.ones(camera.size))


def test_a_mesh_shows_itself() -> None:
    html = MESH._repr_html_()
    assert "0.2 x 0.2 x 0 m" in html and "<b>Mesh</b>" in html
    (picture,) = pictures(html)
    assert picture.shape == (128, 256, 3) and (picture[:, :128].min(-1) < 250).sum() > 2000  # from the front
    assert Image.open(io.BytesIO(MESH._repr_png_())).size == (256, 128)


@pytest.mark.parametrize("vertices", [torch.zeros(0, 3), torch.full((3, 3), torch.nan), torch.zeros(3, 3)])
def test_odd_meshes_have_a_table(vertices: torch.Tensor) -> None:
    faces = torch.zeros(0, 3, dtype=torch.long) if not len(vertices) else torch.tensor([[0, 1, 2]])
    assert f">{len(vertices)}<" in hf.Mesh(vertices, faces)._repr_html_()


def test_a_state_and_its_codes() -> None:
    state = HeadState(CORNERS.expand(2, 3, 3), codes={"<tag>": torch.zeros(2, 4)})
    html = state._repr_html_()
    assert "(2, 3, 3) float32" in html and "&lt;tag&gt;" in html and "<tag>" not in html
    assert pictures(html)[0].shape == (128, 2 * 128, 3) and (pictures(html)[0] < 255).any()
    assert "(0, 3, 3)" in state[torch.zeros(2, dtype=torch.bool)]._repr_html_()


def test_a_rendering_shows_color_opacity_depth_and_normals() -> None:
    image = torch.rand(8, 12, 3)
    rendering = Rendering(image, torch.ones(8, 12), torch.rand(8, 12), normal=image)
    assert pictures(rendering._repr_html_())[0].shape == (128, 4 * 192, 3)
    rays = Rendering(torch.rand(5, 3), torch.ones(5), torch.ones(5))
    assert "(5, 3) float32" in rays._repr_html_() and rays._repr_png_() is None


def test_a_capture_and_what_is_wrong_in_it(tmp_path) -> None:
    write_insta(tmp_path / "tiny", tiny_frames(3), *blob())
    capture = hf.data.load_capture(tmp_path / "tiny")
    html = capture._repr_html_()
    assert "tiny" in html and f"{capture.size[1]} x {capture.size[0]} pixels" in html and "train 3" in html
    assert pictures(html)[0].shape[0] == 128
    for image in (tmp_path / "tiny" / "images").iterdir():
        image.write_bytes(b"broken")
    capture._images = type(capture._images)(*capture._images._arguments)  # nothing decoded yet
    assert "train 3" in capture._repr_html_()  # the repr's text, as no picture can be drawn


def test_an_avatar_and_a_prior(samples) -> None:
    avatar = hf.load_avatar(samples / "insta.safetensors")
    avatar.train()
    before = torch.get_rng_state()
    html = avatar._repr_html_()
    assert "SurfaceCanonicalizer" in html and "parameters" in html
    assert avatar.training and torch.equal(torch.get_rng_state(), before)
    prior = hf.priors.load_prior(samples / "prior.safetensors")
    assert "people" in prior._repr_html_() and "geometry" in prior._repr_html_()


def test_an_error_never_reaches_the_cell() -> None:
    class Broken(Displayed):
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Broken object" in Broken()._repr_html_() and Broken()._repr_png_() is None


def test_show_makes_a_grid(tmp_path) -> None:
    red = torch.zeros(8, 8, 3)
    red[..., 0] = 1
    grid = show(red, torch.zeros(4, 6), MESH, [red, 1 - red], columns=2,
                captions=["a & b", "", "mesh", "video"])  # fmt: skip
    html = grid._repr_html_()
    assert html.count("<tr>") == 2 and "a &amp; b" in html and html.count("<img") + html.count("<video") == 4
    assert pictures(html)[0][0, 0].tolist() == [255, 0, 0]
    assert np.asarray(Image.open(grid.save(tmp_path / "grid.png"))).shape == (512, 512, 3)
    assert 'style="width:50px"' in show(red, width=50)._repr_html_()


@table(
    ("items", "options", "message"),
    [
        ((object(),), {}, "an item is a object"),
        (([],), {}, "a video without frames"),
        ((torch.zeros(3, 3, 3),), {"captions": ["a", "b"]}, "2 captions for 1 items"),
        ((torch.zeros(3, 3, 3),), {"columns": 0}, "columns is 0"),
        ((Rendering(torch.zeros(5, 3), torch.zeros(5), torch.zeros(5)),), {}, "is no image"),
    ],
)
def test_show_refuses(items, options, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        show(*items, **options)


def test_a_turntable_circles_the_head() -> None:
    state = HeadState(CORNERS[None])
    clip = turntable(Painted(), state, count=4, size=16)
    assert [int(frame[0, 0, 0]) for frame in clip.frames] == [128, 255, 128, 0]  # front, left, back, right
    assert clip.html().startswith(("<video", "<img")) and repr(clip) == "Clip(4 frames of 16x16 pixels, 16 a second)"
    assert list(turn_angles(4, 60)) == pytest.approx([0, 30, 0, -30])
    assert turntable(Painted(), state, count=1, camera=CAMERA).frames[0].shape == (8, 8, 3)
    with pytest.raises(ValueError, match="state has 2 frames"):
        turntable(Painted(), HeadState(CORNERS.expand(2, 3, 3)))
    with pytest.raises(ValueError, match="count is 0"):
        turntable(Painted(), state, count=0)


def test_empty_grid() -> None:
    assert Grid(())._repr_html_() == "<table></table>" and Clip((), 25)._repr_png_() is None
