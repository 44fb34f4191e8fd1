"""Samplers and the volume renderer on fields that are known exactly."""

import math

import pytest
import torch
from torch import Tensor

from headfields.deformers import Static
from headfields.parts import Sampler
from headfields.records import Canonical, FieldValues, HeadState, Rays
from headfields.renderers import (
    HierarchicalSampler,
    OccupancySampler,
    SurfaceSampler,
    UniformSampler,
    VolumeRenderer,
)
from tests.formula_field import FormulaField
from tests.tables import table

BOX = torch.tensor([[-0.2, -0.2, -0.2], [0.2, 0.2, 0.2]])
SAMPLERS = {
    "uniform": lambda: UniformSampler(32),
    "hierarchical": lambda: HierarchicalSampler(16, 16),
    "occupancy canonical": lambda: OccupancySampler("canonical", resolution=16, step=0.01),
    "occupancy posed": lambda: OccupancySampler("posed", resolution=16, step=0.01),
}


class Ball(FormulaField):
    """A field with matter of one density in a ball, seen through a static deformer; it counts what it is asked for."""

    def __init__(self, density: float = 200.0, radius: float = 0.1, box: Tensor = BOX) -> None:
        self.deformer = Static(box)
        self.level, self.radius = density, radius
        self.state = HeadState(torch.zeros(1, 1, 3))
        self.colors = 0

    def near_far(self, rays: Rays) -> tuple[Tensor, Tensor]:
        return self.deformer.near_far(rays, None)

    def posed_bounds(self) -> Tensor:
        return self.deformer.bounds()

    def canonicalize(self, points: Tensor, directions: Tensor, frame: Tensor) -> Canonical:
        return self.deformer(points, directions, frame, None)

    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        density = self.level * (canonical.points.norm(dim=-1) < self.radius).float()
        self.colors += len(canonical) if color else 0
        return FieldValues(density=density, rgb=0.5 + canonical.points if color else None)

    def density(self, canonical: Canonical) -> Tensor:
        return self.decode(canonical, color=False).density

    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        return self.decode(canonical)


def rays(count: int = 64) -> Rays:
    """Parallel rays along +x, some of which miss the ball and some the box."""
    generator = torch.Generator().manual_seed(0)
    origins = torch.cat([torch.full((count, 1), -1.0), torch.rand(count, 2, generator=generator) * 0.5 - 0.25], dim=1)
    directions = torch.tensor([[1.0, 0, 0]]).repeat(count, 1)
    return Rays(origins, directions, torch.zeros(count, dtype=torch.long))


@table("name", SAMPLERS)
@table("training", [True, False])
def test_samples_lie_between_near_and_far(name: str, training: bool) -> None:
    torch.manual_seed(0)
    sampler, field, seen = SAMPLERS[name](), Ball(), rays()
    sampler.build(BOX)
    sampler.train(training)
    near, far = field.near_far(seen)
    samples, canonical = sampler(seen, field)
    assert len(samples) == len(canonical) > 0
    assert bool((samples.start >= near[samples.ray] - 1e-6).all())
    assert bool((samples.end <= far[samples.ray] + 1e-6).all())
    assert bool((samples.end > samples.start).all())
    assert bool((samples.ray.diff() >= 0).all())
    following = samples.ray[1:] == samples.ray[:-1]
    assert bool((samples.start[1:] >= samples.end[:-1] - 1e-6)[following].all()), "intervals overlap"
    middle = seen.origins[samples.ray] + samples.middle[:, None] * seen.directions[samples.ray]
    torch.testing.assert_close(canonical.posed_points, middle)
    missing = (near >= far).nonzero()[:, 0]
    assert len(missing) and not bool(torch.isin(samples.ray, missing).any())


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_rays(name: str) -> None:
    sampler = SAMPLERS[name]()
    sampler.build(BOX)
    samples, canonical = sampler(rays()[:0], Ball())
    assert len(samples) == len(canonical) == 0


