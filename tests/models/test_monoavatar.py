"""MonoAvatar's preset and recipe: the paper's parts and sizes, training, the warp that only training has."""

from pathlib import Path
from typing import Any

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import RadianceHead
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import (
    BlendedTableFeatures,
    StaticFeatures,
    SubdividedFeatures,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexFeatures,
)
from headfields.losses.color import SquaredColor
from headfields.losses.warp import Elastic, WarpMagnitude
from headfields.models import monoavatar
from headfields.records import Camera, HeadState, PixelBatch, Template
from headfields.renderers import CoarseToFineRenderer, OccupancySampler
from headfields.training.recipes import INSTA, MONOAVATAR, recipe_of
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
TEMPLATE = Template(VERTICES, FACES)  # without texture coordinates: the preset makes them
POSE = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]])
CAMERA = Camera(POSE, torch.tensor([[16.0, 0, 4], [0, 16.0, 4], [0, 0, 1]]), (8, 8))


def state(frames: int = 2) -> HeadState:
    torch.manual_seed(1)
    moved = VERTICES + 0.01 * torch.randn(frames, len(VERTICES), 3)
    pose = 0.1 * torch.randn(frames, 2, 3)
    return HeadState(moved, expression=torch.randn(frames, 3), pose=pose, frame_id=torch.arange(frames))


def made(**options: Any) -> Avatar:
    torch.manual_seed(0)
    return monoavatar(TEMPLATE, frames=2, expression_width=3, **options)


def test_it_has_the_papers_parts_and_sizes() -> None:
    avatar = made()
    near, warp = avatar.deformer.deformers
    assert isinstance(avatar.deformer, Chain) and isinstance(near, NearSurface) and isinstance(warp, ErrorWarp)
    assert (warp.start, warp.coarse_to_fine, warp.bands, len(warp.codes)) == (5_000, 80_000, 6, 2)
    encoder = avatar.encoder
    assert isinstance(encoder, VertexFeatures) and (encoder.neighbors, encoder.bands, encoder.width) == (4, 10, 128)
    source = encoder.source
    assert isinstance(source, UVDisplacementFeatures) and source.width == 64
    assert source.rasterizer.resolution == (256, 256)
    assert isinstance(avatar.decoder, RadianceHead) and avatar.decoder.hidden == 64
    assert isinstance(avatar.renderer, CoarseToFineRenderer)
    coarse = avatar.renderer.encoder
    assert isinstance(coarse, VertexFeatures) and coarse.source is source and coarse is not encoder
    assert isinstance(made(variant="C", small=True).encoder.source, UVCodeFeatures)
    assert isinstance(made(small=True).renderer.sampler, OccupancySampler)
    assert avatar.template is not None and avatar.template.uv is not None


