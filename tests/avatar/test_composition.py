"""Any deformer with any encoder, decoder and renderer: built, rendered, differentiated, saved and loaded."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder, NeuSDecoder, RadianceHead
from headfields.deformers import (
    Blendfield,
    Chain,
    ErrorWarp,
    HyperDeformer,
    InverseSkinning,
    NearSurface,
    Static,
    SurfaceCanonicalizer,
    WeightFieldSkinning,
)
from headfields.deformers.skinning import SkinningRoots
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.encoders import Frequency, HashGrid, RegionGate, StaticFeatures, SurfaceFeatures, VertexFeatures
from headfields.losses.color import SquaredColor
from headfields.networks import Anchors
from headfields.networks.field_basis import BlendCoefficients
from headfields.parts import Deformer, Encoder, Renderer, Sampler
from headfields.records import Camera, Features, HeadState, PixelBatch, Template
from headfields.renderers import (
    CoarseToFineRenderer,
    HierarchicalSampler,
    OccupancySampler,
    SurfaceRenderer,
    SurfaceSampler,
    UniformSampler,
    VolumeRenderer,
)
from headfields.renderers.lighting import SHLighting
from tests.covering import covering
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
MOUTH = VERTICES[FACES].mean(dim=1)[:, 1] < 0
CAMERA = Camera(
    world_to_camera=torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]]),
    intrinsics=torch.tensor([[24.0, 0, 6], [0, 24, 6], [0, 0, 1]]),
    size=(12, 12),
)


def vertex_features(**options: Any) -> VertexFeatures:
    sizes = {"bands": 2, "hidden": 8, "layers": 2, "merged_layers": 1}
    return VertexFeatures(StaticFeatures(len(VERTICES), 4), **(sizes | options))


def warp() -> ErrorWarp:
    return ErrorWarp(BOX, frames=2, hidden=8, layers=2, head_layers=1, start=0, coarse_to_fine=0)


def anchors() -> Anchors:
    return Anchors(VERTICES[[1, 3, 5, 20, 22]], 2, global_width=4, local_width=2, hidden=6)


def hyper(ambient: int = 1) -> HyperDeformer:
    return HyperDeformer(anchors(), ambient, expression_width=3, identity_width=2, hidden=8, layers=2, skip=1)


WEIGHTS = torch.stack([VERTICES[:, 1] * 5 + 0.5, 0.5 - VERTICES[:, 1] * 5], dim=-1)


def skinning_weights() -> SkinningWeights:
    return SkinningWeights(VERTICES, FACES, WEIGHTS, cell=0.05)


def blendfield() -> Blendfield:
    options = {"levels": 2, "features": 2, "base_resolution": 2, "finest_resolution": 4}
    coefficients = BlendCoefficients({"expression": 3}, fields=2, hidden=8)
    torch.nn.init.normal_(coefficients.trunk[0].weight)  # it starts at zero, and biases have no gradient there
    made = Blendfield(BOX, coefficients, options=options)
    torch.nn.init.normal_(made.basis.table)
    return made


DEFORMERS = {
    "static": lambda: Static(BOX),
    "surface rigid": lambda: SurfaceCanonicalizer(VERTICES, FACES, blend_neighbors=False),
    "surface published": lambda: SurfaceCanonicalizer(VERTICES, FACES, scaling="length"),
    "surface released": lambda: SurfaceCanonicalizer(VERTICES, FACES, formula="released"),
    "chain": lambda: Chain(SurfaceCanonicalizer(VERTICES, FACES), Static(BOX)),
    "near surface, corrected": lambda: Chain(NearSurface(VERTICES, FACES), warp()),
    "hyper": lambda: hyper(),
    "skinning, blendfield": lambda: Chain(InverseSkinning(VERTICES, FACES, WEIGHTS), blendfield()),
    "skinning by a field": lambda: WeightFieldSkinning(skinning_weights()),
    "skinning roots": lambda: SkinningRoots(skinning_weights(), derivatives=2),
}
ENCODERS = {
    "hash grid": lambda: HashGrid(levels=3, features=2, log2_table_size=10, base_resolution=4, finest_resolution=32),
    "hash grid smooth": lambda: HashGrid(2, 4, 8, 4, 16, interpolation="smoothstep"),
    "frequency": lambda: Frequency(bands=4),
    "posed vertices": lambda: vertex_features(),
    "posed vertices, turning": lambda: vertex_features(frame="triangle", faces=FACES, rest_vertices=VERTICES),
    "canonical vertices": lambda: vertex_features(vertices=VERTICES, neighbors=2, merged_layers=0),
}
DECODERS = {
    "nerf": lambda: NeRFDecoder(hidden=16, density_bias=3.0),
    "nerf without directions": lambda: NeRFDecoder(hidden=16, direction_degree=0, density_bias=3.0),
    "radiance head": lambda: RadianceHead(hidden=8, density_bias=3.0),
    "neus": lambda: NeuSDecoder(hidden=16, geometry_width=4, radius=0.1),
}
SAMPLERS = {
    "uniform": lambda: UniformSampler(8),
    "hierarchical": lambda: HierarchicalSampler(4, 4),
    "occupancy canonical": lambda: OccupancySampler("canonical", resolution=8, step=0.01, refresh_points=256, warmup=0),
    "occupancy posed": lambda: OccupancySampler("posed", resolution=8, step=0.01, refresh_points=256, warmup=0),
    "surface": lambda: SurfaceSampler(4, 4, rounds=2),
}
CONDITIONS = {
    "none": lambda: None,
    "gate": lambda: RegionGate("expression", MOUTH, width=2),
    "surface features": lambda: SurfaceFeatures(StaticFeatures(len(VERTICES), 2), FACES),
}


def state(frames: int = 2) -> HeadState:
    shift = torch.linspace(0, 0.02, frames)[:, None, None]
    expression = torch.linspace(-1, 1, frames * 3).reshape(frames, 3)
    code = torch.linspace(-1, 1, frames * 16).reshape(frames, 16)
    codes = {"geometry": code, "appearance": code.flip(0), "expression_code": expression}
    joints = torch.eye(4).repeat(frames, 2, 1, 1)
    joints[..., :3, 3] = shift
    return HeadState(
        vertices=VERTICES + shift, expression=expression, joint_transforms=joints, codes=codes,
        frame_id=torch.arange(frames),
    )  # fmt: skip


def fits(deformer: str, decoder: str, sampler: str, condition: str) -> bool:
    if sampler == "surface" and decoder != "neus":
        return False
    return condition == "none" or deformer not in ("static", "near surface, corrected", "hyper")


def renderer(decoder: str, sampler: str) -> Renderer:
    made = SAMPLERS[sampler]()
    return SurfaceRenderer(made, lighting=SHLighting()) if decoder == "neus" else VolumeRenderer(made)


MATRIX = [
    combination
    for combination in itertools.product(DEFORMERS, ENCODERS, DECODERS, SAMPLERS, CONDITIONS)
    if fits(combination[0], *combination[2:])
]


# Each decoder meets each deformer, encoder and sampler, whose calls it shares; the rest is in the long run.
TESTED = covering(MATRIX, [(0, 2), (1, 2), (2, 3), (4,)])


@pytest.mark.parametrize(("deformer", "encoder", "decoder", "sampler", "condition"), TESTED)
def test_every_composition(
    deformer: str, encoder: str, decoder: str, sampler: str, condition: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    avatar = Avatar(
        DEFORMERS[deformer](), ENCODERS[encoder](), DECODERS[decoder](), renderer(decoder, sampler),
        condition=CONDITIONS[condition](), template=Template(VERTICES, FACES, {"mouth": MOUTH}),
    )  # fmt: skip
    rays = CAMERA.rays()
    frame = torch.arange(len(rays)) % 2
    rays = rays.replace(frame=frame)
    for step in range(2):
        avatar.update(state(), step)
    result = avatar(rays, state(), torch.ones(len(rays), 3))
    assert result.rgb.shape == (144, 3) and bool(result.rgb.isfinite().all())
    assert float(result.opacity.detach().max()) > 0.05, "nothing was hit"
    assert result.samples is not None and bool((result.samples.ray.diff() >= 0).all())
    (result.rgb.square().mean() + result.depth.mean()).backward()
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), f"{name} has no gradient"

    image = avatar.render(CAMERA, state()[1])
    with_graph = avatar.eval()(CAMERA.rays(), state()[1], torch.ones(144, 3))  # decodes twice, where render does once
    assert with_graph.rgb.requires_grad
    faint = 1e-2 if decoder == "neus" else 1e-6  # with a graph, samples of next to no weight keep their color
    torch.testing.assert_close(with_graph.rgb.view(12, 12, 3), image.rgb, atol=faint, rtol=0)
    avatar.save(tmp_path / "avatar.safetensors")
    again = Avatar.load(tmp_path / "avatar.safetensors").render(CAMERA, state()[1], chunk=50)
    assert image.rgb.shape == (12, 12, 3)
    torch.testing.assert_close(again.rgb, image.rgb, atol=1e-6, rtol=0)


def coarse_to_fine(deformer: str, encoder: str) -> Avatar:
    shared = ENCODERS[encoder]()
    renderer = CoarseToFineRenderer(shared, DECODERS["nerf"](), coarse=6, fine=5)
    return Avatar(DEFORMERS[deformer](), shared, DECODERS["nerf"](), renderer)


@pytest.mark.parametrize("deformer", ["static", "surface published"])
@pytest.mark.parametrize("encoder", ["hash grid", "frequency"])
def test_a_coarse_network_of_its_own(deformer: str, encoder: str, tmp_path: Path) -> None:
    """Both networks learn, each from its own image; the encoder that they share is one again when it is loaded."""
    torch.manual_seed(0)
    avatar, rays = coarse_to_fine(deformer, encoder), CAMERA.rays()
    result = avatar(rays, state(1), torch.ones(len(rays), 3))
    assert result.coarse is not None and result.coarse.rgb.shape == (144, 3)
    batch = PixelBatch(rays, torch.zeros(144, 3), torch.ones(144), torch.ones(144, 3))
    SquaredColor()(result.replace(coarse=None), batch, 0).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in avatar.renderer.decoder.parameters())
    SquaredColor()(result, batch, 0).backward()
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), f"{name} has no gradient"
    image = avatar.render(CAMERA, state(1))
    avatar.save(tmp_path / "avatar.safetensors")
    again = Avatar.load(tmp_path / "avatar.safetensors")
    assert again.renderer.encoder is again.encoder
    torch.testing.assert_close(again.render(CAMERA, state(1)).rgb, image.rgb, atol=1e-6, rtol=0)
    nothing = avatar(rays[:0], state(1), torch.ones(0, 3))
    assert nothing.rgb.shape == (0, 3) and nothing.coarse is not None


def test_a_coarse_network_that_reads_the_state() -> None:
    """Its decoder is prepared, and checked for what it needs, as the fine one is."""

    class Shifted(NeRFDecoder):
        needs = ("expression",)

        def prepare(self, state: HeadState) -> torch.Tensor:
            return state.expression.sum()

        def forward(self, features, canonical, prepared, color=True):  # type: ignore[no-untyped-def]
            return super().forward(features.replace(own=features.own + prepared), canonical, None, color)

    renderer = CoarseToFineRenderer(ENCODERS["frequency"](), Shifted(16), coarse=6, fine=5)
    avatar = Avatar(DEFORMERS["static"](), ENCODERS["frequency"](), DECODERS["nerf"](), renderer)
    rays = CAMERA.rays()
    first, second = (
        avatar(rays, state(1).replace(expression=torch.full((1, 2), value)), torch.ones(len(rays), 3)).coarse
        for value in (0.0, 0.5)
    )
    assert first is not None and second is not None and not torch.allclose(first.rgb, second.rgb)
    with pytest.raises(ValueError, match="Shifted needs 'expression'"):
        avatar.field(state(1).replace(expression=None))


def test_a_coarse_network_that_cannot_work(unchecked: None) -> None:
    with pytest.raises(TypeError, match="CoarseToFineRenderer: decoder is a HashGrid"):
        CoarseToFineRenderer(ENCODERS["hash grid"](), ENCODERS["hash grid"]())
    with pytest.raises(ValueError, match="fine is 0"):
        CoarseToFineRenderer(ENCODERS["hash grid"](), DECODERS["nerf"](), fine=0)
    gate = RegionGate("expression", MOUTH, width=2)
    with pytest.raises(ValueError, match="RegionGate reads the nearest triangle"):
        Avatar(Static(BOX), ENCODERS["frequency"](), DECODERS["nerf"](), CoarseToFineRenderer(gate, DECODERS["nerf"]()))


def test_features_that_points_share_are_taken_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that takes the condition as rows and indices gives what it gives for the joined features."""
    torch.manual_seed(0)
    avatar = Avatar(DEFORMERS["surface published"](), ENCODERS["hash grid"](), DECODERS["nerf"](),
                    VolumeRenderer(SAMPLERS["uniform"]()), condition=CONDITIONS["gate"]())  # fmt: skip
    count = 200
    field, points = avatar.field(state()), VERTICES[torch.arange(count) % len(VERTICES)]
    canonical = field.canonicalize(points, torch.nn.functional.normalize(points, dim=-1), torch.arange(count) % 2)
    features = torch.cat([encoder(canonical, prepared) for encoder, prepared in field._encoders], dim=-1)
    wanted = avatar.decoder(Features(features), canonical, None)
    given = []
    monkeypatch.setattr(NeRFDecoder, "forward", lambda *a, f=NeRFDecoder.forward: (given.append(a[1]), f(*a))[1])
    found = field.decode(canonical)
    assert len(given) == 1 and given[0].shared.shape == (3, 2) and given[0].index.shape == (count,)
    torch.testing.assert_close(given[0].joined(), features)
    torch.testing.assert_close(found.density, wanted.density)
    torch.testing.assert_close(found.rgb, wanted.rgb)