def test_evaluation_is_even_and_training_is_not() -> None:
    sampler = UniformSampler(8)
    one = rays()[:1].replace(origins=torch.tensor([[-1.0, 0, 0]]))
    samples, _ = sampler.eval()(one, Ball())
    torch.testing.assert_close(samples.start, 0.8 + 0.05 * torch.arange(8), atol=1e-6, rtol=0)
    torch.manual_seed(0)
    jittered, _ = sampler.train()(one, Ball())
    assert not torch.allclose(jittered.start, samples.start)
    torch.testing.assert_close((jittered.end - jittered.start).sum(), torch.tensor(0.4))


def test_hierarchical_samples_gather_where_the_weight_is() -> None:
    field = Ball(radius=0.05)
    through = rays()[:1].replace(origins=torch.tensor([[-1.0, 0, 0]]))
    samples, _ = HierarchicalSampler(16, 32).eval()(through, field)
    # The front 2.5 cm (one coarse interval is 2.5 cm) of the ball's 0.4 m of box hold nearly all the weight.
    front = (samples.middle > 0.94) & (samples.middle < 0.99)
    assert int(front.sum()) > 0.5 * len(samples)
    assert float((samples.end - samples.start)[front].max()) < 0.4 / 16 + 1e-6


@pytest.mark.parametrize("space", ["canonical", "posed"])
def test_an_occupancy_sampler_learns_to_skip_empty_space(space: str) -> None:
    torch.manual_seed(0)
    sampler = OccupancySampler(space, resolution=16, step=0.01, refresh_points=1 << 15, warmup=2)
    sampler.build(BOX)
    sampler.eval()
    field, seen = Ball(), rays(256)
    before, _ = sampler(seen, field)
    sampler.update(field, 0)
    assert len(sampler(seen, field)[0]) == len(before), "nothing is culled before the warm-up's end"
    sampler.update(field, 2)
    samples, canonical = sampler(seen, field)
    assert len(samples) < 0.3 * len(before)
    # What is left out is empty, but for cells so little of which the ball fills that no random point has met it.
    inside = int((canonical.points.norm(dim=-1) < 0.1).sum())
    everything = seen.origins[before.ray] + before.middle[:, None] * seen.directions[before.ray]
    matter = int((everything.norm(dim=-1) < 0.1).sum())
    assert 0.97 * matter <= inside <= matter


def test_the_posed_grid_follows_a_box_that_grows() -> None:
    torch.manual_seed(0)
    sampler = OccupancySampler("posed", resolution=16, step=0.01, refresh_points=1 << 15, warmup=0)
    sampler.build(BOX)
    sampler.update(Ball(), 0)
    assert not bool(sampler.grid.occupied.all())
    wide = Ball(radius=0.35, box=2 * BOX)
    sampler.update(wide, 16)
    assert bool((sampler.grid.box[0] <= wide.posed_bounds()[0]).all())
    assert bool((sampler.grid.box[1] >= wide.posed_bounds()[1]).all())
    assert bool(sampler.grid.lookup(torch.tensor([[0.3, 0, 0], [0, -0.3, 0], [0, 0, 0]])).all())
    assert not bool(sampler.grid.lookup(torch.tensor([[0.3, 0.3, 0.3]])))
    box = sampler.grid.box.clone()
    sampler.update(Ball(), 32)
    assert bool((sampler.grid.box == box).all()), "a narrower frame does not take the box back"


def test_updates_are_due_every_so_often() -> None:
    sampler = OccupancySampler(refresh_every=4)
    assert [step for step in range(9) if sampler.due(step)] == [0, 4, 8]
    assert not UniformSampler(4).due(0)


def test_too_many_samples_is_an_error_that_names_the_budget() -> None:
    sampler = OccupancySampler("posed", step=0.001, budget=100)
    sampler.build(BOX)
    with pytest.raises(ValueError, match="more than budget = 100"):
        sampler(rays(), Ball())


