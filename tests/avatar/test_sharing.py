"""Parts that several avatars share: they are built once, keep their weights, or do not fit by name."""

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headfields.avatar.avatar import Avatar
from headfields.decoders import BlendedColor, NeRFDecoder, NeuSDecoder
from headfields.deformers import Blendfield, Chain, Static, SurfaceCanonicalizer
from headfields.encoders import (
    ColorFields,
    Coordinates,
    Frequency,
    HashGrid,
    RegionGate,
    StaticFeatures,
    SurfaceFeatures,
)
from headfields.networks.field_basis import BlendCoefficients
from headfields.parts import Encoder
from headfields.records import Camera, Canonical, HeadState, Template
from headfields.renderers import (
    CoarseToFineRenderer,
    HierarchicalSampler,
    NeuSAlpha,
    OccupancySampler,
    SurfaceRenderer,
    UniformSampler,
    VolumeRenderer,
)
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(5, 6, radius=0.1)
MOUTH = torch.arange(len(FACES)) % 2 == 0
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
CAMERA = Camera(
    torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.5], [0, 0, 0, 1]]),
    torch.tensor([[12.0, 0, 4], [0, 12, 4], [0, 0, 1]]),
    (8, 8),
)
STATE = HeadState(VERTICES[None], expression=torch.ones(1, 3))


class Planes(Encoder):
    """A user's own part, with a build of its own: three planes of features."""

    def __init__(self, features: int = 4, cells: int = 8) -> None:
        super().__init__()
        self.width, self.cells = features, cells
        self.builds = 0

    def build(self, bounds: Tensor, ambient_width: int) -> None:
        self.builds += 1
        self.register_buffer("box", bounds.clone())
        self.planes = nn.Parameter(torch.randn(3, self.width, self.cells, self.cells))

    def forward(self, canonical: Canonical, prepared: None) -> Tensor:
        unit = 2 * (canonical.points - self.box[0]) / (self.box[1] - self.box[0]) - 1
        places = torch.stack([unit[:, [0, 1]], unit[:, [0, 2]], unit[:, [1, 2]]])[:, :, None]
        return nn.functional.grid_sample(self.planes, places, align_corners=True)[..., 0].sum(0).T


def surface(**options: Any) -> SurfaceCanonicalizer:
    return SurfaceCanonicalizer(VERTICES, FACES, shell=0.03, **options)


def blendfield() -> Blendfield:
    return Blendfield(surface().bounds(), BlendCoefficients({"expression": 3}), "mlp", options={"hidden": 4})


def insta_like() -> Avatar:
    return Avatar(
        surface(), HashGrid(2, 2, 6, 4, 8), NeRFDecoder(hidden=8, density_bias=3.0),
        VolumeRenderer(OccupancySampler("canonical", resolution=4, step=0.02, refresh_points=64, warmup=0)),
        condition=RegionGate("expression", MOUTH, width=2), template=Template(VERTICES, FACES, {"mouth": MOUTH}),
    )  # fmt: skip


def distances() -> Avatar:
    return Avatar(
        surface(), Planes(), NeuSDecoder(hidden=8, geometry_width=4, radius=0.08),
        SurfaceRenderer(UniformSampler(6), NeuSAlpha()),
        condition=SurfaceFeatures(StaticFeatures(len(VERTICES), 2), FACES),
    )  # fmt: skip


AVATARS: dict[str, Callable[[], Avatar]] = {"densities": insta_like, "distances": distances}
SWAPS: dict[str, dict[str, Callable[[], Any]]] = {
    "densities": {
        "deformer": lambda: Chain(surface(), blendfield()),
        "encoder": lambda: Planes(),
        "condition": lambda: SurfaceFeatures(StaticFeatures(len(VERTICES), 2), FACES),
        "decoder": lambda: NeRFDecoder(hidden=4, direction_degree=0),
        "renderer": lambda: VolumeRenderer(HierarchicalSampler(3, 3)),
        "template": lambda: None,
    },
    "distances": {
        "deformer": lambda: Static(surface().bounds()),
        "encoder": lambda: HashGrid(2, 2, 6, 4, 8),
        "condition": lambda: RegionGate("expression", MOUTH, width=2),
        "decoder": lambda: NeuSDecoder(hidden=4, radius=0.08),
        "renderer": lambda: SurfaceRenderer(UniformSampler(4)),
    },
}