def test_no_rays_and_no_hits() -> None:
    avatar = Avatar(DEFORMERS["surface published"](), ENCODERS["hash grid"](), DECODERS["nerf"](),
                    VolumeRenderer(SAMPLERS["occupancy canonical"]()))  # fmt: skip
    rays = CAMERA.rays()
    none = avatar(rays[:0], state(), torch.ones(0, 3))
    assert none.rgb.shape == (0, 3)
    away = rays.replace(directions=-rays.directions)
    missed = avatar(away, state(), torch.full((144, 3), 0.25))
    torch.testing.assert_close(missed.rgb, torch.full((144, 3), 0.25))
    (none.rgb.sum() + missed.rgb.sum()).backward()


def test_what_cannot_work_fails_when_it_is_built() -> None:
    parts = DEFORMERS["static"](), ENCODERS["hash grid"](), DECODERS["nerf"](), VolumeRenderer(UniformSampler(4))
    with pytest.raises(ValueError, match="RegionGate reads the nearest triangle, which Static does not give"):
        Avatar(*parts, condition=RegionGate("expression", MOUTH, 2))

    class Distances(NeRFDecoder):
        gives = "distance"

    with pytest.raises(ValueError, match="Distances gives distance, and VolumeRenderer takes density"):
        Avatar(*parts[:2], Distances(), parts[3])