@pytest.mark.parametrize("name", SAMPLERS)
def test_early_stop_changes_the_image_little_and_asks_less(name: str) -> None:
    sampler = SAMPLERS[name]()
    sampler.build(BOX)
    seen, background = rays(), torch.zeros(64, 3)
    images, asked = [], []
    for threshold in (0.0, 1e-4):
        field = Ball(density=300.0)
        images.append(VolumeRenderer(sampler, early_stop=threshold).eval()(seen, field, background))
        asked.append(field.colors)
    assert float(images[0].opacity.max()) > 0.99
    for part in ("rgb", "opacity", "depth"):
        torch.testing.assert_close(getattr(images[1], part), getattr(images[0], part), atol=1e-3, rtol=0)
    assert asked[1] < 0.5 * asked[0]


def test_early_stop_keeps_thin_samples_in_training() -> None:
    """In training only what lies behind opaque matter goes: a thin field must keep all its gradients."""
    field = Ball(density=1e-4)
    sampler = UniformSampler(16)
    seen, background = rays(), torch.zeros(64, 3)
    result = VolumeRenderer(sampler, early_stop=1e-2).train()(seen, field, background)
    near, far = field.near_far(seen)
    assert result.samples is not None and len(result.samples) == 16 * int((near < far).sum())


def test_opacity_is_that_of_the_integral() -> None:
    """Beer and Lambert: 1 - exp(-density * chord)."""
    field = Ball(density=10.0)
    through = rays()[:3].replace(origins=torch.tensor([[-1.0, 0, 0], [-1, 0.06, 0], [-1, 0, 0.15]]))
    background = torch.tensor([[0.0, 0.5, 1.0]]).repeat(3, 1)
    result = VolumeRenderer(UniformSampler(2000)).eval()(through, field, background)
    expected = torch.tensor([1 - math.exp(-10 * chord) for chord in (0.2, 0.16, 0.0)])
    torch.testing.assert_close(result.opacity, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(result.rgb[2], background[2])


def test_the_renderer_tells_the_sampler_what_it_saw_in_training_only() -> None:
    class Listening(UniformSampler):
        seen = 0

        def observe(self, canonical: Canonical, density: Tensor) -> None:
            assert len(canonical) == len(density) and not density.requires_grad
            self.seen += len(canonical)

    for threshold in (0.0, 1e-4):
        sampler: Sampler = Listening(4)
        renderer = VolumeRenderer(sampler, early_stop=threshold)
        renderer.eval()(rays(), Ball(), torch.zeros(64, 3))
        assert sampler.seen == 0
        renderer.train()(rays(), Ball(), torch.zeros(64, 3))
        assert sampler.seen > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformSampler(0), "count is 0"),
        (lambda: HierarchicalSampler(4, 0), "fine 0"),
        (lambda: OccupancySampler(step=0.0), "step 0.0"),
        (lambda: VolumeRenderer(UniformSampler(1), early_stop=1.0), "early_stop is 1.0"),
    ],
)
def test_bad_arguments_are_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_grid_space(unchecked: None) -> None:
    with pytest.raises(ValueError, match="grid is 'world'"):
        OccupancySampler("world")  # type: ignore[arg-type]


