"""Presets and baselines: their parts, what they refuse, and what the textured mesh recovers."""

import pytest
import torch

import headfields as hf
from headfields.decoders import NeRFDecoder
from headfields.deformers import Static, SurfaceCanonicalizer
from headfields.encoders import HashGrid, RegionGate
from headfields.models import insta
from headfields.models.baselines import AverageTexture, static_field
from headfields.models.insta import INSTA_RELEASED
from headfields.records import Camera, HeadState, PixelBatch, Template
from headfields.renderers import OccupancySampler, VolumeRenderer
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
MOUTH = VERTICES[FACES].mean(dim=1)[:, 1] < 0
TEMPLATE = Template(VERTICES, FACES, {"mouth": MOUTH, "face": ~MOUTH})
SMALL = {"levels": 2, "features": 2, "log2_table_size": 8, "finest_resolution": 32}


def camera(from_behind: bool = False, side: int = 24) -> Camera:
    turn = -1.0 if from_behind else 1.0
    pose = torch.tensor([[turn, 0, 0, 0], [0, -1, 0, 0], [0, 0, -turn, 0.6], [0, 0, 0, 1]])
    return Camera(pose, torch.tensor([[2.0 * side, 0, side / 2], [0, 2.0 * side, side / 2], [0, 0, 1]]), (side, side))


class Capture:
    """As much of a capture as the textured mesh reads: one pose of the sphere, one camera a frame, painted colors."""

    def __init__(self, colors: torch.Tensor, cameras: list[Camera]) -> None:
        self.colors, self.cameras = colors, cameras
        self.painted = AverageTexture(TEMPLATE, resolution=1)
        self.painted.texture.copy_(colors)

    def state(self, frames: list[int]) -> HeadState:
        return HeadState(VERTICES[None].repeat(len(frames), 1, 1))

    def camera(self, frames: list[int]) -> Camera:
        (frame,) = frames
        seen = self.cameras[frame]
        return Camera(seen.world_to_camera[None], seen.intrinsics[None], seen.size)

    def pixels(self, frame: int) -> PixelBatch:
        image = self.painted.render(self.cameras[frame], self.state([frame]), background=0.0)
        rays = self.cameras[frame].rays()
        return PixelBatch(rays, image.rgb.reshape(-1, 3), image.opacity.reshape(-1), torch.ones(len(rays), 3))


def test_insta_has_the_papers_parts() -> None:
    avatar = insta(TEMPLATE, expression_width=3, **SMALL)
    assert isinstance(avatar.deformer, SurfaceCanonicalizer) and avatar.deformer.blend_neighbors
    assert isinstance(avatar.encoder, HashGrid)
    (gate,) = avatar.conditions
    assert isinstance(gate, RegionGate) and bool((gate.faces == MOUTH).all()) and gate.width == 3
    assert isinstance(avatar.decoder, NeRFDecoder) and avatar.decoder.direction_degree == 4
    assert isinstance(avatar.renderer, VolumeRenderer) and isinstance(avatar.renderer.sampler, OccupancySampler)
    assert avatar.needs == ("expression",) and avatar.template is TEMPLATE
    inside = gate.faces.nonzero()[0]
    assert bool((avatar.deformer._ring[inside, 1:] == -1).all()), "neighbors blend in the face region only"