def train(avatar: Avatar, steps: int = 3) -> None:
    optimizer = torch.optim.Adam(avatar.parameters(), lr=0.01)
    rays = CAMERA.rays()
    for step in range(steps):
        avatar.update(STATE, step)
        optimizer.zero_grad()
        avatar(rays, STATE, torch.ones(len(rays), 3)).rgb.square().sum().backward()
        optimizer.step()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    now = module.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], value) for name, value in before.items())


@pytest.mark.parametrize(("kind", "noun"), [(kind, noun) for kind, nouns in SWAPS.items() for noun in nouns])
def test_each_noun_of_a_trained_avatar_is_swapped(kind: str, noun: str, tmp_path: Path) -> None:
    """Both avatars keep the weights, are rendered, saved and loaded; the parts that stay are the same objects."""
    if (kind, noun) == ("distances", "deformer"):  # without faces, and without the condition that reads them
        parts = {"deformer": SWAPS[kind][noun](), "condition": Coordinates(points=False), "decoder": NeuSDecoder(8)}
    else:
        parts = {noun: SWAPS[kind][noun]()}
    torch.manual_seed(0)
    trained = AVATARS[kind]()
    train(trained)
    before = weights(trained)
    image = trained.render(CAMERA, STATE)
    other = trained.replace(**parts)
    assert same(trained, before)
    for name in other.composition.keys() - parts.keys():
        assert other.composition[name] == trained.composition[name], name  # modules are equal if they are one
    torch.testing.assert_close(trained.render(CAMERA, STATE).rgb, image.rgb, atol=0, rtol=0)
    assert bool(other.render(CAMERA, STATE).rgb.isfinite().all())
    again = weights(other)
    for name, avatar in (("trained", trained), ("other", other)):
        avatar.save(tmp_path / name)
        loaded = Avatar.load(tmp_path / name)
        assert same(loaded, before if avatar is trained else again)
        torch.testing.assert_close(
            loaded.render(CAMERA, STATE).rgb, avatar.render(CAMERA, STATE).rgb, atol=1e-6, rtol=0
        )
    train(other, 1)  # what is shared is trained in both
    assert kind == "distances" or noun == "encoder" or not torch.equal(trained.encoder.table, before["encoder.table"])


def test_a_part_is_built_once() -> None:
    trained = distances()
    train(trained)
    planes = weights(trained.encoder)
    again = Avatar(**(trained.composition | {"condition": trained.conditions}))  # a ModuleList, too
    assert trained.encoder.builds == 1 and same(again.encoder, planes) and again.encoder is trained.encoder
    trained.encoder.build(surface().bounds(), 0)  # by hand, for the same sizes
    assert same(trained.encoder, planes)