def test_a_head_that_leaves_the_posed_grid_is_rendered_all_the_same() -> None:
    from headfields.avatar.avatar import Avatar
    from headfields.decoders import NeRFDecoder
    from headfields.deformers import SurfaceCanonicalizer
    from headfields.encoders import Frequency
    from headfields.records import Camera, HeadState
    from headfields.renderers import OccupancySampler, VolumeRenderer
    from tests.shapes import uv_sphere

    torch.manual_seed(0)
    vertices, faces = uv_sphere(8, 12, radius=0.1)
    avatar = Avatar(
        SurfaceCanonicalizer(vertices, faces), Frequency(bands=3), NeRFDecoder(hidden=16, density_bias=4.0),
        VolumeRenderer(OccupancySampler("posed", resolution=8, step=0.01, refresh_points=512, warmup=0)),
    )  # fmt: skip
    avatar.update(HeadState(vertices=vertices[None]), 0)
    avatar.update(HeadState(vertices=vertices[None]), 16)
    shift = torch.tensor([1.0, 0, 0])
    pose = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]])
    away = pose.clone()
    away[:3, 3] -= pose[:3, :3] @ shift
    intrinsics = torch.tensor([[24.0, 0, 6], [0, 24, 6], [0, 0, 1]])
    here = avatar.render(Camera(pose, intrinsics, (12, 12)), HeadState(vertices=vertices[None]))
    there = avatar.render(Camera(away, intrinsics, (12, 12)), HeadState(vertices=vertices[None] + shift))
    assert float(here.opacity.max()) > 0.3
    torch.testing.assert_close(there.rgb, here.rgb, atol=2e-2, rtol=0)


# ---------------------------------------------------------------- rays without an interval

MISSES = [
    (torch.inf, -torch.inf), (1.0, 1.0), (1.3, 0.7), (torch.nan, torch.nan), (0.7, torch.nan), (torch.nan, 1.3),
    (-torch.inf, torch.inf), (0.7, torch.inf), (-torch.inf, 1.3), (torch.inf, torch.inf), (0.0, 0.0),
]  # fmt: skip


class Missed(Ball):
    """The ball, where some rays have no interval to sample, in every way to say so."""

    gives = "density"

    def near_far(self, rays: Rays) -> tuple[Tensor, Tensor]:
        near, far = torch.full((len(rays),), 0.7), torch.full((len(rays),), 1.3)
        for row, (low, high) in enumerate(MISSES[: len(rays)]):
            near[row], far[row] = low, high
        return near, far

    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        values = super().decode(canonical, color)
        return values.replace(distance=canonical.points.norm(dim=-1) - self.radius)


@table("training", [True, False])
@table("hits", [0, 5])
@table("name", [*SAMPLERS, "surface", "surface, one round"])
def test_rays_without_an_interval_get_no_samples(name: str, hits: int, training: bool) -> None:
    made = SAMPLERS | {
        "surface": lambda: SurfaceSampler(8, 8, rounds=2),
        "surface, one round": lambda: SurfaceSampler(8, 8, rounds=1, keep_coarse=False),
    }
    sampler = made[name]().train(training)
    sampler.build(BOX)
    across = Rays(
        torch.tensor([-1.0, 0.0, 0.0]).repeat(len(MISSES) + hits, 1),
        torch.tensor([1.0, 0.0, 0.0]).repeat(len(MISSES) + hits, 1),
        torch.zeros(len(MISSES) + hits, dtype=torch.long),
    )
    samples, canonical = sampler(across, Missed())
    assert len(samples) == len(canonical) and (len(samples) > 0) == (hits > 0)
    assert bool((samples.ray >= len(MISSES)).all()) and bool(samples.ray.diff().ge(0).all())
    for values in (samples.start, samples.end, canonical.points):
        assert bool(values.isfinite().all())
    samples, canonical = sampler(across[:0], Missed())
    assert len(samples) == len(canonical) == 0


@pytest.mark.parametrize("training", [True, False])
def test_an_image_of_rays_without_an_interval_is_the_background(training: bool) -> None:
    for name, make in SAMPLERS.items():
        renderer = VolumeRenderer(make()).train(training)
        renderer.build(BOX)
        count = len(MISSES)
        across = Rays(torch.zeros(count, 3), torch.eye(3)[:1].repeat(count, 1), torch.zeros(count, dtype=torch.long))
        image = renderer(across, Missed(), torch.full((count, 3), 0.25))
        assert bool((image.rgb == 0.25).all()) and bool((image.opacity == 0).all()), name
        assert bool((image.depth == 0).all()), name