def test_insta_scales_with_its_triangles() -> None:
    """On a head of half the size, a centimeter is two canonical ones: everywhere, at the eyes, or nowhere."""
    eyes = VERTICES[FACES].mean(dim=1)[:, 2] > 0.05
    template = Template(VERTICES, FACES, {**TEMPLATE.regions, "eyes": eyes, "face": torch.zeros_like(eyes)})
    state = HeadState(VERTICES[None] / 2, expression=torch.zeros(1, 3))
    face = torch.stack([eyes.nonzero()[0, 0], (~eyes).nonzero()[0, 0]])
    centers = VERTICES[FACES[face]].mean(dim=1)
    normals = torch.nn.functional.normalize(centers, dim=1)
    lengths = {}
    for scaling in ("length", "area", "none"):
        avatar = insta(template, 3, scaling=scaling, shell=0.07, behind=None, **SMALL)
        assert avatar.deformer.shell == 0.07 and avatar.deformer.behind is None
        field, frame = avatar.field(state), torch.zeros(2, dtype=torch.long)
        on, off = (field.canonicalize(centers / 2 + away * normals, normals, frame).points for away in (0.0, 0.01))
        lengths[scaling] = (off - on).norm(dim=1) / 0.01
    torch.testing.assert_close(lengths["none"], torch.ones(2), atol=1e-3, rtol=0)
    assert float(lengths["length"].min()) > 1.5
    assert lengths["area"][0] > 1.5 and lengths["area"][1] == pytest.approx(1, abs=1e-3)
    assert insta(template, 3, formula="released", **SMALL).deformer.formula == "released"
    with pytest.raises(ValueError, match=r"'area' is for its region 'eyes'"):
        insta(TEMPLATE, 3, scaling="area", **SMALL)
    with pytest.raises(ValueError, match=r"'mouth' is needed to gate the expression: add segmentation labels"):
        insta(TEMPLATE.replace(regions={}), 3, **SMALL)


def test_insta_renders_and_follows_the_expression_in_the_mouth_only() -> None:
    torch.manual_seed(0)
    avatar = insta(TEMPLATE, expression_width=3, step=0.01, **SMALL)
    state = HeadState(VERTICES[None], expression=torch.zeros(1, 3))
    still = avatar.render(camera(), state).rgb
    moved = avatar.render(camera(), state.replace(expression=torch.full((1, 3), 3.0))).rgb
    difference = (still - moved).abs().sum(dim=-1)
    assert float(difference[14:].max()) > 1e-4, "the lower half, the mouth of this template, follows"
    assert float(difference[:9].max()) == 0, "and nothing above it does"


def test_insta_takes_the_released_sizes() -> None:
    avatar = insta(TEMPLATE, **(INSTA_RELEASED | {"log2_table_size": 8}))
    assert avatar.encoder.layout.features == 8 and avatar.encoder.layout.finest_resolution == 2048
    assert avatar.conditions[0].width == 16
    assert avatar.renderer.sampler.grid.occupied.shape == (128, 128, 128)


def test_insta_refuses_a_template_without_a_mouth() -> None:
    with pytest.raises(ValueError, match=r"insta: the template has regions \['face'\]; 'mouth' is needed"):
        insta(Template(VERTICES, FACES, {"face": MOUTH}))


@pytest.mark.parametrize(
    ("name", "most"), [("insta", 64), ("vp360", 64), ("monoavatar", 80), ("flash_avatar", 100), ("rgb_avatar", 100)]
)
def test_the_width_of_the_expression_comes_from_the_template(name: str, most: int) -> None:
    """Where neither it nor the program says, or the program says more, building fails by the argument's name."""
    preset = getattr(hf.models, name)
    sizes = {"insta": SMALL, "vp360": SMALL, "monoavatar": {"frames": 2, "variant": "C", "sizes": "cpu-0.3"}}
    sizes |= {key: {"count": 20} for key in ("flash_avatar", "rgb_avatar")}
    for known in (5, most + 7 if most != 80 else 80):
        avatar = preset(TEMPLATE.replace(expression_width=known), **sizes[name])
        state = HeadState(VERTICES[None], expression=torch.zeros(1, known), frame_id=torch.zeros(1, dtype=torch.long))
        avatar.render(camera(side=8), state)
        widths = {part.code_widths.get("expression") for part in avatar.modules() if hasattr(part, "code_widths")}
        assert widths - {None} == {min(known, most)}
    with pytest.raises(ValueError, match=f"{name}: expression_width is None, and the template does not say"):
        preset(TEMPLATE, **sizes[name])
    with pytest.raises(ValueError, match=f"{name}: expression_width is 6, and the states .* have 5 expression values"):
        preset(TEMPLATE.replace(expression_width=5), expression_width=6, **sizes[name])