def test_parts_within_parts_keep_their_weights() -> None:
    """An occupancy grid, a wrapped decoder, the networks of a renderer, and a source of vertex features."""
    trained = insta_like()
    train(trained)
    before = weights(trained)
    sampler = trained.renderer.sampler
    assert bool((sampler.grid.opacity >= 0).any())
    trained.replace(renderer=VolumeRenderer(sampler, early_stop=0.0))
    coefficients = BlendCoefficients({"expression": 3}, fields=2, hidden=4)
    blended = trained.replace(
        decoder=BlendedColor(trained.decoder), condition=[*trained.conditions, ColorFields(coefficients, "mlp")]
    )
    fine = NeRFDecoder(hidden=8)
    coarse = trained.replace(
        decoder=fine, renderer=CoarseToFineRenderer(trained.encoder, NeRFDecoder(hidden=4), coarse=3, fine=3)
    )
    train(coarse)
    kept = weights(coarse.renderer)
    swapped = coarse.replace(decoder=NeRFDecoder(hidden=4))
    assert same(swapped.renderer, kept) and blended.decoder.decoder is trained.decoder
    own = {name: value for name, value in before.items() if not name.startswith(("encoder", "renderer"))}
    now = trained.state_dict()
    assert all(torch.equal(now[name], value) for name, value in own.items())
    source = StaticFeatures(len(VERTICES), 2)
    first = distances().replace(condition=SurfaceFeatures(source, FACES))
    table = source.table.detach().clone()
    second = insta_like().replace(condition=SurfaceFeatures(source, FACES))
    assert first.conditions[0].source is second.conditions[0].source and torch.equal(source.table, table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"deformer": lambda: Static(2 * BOX)},
            r"HashGrid was built with bounds=\[\[-0\.11.* by the deformer SurfaceCanonicalizer, and the deformer "
            r"Static asks for bounds=\[\[-0\.3, .*make a new HashGrid",
        ),
        (
            {"condition": lambda: None},
            r"NeRFDecoder was built with width=6 by .* features 4 \(HashGrid\) \+ 2 \(RegionGate\), and .* features 4 "
            r"\(HashGrid\) asks for width=4",
        ),
    ],
)
def test_sizes_that_disagree_are_named(change: dict[str, Callable[[], Any]], message: str) -> None:
    trained = insta_like()
    before = weights(trained)
    made = {name: make() for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        trained.replace(**({"condition": None} | made))
    assert same(trained, before)


def test_an_ambient_width_that_disagrees() -> None:
    class Hyper(Static):
        ambient_width = 1

        def forward(self, points, directions, frame, prepared):  # type: ignore[no-untyped-def]
            return super().forward(points, directions, frame, prepared).replace(ambient=points[:, :1])

    grid = HashGrid(2, 2, 6, 4, 8)
    nerf = NeRFDecoder(hidden=4)
    Avatar(Static(BOX), grid, nerf, VolumeRenderer(UniformSampler(4)))
    with pytest.raises(
        ValueError, match=r"ambient_width=0 by the deformer Static, and the deformer Hyper asks for ambient_width=1"
    ):
        Avatar(Hyper(BOX), grid, nerf, VolumeRenderer(UniformSampler(4)))


def test_a_composition_that_fails_leaves_new_parts_new() -> None:
    trained, encoder = insta_like(), Frequency(3)
    with pytest.raises(ValueError, match="NeRFDecoder was built with width=6"):
        trained.replace(encoder=encoder)
    assert encoder.built_for is None
    Avatar(Static(3 * BOX), encoder, NeRFDecoder(hidden=4), VolumeRenderer(UniformSampler(4)))


def test_a_build_that_fails_is_begun_again() -> None:
    """By hand, too: what `super().build` has built is not taken for the whole part."""

    class Failing(Planes):
        broken = True

        def build(self, bounds: Tensor, ambient_width: int) -> None:
            super().build(bounds, ambient_width)
            if self.broken:
                raise RuntimeError("no room")
            self.whole = True

    part = Failing(features=3)
    with pytest.raises(RuntimeError, match="no room"):
        part.build(BOX, 0)
    part.broken = False
    part.build(BOX, 0)
    assert part.whole and part.builds == 2 and part.built_by == "a direct call of build"
    assert part.arguments == {"features": 3, "cells": 8}
    with pytest.raises(ValueError, match=r"Failing was built with ambient_width=0 by a direct call .* ambient_width=1"):
        part.build(BOX, 1)
    assert part.builds == 2


def test_frozen_parts_and_modes_stay() -> None:
    trained = insta_like()
    trained.encoder.requires_grad_(False).eval()
    other = trained.replace(renderer=VolumeRenderer(UniformSampler(4)))
    assert other.training and other.renderer.training and not other.encoder.training
    assert not any(parameter.requires_grad for parameter in other.encoder.parameters())
    assert all(parameter.requires_grad for parameter in other.decoder.parameters())
    table = trained.encoder.table.clone()
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1)
    other(CAMERA.rays(), STATE, torch.ones(64, 3)).rgb.sum().backward()
    optimizer.step()
    other.render(CAMERA, STATE)
    assert torch.equal(trained.encoder.table, table) and not trained.encoder.training and other.decoder.training
    evaluated = trained.eval().replace(decoder=NeRFDecoder(hidden=4))
    assert not any(part.training for part in evaluated.modules())


