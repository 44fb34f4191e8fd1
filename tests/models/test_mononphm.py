"""MonoNPHM: built, rendered, differentiated, saved and loaded; its decoder among the parts of other models."""

import functools
import itertools
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.decoders import AnchoredDecoder
from headfields.models import code_widths, mononphm
from headfields.models.mononphm import PAPER
from headfields.networks import Anchors
from headfields.renderers import SurfaceRenderer, UniformSampler
from tests.avatar.test_composition import BOX, CAMERA, DEFORMERS, ENCODERS, anchors, hyper, state
from tests.covering import covering


@functools.cache
def template() -> hf.Template:
    head = hf.synthetic.procedural_head()
    return hf.Template(head().vertices[0].detach(), head.faces)


def codes(avatar: hf.Avatar, frames: int = 2) -> hf.HeadState:
    widths = code_widths(avatar)
    return hf.HeadState(torch.zeros(frames, 0, 3), codes={n: 0.3 * torch.randn(frames, w) for n, w in widths.items()})


def camera(size: int = 10) -> hf.Camera:
    pose = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.8], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[1.5 * size, 0, size / 2], [0, 1.5 * size, size / 2], [0, 0, 1]])
    return hf.Camera(pose, intrinsics, (size, size))


def test_the_small_model(tmp_path: Path) -> None:
    avatar = mononphm(template(), small=True)
    assert set(avatar.needs) == {"geometry", "appearance", "expression_code"}
    assert code_widths(avatar) == {"geometry": 304, "appearance": 304, "expression_code": 32}
    assert avatar.deformer.anchors is avatar.decoder.anchors
    points = template().canonical_vertices
    where = points[avatar.deformer.anchors.vertices]
    torch.testing.assert_close(avatar.deformer.anchors.mean, where)
    assert float((points - avatar.deformer.anchors.center).norm(dim=-1).max()) < avatar.deformer.radius
    given = codes(avatar)
    image = avatar.render(camera(), given[0])
    assert image.rgb.shape == (10, 10, 3) and bool(image.rgb.isfinite().all())
    avatar.save(tmp_path / "model.safetensors")
    again = hf.Avatar.load(tmp_path / "model.safetensors")
    assert again.deformer.anchors is again.decoder.anchors, "one part, saved once"
    assert again.deformer.anchors.layout == avatar.deformer.anchors.layout
    torch.testing.assert_close(again.render(camera(), given[0]).rgb, image.rgb, atol=1e-6, rtol=0)
    rays = camera().rays()
    result = avatar(rays.replace(frame=torch.arange(len(rays)) % 2), given, torch.ones(len(rays), 3))
    (result.rgb.square().sum() + result.opacity.sum()).backward()
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), f"{name} has no gradient"


def test_anchors_are_at_landmarks_if_there_are_any() -> None:
    landmarks = hf.synthetic.procedural_head().landmarks(template().canonical_vertices[None])[0]
    for small in (True, False):
        mean = mononphm(template(), small=small, landmarks=landmarks).deformer.anchors.mean
        # 8 mm in the mean of eyes and mouth; evenly spread they are 25 mm off
        assert float(torch.cdist(landmarks[36:60], mean).amin(dim=1).mean()) < 0.008
    with pytest.raises(ValueError, match="with Anchors, pass None"):
        mononphm(Anchors(torch.randn(65, 3), 30), landmarks=landmarks)


@pytest.mark.parametrize("ambient", [0, 1])
def test_other_widths_and_color_from_points(ambient: int) -> None:
    avatar = mononphm(template(), small=True, ambient=ambient, expression_width=7, appearance="point", radius=0.3)
    assert avatar.deformer.ambient_width == ambient and avatar.encoder.width == ambient
    assert code_widths(avatar)["expression_code"] == 7 and avatar.deformer.radius == 0.3
    assert not hasattr(avatar.decoder, "projection")
    assert bool(avatar.render(camera(4), codes(avatar, 1)).rgb.isfinite().all())


def test_the_papers_sizes() -> None:
    avatar = mononphm(Anchors(torch.randn(65, 3), PAPER["placement"]["pairs"]))
    assert code_widths(avatar) == {"geometry": 2176, "appearance": 2176, "expression_code": 100}
    assert avatar.deformer.radius == 0.175 and avatar.template is None
    assert avatar.decoder.geometry_networks.weights[0].shape == (36, 101, 200)


def test_the_eikonal_term_reaches_every_part_and_the_codes() -> None:
    avatar, given = mononphm(template(), small=True), None
    given = codes(avatar)
    given = given.replace(codes={name: code.requires_grad_() for name, code in given.codes.items()})
    points = template().canonical_vertices[::40]
    _, values = avatar.field(given).signed_distance(points, torch.arange(len(points)) % 2)
    (values.gradient.norm(dim=-1) - 1).square().mean().backward()
    networks = {"deformer": avatar.deformer, "geometry": avatar.decoder.geometry_networks}
    for name, part in networks.items():
        for parameter in part.parameters():
            shift = name == "geometry" and parameter is avatar.decoder.geometry_networks.biases[-1]
            assert parameter.grad is None or bool(parameter.grad.isfinite().all())
            assert shift or (parameter.grad is not None), name
    assert bool(given.codes["geometry"].grad.any()) and bool(given.codes["expression_code"].grad.any())


PAIRS = covering(list(itertools.product(DEFORMERS, [*ENCODERS, "coordinates"])), [(0,), (1,)])


@pytest.mark.parametrize(("deformer", "encoder"), PAIRS)
def test_local_networks_behind_any_deformer_and_encoder(deformer: str, encoder: str, tmp_path: Path) -> None:
    made = DEFORMERS[deformer]()
    shared = made.anchors if deformer == "hyper" else anchors()
    decoder = AnchoredDecoder(shared, hidden=8, layers=2, neighbors=4, reach=3, appearance_hidden=6, far=0.05)
    inner = hf.encoders.Coordinates() if encoder == "coordinates" else ENCODERS[encoder]()
    avatar = hf.Avatar(made, inner, decoder, SurfaceRenderer(UniformSampler(8)))
    rays = CAMERA.rays()
    rays = rays.replace(frame=torch.arange(len(rays)) % 2)
    result = avatar(rays, state(), torch.ones(len(rays), 3))
    assert bool(result.rgb.isfinite().all()) and float(result.opacity.detach().max()) > 0.01
    (result.rgb.square().mean() + result.depth.mean()).backward()
    assert all(bool(parameter.grad.any()) for parameter in decoder.parameters())
    image = avatar.render(CAMERA, state()[1])
    avatar.save(tmp_path / "avatar.safetensors")
    again = hf.Avatar.load(tmp_path / "avatar.safetensors").render(CAMERA, state()[1], chunk=50)
    torch.testing.assert_close(again.rgb, image.rgb, atol=1e-6, rtol=0)


def test_a_state_without_codes_is_refused_by_name() -> None:
    deformer = hyper()
    avatar = hf.Avatar(
        hf.deformers.Static(BOX), hf.encoders.Coordinates(points=False), AnchoredDecoder(deformer.anchors, hidden=4),
        SurfaceRenderer(UniformSampler(4)),
    )  # fmt: skip
    assert avatar.needs == ("geometry", "appearance")
    with pytest.raises(ValueError, match="AnchoredDecoder needs 'geometry'"):
        avatar.render(CAMERA, hf.HeadState(torch.zeros(1, 0, 3)))