def test_wrong_nouns_and_missing_fields(unchecked: None) -> None:
    with pytest.raises(TypeError, match="deformer is a HashGrid"):
        Avatar(ENCODERS["hash grid"](), ENCODERS["hash grid"](), DECODERS["nerf"](), VolumeRenderer(UniformSampler(4)))
    with pytest.raises(TypeError, match="sampler is a NeRFDecoder"):
        VolumeRenderer(DECODERS["nerf"]())
    avatar = Avatar(DEFORMERS["surface rigid"](), ENCODERS["hash grid"](), DECODERS["nerf"](),
                    VolumeRenderer(UniformSampler(4)), condition=RegionGate("expression", MOUTH, 2))  # fmt: skip
    with pytest.raises(ValueError, match="RegionGate needs 'expression'"):
        avatar.render(CAMERA, HeadState(vertices=VERTICES[None]))


def test_a_users_own_part_is_saved_and_found_again(tmp_path: Path) -> None:
    class Mirror(Deformer):
        def __init__(self, box: torch.Tensor) -> None:
            super().__init__()
            self.inner = Static(box)

        def bounds(self) -> torch.Tensor:
            return self.inner.bounds()

        def posed_bounds(self, prepared: None) -> torch.Tensor:
            return self.inner.bounds()

        def near_far(self, rays, prepared):  # type: ignore[no-untyped-def]
            return self.inner.near_far(rays, prepared)

        def forward(self, points, directions, frame, prepared):  # type: ignore[no-untyped-def]
            flip = torch.tensor([-1.0, 1, 1])
            return self.inner(points * flip, directions * flip, frame, prepared)

    avatar = Avatar(Mirror(BOX), ENCODERS["hash grid"](), DECODERS["nerf"](), VolumeRenderer(UniformSampler(8)))
    avatar.preview = (CAMERA, state()[0])
    avatar.save(tmp_path / "mirror.safetensors")
    again = Avatar.load(tmp_path / "mirror.safetensors")
    assert isinstance(again.deformer, Mirror) and again.preview is not None
    torch.testing.assert_close(again.render(*again.preview).rgb, avatar.render(CAMERA, state()[0]).rgb)