def test_all_presets_of_fields_look_as_far_as_they_are_told() -> None:
    near = {"shell": 0.08, "behind": None}
    mono = hf.models.monoavatar(TEMPLATE, frames=2, sizes="cpu-0.3", **near)
    portrait = hf.models.vp360(TEMPLATE, expression_width=3, **near, **SMALL)
    weights = torch.ones(len(VERTICES), 1)
    skinned = hf.models.vp360(TEMPLATE, fields=0, weights=weights, **near, **SMALL)
    for deformer in (mono.deformer.deformers[0], portrait.deformer.deformers[0], skinned.deformer):
        assert deformer.shell == 0.08 and deformer.behind is None
        assert float(deformer.bounds()[1, 0] - VERTICES[:, 0].max()) == pytest.approx(0.08, abs=1e-6)


def test_the_static_field_needs_nothing_of_the_state() -> None:
    avatar = static_field(TEMPLATE, **SMALL, margin=0.05)
    assert isinstance(avatar.deformer, Static) and avatar.needs == ()
    torch.testing.assert_close(avatar.deformer.box, torch.stack([VERTICES.amin(0) - 0.05, VERTICES.amax(0) + 0.05]))
    one = avatar.render(camera(), HeadState(VERTICES[None])).rgb
    other = avatar.render(camera(), HeadState(VERTICES[None] + 0.03)).rgb
    torch.testing.assert_close(one, other)


def test_a_mesh_of_one_color_is_recovered_everywhere() -> None:
    color = torch.tensor([0.2, 0.5, 0.9])
    capture = Capture(color.repeat(len(FACES), 1), [camera()])
    mesh = AverageTexture(TEMPLATE, resolution=3).fit(capture, torch.tensor([0]))
    torch.testing.assert_close(mesh.texture, color.expand_as(mesh.texture), atol=1e-5, rtol=0)
    unseen = mesh.render(camera(from_behind=True), capture.state([0]), background=1.0)
    truth = capture.painted.render(camera(from_behind=True), capture.state([0]), background=1.0)
    torch.testing.assert_close(unseen.rgb, truth.rgb, atol=1e-5, rtol=0)
    assert 0.1 < float(unseen.opacity.mean()) < 0.9
    depth = unseen.depth[unseen.opacity > 0]
    assert 0.49 < float(depth.min()) < 0.52 and float(depth.max()) < 0.61


def test_faces_keep_their_own_colors_and_unseen_ones_get_the_mean() -> None:
    colors = torch.rand(len(FACES), 3, generator=torch.Generator().manual_seed(0))
    capture = Capture(colors, [camera(side=64)])
    mesh = AverageTexture(TEMPLATE, resolution=1).fit(capture, torch.tensor([0]))
    again = mesh.render(camera(side=64), capture.state([0]))
    torch.testing.assert_close(again.rgb, capture.painted.render(camera(side=64), capture.state([0])).rgb)
    hidden = VERTICES[FACES].mean(dim=1)[:, 2] < -0.05
    assert bool((mesh.texture[hidden] == mesh.texture[hidden][0]).all())
    batch = capture.pixels(0)
    mean = batch.rgb[batch.alpha > 0.5].mean(dim=0)
    torch.testing.assert_close(mesh.texture[hidden][0], mean, atol=1e-4, rtol=0)


def test_frames_that_never_show_the_mesh_are_an_error() -> None:
    capture = Capture(torch.zeros(len(FACES), 3), [camera()])
    seen = capture.pixels(0)
    capture.pixels = lambda frame: seen.replace(alpha=torch.zeros(24 * 24))  # type: ignore[method-assign,assignment]
    with pytest.raises(ValueError, match="no foreground pixel"):
        AverageTexture(TEMPLATE).fit(capture, torch.tensor([0]))
    with pytest.raises(ValueError, match="resolution is 0"):
        AverageTexture(TEMPLATE, resolution=0)
