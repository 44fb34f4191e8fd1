"""Rendering of distances: a ball's image, normals and depth, samplers, schedules, and gradients to everything."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import normalize

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeuSDecoder
from headfields.deformers import Static
from headfields.encoders import HashGrid
from headfields.losses.silhouette import SoftJaccard
from headfields.losses.surface import Eikonal
from headfields.records import Camera, HeadState, PixelBatch, Rays
from headfields.renderers import (
    HierarchicalSampler,
    LearnedSharpness,
    NeuSAlpha,
    OccupancySampler,
    ScheduledSharpness,
    SurfaceRenderer,
    SurfaceSampler,
    UnclampedAlpha,
    UniformSampler,
    VolSDFDensity,
    VolumeRenderer,
)
from headfields.renderers.lighting import ColorAffine, Shading, SHLighting
from headfields.renderers.surface_alpha import SurfaceAlpha
from headfields.viz import normal_map
from tests.covering import covering

BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
STATE = HeadState(torch.zeros(1, 0, 3))
CAMERA = Camera(
    world_to_camera=torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]]),
    intrinsics=torch.tensor([[40.0, 0, 10], [0, 40, 10], [0, 0, 1]]),
    size=(20, 20),
)
MONONPHM = {"coarse": 32, "fine": 32, "rounds": 1, "sharpness": 4 * math.exp(3), "keep_coarse": False}
SAMPLERS = {
    "uniform": lambda: UniformSampler(96),
    "hierarchical": lambda: HierarchicalSampler(32, 48),
    "occupancy": lambda: OccupancySampler("canonical", resolution=16, step=0.004, refresh_points=2048, warmup=0),
    "neus": lambda: SurfaceSampler(24, 24, rounds=4),
    "mononphm": lambda: SurfaceSampler(**MONONPHM),
}


def sharp(value: float = 1000.0) -> ScheduledSharpness:
    return ScheduledSharpness(value, value)


ALPHAS = {
    "neus": lambda: NeuSAlpha(sharp()), "unclamped": lambda: UnclampedAlpha(sharp()),
    "volsdf": lambda: VolSDFDensity(sharp()),
}  # fmt: skip


def ball(sampler: str = "neus", alpha: SurfaceAlpha | None = None, lighting: object = None) -> Avatar:
    """A ball of 10 cm, more or less, with a color."""
    torch.manual_seed(0)
    renderer = SurfaceRenderer(SAMPLERS[sampler](), alpha, lighting)  # type: ignore[arg-type]
    grid = HashGrid(levels=3, log2_table_size=10, base_resolution=4, finest_resolution=16)
    avatar = Avatar(Static(BOX), grid, NeuSDecoder(hidden=32, geometry_width=4, radius=0.1), renderer)
    for step in (0, 16):
        avatar.update(STATE, step)
    return avatar


@pytest.mark.parametrize(("sampler", "alpha"), covering(list(itertools.product(SAMPLERS, ALPHAS)), [(0,), (1,)]))
def test_the_image_of_a_ball(sampler: str, alpha: str) -> None:
    image = ball(sampler, ALPHAS[alpha]()).render(CAMERA, STATE)
    rays = CAMERA.rays()
    along = -(rays.origins * rays.directions).sum(-1)
    closest = (rays.origins + along[:, None] * rays.directions).norm(dim=-1)
    inside, outside = closest < 0.085, closest > 0.115
    opacity = image.opacity.flatten()
    assert inside.sum() > 60 and float(opacity[inside].min()) > 0.95 and float(opacity[outside].max()) < 0.05
    front = along - (0.01 - closest.square()).clamp_min(0).sqrt()
    assert float((image.depth.flatten() - front)[inside].abs().max()) < 0.012
    assert image.normal is not None
    wanted = normalize(rays.origins + front[:, None] * rays.directions, dim=-1)
    found = normalize(image.normal.view(-1, 3), dim=-1)
    assert float((found * wanted).sum(-1)[inside].mean()) > 0.98


def test_normals_as_colors() -> None:
    camera = CAMERA
    image = ball().render(camera, STATE)
    colors = normal_map(image, camera)
    assert colors.shape == (20, 20, 3)
    torch.testing.assert_close(colors[0, 0], torch.ones(3))  # nothing there
    assert float(colors[10, 10, 2]) > 0.9 and float(colors[10, 15, 0]) > 0.7 and float(colors[5, 10, 1]) > 0.7
    with pytest.raises(ValueError, match="normal_map: the rendering has no normals"):
        normal_map(image.replace(normal=None), camera)


def test_evaluation_with_gradients_is_the_same_image() -> None:
    avatar = ball(lighting=[SHLighting(), ColorAffine()]).eval()
    seen = avatar(CAMERA.rays(), STATE, torch.ones(400, 3))
    assert seen.rgb.requires_grad and seen.canonical is None
    image = avatar.render(CAMERA, STATE)
    torch.testing.assert_close(seen.rgb.view(20, 20, 3), image.rgb, atol=5e-3, rtol=0)  # early stop
    torch.testing.assert_close(seen.normal.view(20, 20, 3), image.normal, atol=1e-5, rtol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_early_stop_leaves_out_what_cannot_be_seen(alpha: str) -> None:
    avatar, rays = ball("uniform", ALPHAS[alpha]()), CAMERA.rays()
    avatar.renderer.sampler.eval()
    images = []
    for limit in (0.0, 1e-4):
        avatar.renderer.early_stop = limit
        images.append(avatar(rays, STATE, torch.zeros(400, 3)))
    for name in ("rgb", "opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(images[1], name), getattr(images[0], name), atol=1e-3, rtol=0)
    assert len(images[1].samples) < 0.8 * len(images[0].samples)


@pytest.mark.parametrize("alpha", [LearnedSharpness, ScheduledSharpness])
def test_everything_trains(alpha: type) -> None:
    """Rays, state, light, sharpness, both networks and the table, through color and the eikonal loss."""
    avatar = ball(alpha=NeuSAlpha(alpha(), anneal_steps=10), lighting=[SHLighting(), ColorAffine()]).train()
    rays = CAMERA.rays()
    rays = rays.replace(origins=rays.origins.requires_grad_(), directions=rays.directions.requires_grad_())
    result = avatar(rays, STATE, torch.ones(400, 3))
    assert result.canonical is not None and result.field is not None and len(result.gradient) == len(result.samples)
    batch = PixelBatch(rays, torch.zeros(400, 3), torch.ones(400), torch.ones(400, 3))
    eikonal = Eikonal(elsewhere=50)(result, batch, 0)
    for loss in (eikonal, result.rgb.sum() + SoftJaccard()(result, batch, 0)):
        avatar.zero_grad()
        loss.backward(retain_graph=True)
        for name, parameter in avatar.named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.any())
            shape = name.startswith(("encoder", "decoder.distance_network"))
            if loss is not eikonal or (shape and not name.endswith(f"{avatar.decoder.layers}.bias")):
                assert reached and bool(parameter.grad.isfinite().all()), name
    assert rays.origins.grad.any() and rays.directions.grad.any()


def test_no_rays_and_no_hits() -> None:
    for name in SAMPLERS:
        avatar, rays = ball(name).train(), CAMERA.rays()
        nothing = avatar(rays[:0], STATE, torch.ones(0, 3))
        missed = avatar(rays.replace(directions=-rays.directions), STATE, torch.full((400, 3), 0.25))
        torch.testing.assert_close(missed.rgb, torch.full((400, 3), 0.25))
        assert nothing.rgb.shape == (0, 3) and nothing.normal.shape == (0, 3)
        (nothing.rgb.sum() + missed.rgb.sum() + missed.normal.sum()).backward()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_samples_gather_at_the_surface(keep: bool, training: bool) -> None:
    avatar = ball()
    sampler = SurfaceSampler(16, 16, rounds=4 if keep else 2, keep_coarse=keep).train(training)
    rays = CAMERA.rays()[200:220]
    samples, canonical = sampler(rays, avatar.field(STATE))
    near, far = avatar.field(STATE).near_far(rays)
    hits = int((near < far).sum())
    assert len(samples) == len(canonical) == hits * (32 if keep else 16)
    assert bool((samples.ray.diff() >= 0).all()) and bool((samples.end >= samples.start).all())
    assert bool((samples.start >= near[samples.ray] - 1e-6).all() & (samples.end <= far[samples.ray] + 1e-6).all())
    same = samples.ray.diff() == 0
    torch.testing.assert_close(samples.start[1:][same], samples.end[:-1][same])
    middle = samples.ray == int(samples.ray[len(samples) // 2])
    distance = canonical.points[middle].norm(dim=-1) - 0.1
    front = (samples.middle[middle] < 0.62) & (distance.abs() < 0.01)
    assert int(front.sum()) >= (12 if keep else 8), "few samples are near the surface in front"


def test_a_deformer_without_an_answer_leaves_no_sample() -> None:
    """Where the beginning of each ray is invalid, nothing is found there, and what follows is."""

    class Cut(Static):
        def forward(self, points, directions, frame, prepared):  # type: ignore[no-untyped-def]
            made = super().forward(points, directions, frame, prepared)
            return made.replace(valid=made.valid & (points[:, 2] < 0.12))

    torch.manual_seed(0)
    avatar = Avatar(Cut(BOX), HashGrid(2, 2, 8, 4, 8), NeuSDecoder(radius=0.1), SurfaceRenderer(SurfaceSampler(16, 16)))
    samples, canonical = avatar.renderer.sampler(CAMERA.rays(), avatar.field(STATE))
    assert len(samples) > 0 and bool((canonical.points[:, 2] < 0.12).all())
    assert float(avatar.render(CAMERA, STATE).depth[10, 10]) == pytest.approx(0.5, abs=0.01)


def test_schedules() -> None:
    schedule = ScheduledSharpness()
    given = []
    for step in (0, 24, 25, 50, 75, 100, 10**6):
        schedule.at_step(step)
        given.append(math.log(float(schedule()) / 4))
    assert given == pytest.approx([3, 3, 4.5, 6, 7.5, 8, 8])
    assert LearnedSharpness(80.0)().item() == pytest.approx(80.0)
    alpha = NeuSAlpha(anneal_steps=100)
    assert float(alpha.anneal) == 0
    alpha.at_step(50)
    assert float(alpha.anneal) == 0.5
    alpha.at_step(1000)
    assert float(alpha.anneal) == 1 and float(NeuSAlpha().anneal) == 1


def test_a_saved_avatar_keeps_its_schedule(tmp_path) -> None:  # type: ignore[no-untyped-def]
    avatar = ball(alpha=UnclampedAlpha(), lighting=ColorAffine())
    avatar.update(STATE, 60)
    avatar.save(tmp_path / "ball.safetensors")
    again = Avatar.load(tmp_path / "ball.safetensors")
    assert float(again.renderer.alpha.sharpness()) == pytest.approx(4 * math.exp(6))
    torch.testing.assert_close(again.render(CAMERA, STATE).rgb, avatar.render(CAMERA, STATE).rgb)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_densities_for_samplers_are_what_a_ray_straight_in_meets(alpha: str) -> None:
    """1 - exp(-density · length) of a short interval is its opacity."""
    made = ALPHAS[alpha]()
    distance, length = torch.linspace(-0.002, 0.02, 50), torch.full((50,), 1e-5)
    opacity = made(distance, torch.full((50,), -1.0), length)
    floor = 2e-5 if alpha == "unclamped" else 1e-6
    torch.testing.assert_close(-torch.expm1(-made.density(distance) * length), opacity, atol=floor, rtol=2e-2)


def test_wrong_parts_are_named(unchecked: None) -> None:
    with pytest.raises(TypeError, match="SurfaceRenderer: sampler is a NeuSAlpha"):
        SurfaceRenderer(NeuSAlpha())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lighting is a NeuSAlpha"):
        SurfaceRenderer(UniformSampler(4), lighting=[NeuSAlpha()])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="VolSDFDensity: sharpness is a float"):
        VolSDFDensity(3.0)  # type: ignore[arg-type]
    for make, message in (
        (lambda: SurfaceRenderer(UniformSampler(4), early_stop=1.0), "early_stop is 1.0"),
        (lambda: SurfaceSampler(8, 9, rounds=2), "fine 9 and rounds 2"),
        (lambda: SurfaceSampler(sharpness=0.0), "sharpness is 0.0"),
        (lambda: LearnedSharpness(0.0), "initial is 0.0"),
        (lambda: ScheduledSharpness(2.0, 1.0), "initial=2.0, final=1.0"),
        (lambda: NeuSAlpha(anneal_steps=-1), "anneal_steps is -1"),
        (lambda: UnclampedAlpha(epsilon=0.0), "epsilon is 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_density_is_not_rendered_as_a_surface() -> None:
    with pytest.raises(ValueError, match="NeuSDecoder gives distance, and VolumeRenderer takes density"):
        Avatar(Static(BOX), HashGrid(2, 2, 8, 4, 8), NeuSDecoder(), VolumeRenderer(UniformSampler(4)))


def test_a_shading_of_ones_own() -> None:
    class Gray(Shading):
        def forward(self, rgb, normals, ray, rays):  # type: ignore[no-untyped-def]
            assert len(rgb) == len(normals) == len(ray) and isinstance(rays, Rays)
            return rgb.mean(dim=-1, keepdim=True).expand(-1, 3)

    image = ball(lighting=Gray()).render(CAMERA, STATE)
    torch.testing.assert_close(image.rgb[..., 0], image.rgb[..., 2])