def test_files_that_are_no_avatars(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        Avatar.load(tmp_path / "absent")
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(ValueError, match="text"):
        Avatar.load(tmp_path / "text")


def test_training_mode_and_global_state_survive_render() -> None:
    sampler: Sampler = UniformSampler(4)
    encoder: Encoder = ENCODERS["frequency"]()
    avatar = Avatar(Static(BOX), encoder, DECODERS["nerf"](), VolumeRenderer(sampler))
    avatar.train()
    avatar.render(CAMERA, state()[0])
    assert avatar.training and torch.is_grad_enabled()


def test_roots_with_distances_say_how_they_are_trained(unchecked: None) -> None:
    def gradient(derivatives: int) -> torch.Tensor:
        made = SkinningRoots(skinning_weights(), derivatives=derivatives)
        avatar = Avatar(made, ENCODERS["frequency"](), DECODERS["neus"](), renderer("neus", "uniform"))
        image = avatar(CAMERA.rays(), state(1), torch.ones(144, 3))
        (image.rgb.mean() + (image.gradient.norm(dim=-1) - 1).square().mean()).backward()
        return made.field.logits_table.grad

    with pytest.raises(NotImplementedError, match=r"SkinningRoots needs SkinningRoots\(..., derivatives=2\)"):
        gradient(1)
    assert bool(gradient(2).isfinite().all()) and bool(gradient(2).any())


@pytest.mark.parametrize("given", ["none", "one", "several"])
def test_arguments_are_read_back_under_their_names(given: str) -> None:
    gates = [RegionGate("expression", MOUTH, 2), Frequency(bands=2)]
    condition = {"none": None, "one": gates[0], "several": gates}[given]
    parts = {
        "deformer": DEFORMERS["surface rigid"](), "encoder": ENCODERS["hash grid"](), "decoder": DECODERS["nerf"](),
        "renderer": VolumeRenderer(UniformSampler(4)), "condition": condition, "template": None, "codes": None,
    }  # fmt: skip
    avatar = Avatar(**parts)
    assert not avatar.codes and all(getattr(avatar, name) == parts[name] for name in parts if name != "codes")
    again = Avatar(**{name: getattr(avatar, name) for name in parts if name != "codes"})
    assert again.condition == condition