def test_its_steps_can_be_set_and_its_source_exchanged() -> None:
    warp = made(small=True, start=7).deformer.deformers[1]
    assert (warp.start, warp.coarse_to_fine) == (7, 2_000)
    source = StaticFeatures(len(VERTICES), 5)
    assert made(small=True, source=source).encoder.source is source


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "C", "pose_width": 6},
        *(pytest.param(each, marks=pytest.mark.slow) for each in ({"variant": "D"}, {"small": True}, {"sizes": "cpu"})),
    ],
    ids=str,
)
def test_a_step_reaches_every_parameter(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With both networks, the warp and its regularizers; the vertex source is asked once for both networks."""
    avatar = made(start=0, coarse_to_fine=0, **options)
    source = type(avatar.encoder.source)
    asked: list[int] = []
    forward = source.forward
    monkeypatch.setattr(source, "forward", lambda self, state: (asked.append(len(state)), forward(self, state))[1])
    rays = CAMERA.rays()
    avatar.update(state(), 0)
    asked.clear()
    rendering = avatar(rays, state(), torch.ones(64, 3))
    assert asked == [2]
    batch = PixelBatch(rays, torch.rand(64, 3), torch.ones(64), torch.ones(64, 3))
    for loss in MONOAVATAR.losses_for({"depth": 0, "opacity": 0}):
        (loss(rendering, batch, 0) * loss.weight).backward(retain_graph=True)
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_the_code_of_c_is_expression_and_pose() -> None:
    """A jaw that opens by its joint alone, which the expression does not say, changes the features."""
    closed = state(1)
    opened = closed.replace(pose=closed.pose + torch.tensor([[[0.0, 0, 0], [0.3, 0, 0]]]))
    for sizes in ("paper", "cpu"):
        source = made(variant="C", pose_width=6, sizes=sizes).encoder.source
        assert set(source.needs) == {"expression", "pose"}
        assert float((source(opened) - source(closed)).detach().abs().max()) > 1e-4
        assert made(variant="C", sizes=sizes).encoder.source.needs == ("expression",)  # a capture without a pose


def test_c_and_d_see_the_same_positions() -> None:
    """And neither does with the paper's sizes."""
    sources = {v: made(variant=v, sizes="cpu").encoder.source.mixer for v in ("C", "D")}
    assert all(made(variant=v, sizes="paper").encoder.source.place is None for v in ("C", "D"))
    assert sources["C"].place is not None and sources["D"].place is not None
    torch.testing.assert_close(sources["C"].place, sources["D"].place)


def test_the_sizes_for_a_cpu(tmp_path: Path) -> None:
    """Blended tables; more anchors at mouth and eyes, where the template has such regions; a warp without a mean."""
    template = TEMPLATE.replace(regions={"eyes": VERTICES[FACES].mean(1)[:, 2] > 0.06})
    avatar = monoavatar(template, frames=2, sizes="cpu")
    source = avatar.encoder.source
    assert isinstance(source, SubdividedFeatures) and source.vertex_count > source.tracked_count == len(VERTICES)
    assert isinstance(source.source, BlendedTableFeatures) and isinstance(source.source.mixer, UVDisplacementFeatures)
    assert isinstance(made(sizes="cpu").encoder.source, BlendedTableFeatures)
    assert avatar.deformer.deformers[1].centered and not made().deformer.deformers[1].centered
    assert isinstance(avatar.renderer.sampler, OccupancySampler)
    avatar.update(state(), 0)
    image = avatar.render(CAMERA, state()[0])
    avatar.save(tmp_path / "avatar.safetensors")
    again = Avatar.load(tmp_path / "avatar.safetensors")
    torch.testing.assert_close(again.render(CAMERA, state()[0]).rgb, image.rgb, atol=1e-5, rtol=0)


def test_small_means_the_sizes_of_earlier_runs() -> None:
    """A run folder of version 0.3 names its preset's arguments, small among them, and holds tensors of these shapes."""
    names = {name: tuple(p.shape) for name, p in made(small=True).named_parameters()}
    assert names == {name: tuple(p.shape) for name, p in made(sizes="cpu-0.3").named_parameters()}
    assert names["encoder.source.network.first.weight"] == (16, 42, 3, 3)
    assert not isinstance(made(small=True).encoder.source, BlendedTableFeatures)
    assert names["deformer.deformers.1.trunk.0.weight"] == (64, 47)


def test_test_frames_need_no_code_of_the_warp() -> None:
    avatar = made(small=True, start=0)
    one = state()[0]
    avatar.update(state(), 0)
    image = avatar.render(CAMERA, one.replace(frame_id=None))
    torch.testing.assert_close(avatar.render(CAMERA, one).rgb, image.rgb)


def test_a_variant_that_is_none_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="variant is 'E'; expected 'D'"):
        made(variant="E")
    with pytest.raises(ValueError, match=r"sizes is 'tiny'; expected one of paper, cpu, cpu-0\.3"):
        made(sizes="tiny")
    with pytest.raises(ValueError, match=r"small=True means sizes='cpu-0\.3', and sizes is 'cpu'"):
        made(small=True, sizes="cpu")


def test_recipes() -> None:
    assert recipe_of("monoavatar", "cpu") is MONOAVATAR
    assert recipe_of("somebody's own", "cpu") is INSTA
    names = [type(loss) for loss in MONOAVATAR.losses_for({"depth": 0, "opacity": 0})]
    assert names == [SquaredColor, Elastic, WarpMagnitude]
    assert MONOAVATAR.mouth == "auto" and INSTA.mouth == "close"
    assert [loss.name for loss in MONOAVATAR.losses_for({"depth": 0.1, "opacity": 0.2})][-2:] == ["depth", "opacity"]