def test_a_copy_is_trained_alone() -> None:
    trained = insta_like()
    table = trained.encoder.table.detach().clone()
    train(copy.deepcopy(trained).replace(renderer=VolumeRenderer(UniformSampler(4))))
    assert torch.equal(trained.encoder.table, table)


def test_the_preview_goes_along_and_names_are_checked() -> None:
    trained = insta_like()
    trained.preview = (CAMERA, STATE)
    assert trained.replace(template=None).preview is trained.preview
    with pytest.raises(TypeError, match=r"no part is called 'render'; did you mean renderer\?"):
        trained.replace(render=VolumeRenderer(UniformSampler(4)))


def test_several_devices_are_named() -> None:
    trained = insta_like()
    with pytest.raises(ValueError, match="encoder, a HashGrid, is on cpu and the deformer Static on meta"):
        trained.replace(deformer=Static(surface().bounds()).to("meta"), condition=None)
    with pytest.raises(ValueError, match=r"decoder, a NeRFDecoder, is on meta and the deformer SurfaceCanon.* on cpu"):
        trained.replace(decoder=NeRFDecoder(hidden=4).to("meta"))
    assert all(value.device.type == "cpu" for value in itertools.chain(trained.parameters(), trained.buffers()))


@pytest.mark.cuda
def test_new_parts_go_to_the_device_of_the_deformer() -> None:
    trained = insta_like().cuda()
    other = trained.replace(encoder=HashGrid(2, 2, 6, 4, 8), renderer=VolumeRenderer(OccupancySampler(resolution=4)))
    assert all(value.device.type == "cuda" for value in (*other.parameters(), *other.buffers()))
    assert bool(other.render(CAMERA.to("cuda"), STATE.to("cuda")).rgb.isfinite().all())


def test_new_parts_take_the_dtype_of_the_avatar() -> None:
    def composed() -> Avatar:
        return Avatar(
            deformer=Static(BOX), encoder=HashGrid(2, 2, 8, 4, 8), decoder=NeRFDecoder(hidden=8),
            renderer=VolumeRenderer(UniformSampler(4)),
        )  # fmt: skip

    def dtypes(module: nn.Module) -> set[torch.dtype]:
        return {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}

    exact = composed().double()
    changed = exact.replace(decoder=NeRFDecoder(hidden=16), renderer=VolumeRenderer(OccupancySampler("posed", 8)))
    assert dtypes(changed) == {torch.float64}
    single = composed()
    assert dtypes(single.replace(decoder=NeRFDecoder(hidden=16))) == {torch.float32}
    used = single.decoder  # a part of another avatar stays as it is
    exact.replace(decoder=used)
    assert dtypes(used) == {torch.float32}


def test_colors_that_are_bytes_are_noticed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bytes(NeRFDecoder):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            values = super().forward(*arguments, **options)
            return values if values.rgb is None else values.replace(rgb=255 * values.rgb)

        def color(self, *arguments: Any) -> Tensor:
            return 255 * super().color(*arguments)

    monkeypatch.setattr("headfields.avatar.avatar._bright", set())
    avatar = Avatar(
        deformer=Static(BOX), encoder=HashGrid(2, 2, 8, 4, 8), decoder=Bytes(hidden=8),
        renderer=VolumeRenderer(UniformSampler(4)),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"Bytes gives colors above 16, .* colors are in \[0, 1\] \(divide bytes"):
        avatar.render(CAMERA, STATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        avatar.render(CAMERA, STATE)
