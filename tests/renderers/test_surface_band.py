"""Samples near a known surface: the image they give, how few they are, and what becomes of rays without a surface."""

import math

import pytest
import torch

from headfields.mesh import extract
from headfields.ops import TriangleBVH
from headfields.records import Rays
from headfields.renderers import NeuSAlpha, SurfaceBandSampler, SurfaceSampler
from tests.renderers.test_surface import CAMERA, MONONPHM, STATE, ball, sharp
from tests.shapes import uv_sphere


def sphere(radius: float = 0.1, forward: float = 0.0, inward: bool = False) -> TriangleBVH:
    vertices, faces = uv_sphere(24, 32, radius)
    return TriangleBVH(faces.flip(1) if inward else faces, vertices + torch.tensor([0.0, 0.0, forward]))


def band(surface: TriangleBVH | None) -> SurfaceBandSampler:
    near = SurfaceSampler(**MONONPHM | {"coarse": 8, "fine": 8, "sharpness": 4 * math.exp(5)})  # type: ignore[arg-type]
    sampler = SurfaceBandSampler(SurfaceSampler(**MONONPHM), near)  # type: ignore[arg-type]
    sampler.surface = surface
    return sampler.eval()


def aimed(points: list[list[float]]) -> Rays:
    """Rays along -z through points (x, y) half a meter before the ball."""
    origins = torch.tensor([[x, y, 0.5] for x, y in points]).view(-1, 3)
    directions = torch.tensor([0.0, 0.0, -1.0]).expand(len(origins), 3)
    return Rays(origins, directions, torch.zeros(len(origins), dtype=torch.long))


@pytest.mark.parametrize("forward", [*(pytest.param(each, marks=pytest.mark.slow) for each in (-0.004, 0.0)), 0.004])
def test_the_image_near_a_surface_that_moved_is_that_of_whole_rays(forward: float) -> None:
    avatar = ball("neus", NeuSAlpha(sharp())).eval()
    mesh = extract(avatar.field(STATE), resolution=48, colors=False, progress=False)
    moved = TriangleBVH(mesh.faces, mesh.vertices + torch.tensor([0.0, 0.0, forward]))
    samplers = {"dense": SurfaceSampler(128, 128).eval(), "whole": band(None), "band": band(moved)}
    images, background = {}, torch.ones(400, 3)
    with torch.no_grad():
        for name, avatar.renderer.sampler in samplers.items():
            images[name] = avatar.renderer(CAMERA.rays(), avatar.field(STATE), background)
    errors = {name: (images[name].rgb - images["dense"].rgb).abs() for name in ("whole", "band")}
    assert float(errors["whole"].max()) < 0.02 and float(errors["band"].max()) < 0.03
    solid = images["dense"].opacity > 0.99
    depth = (images["band"].depth - images["dense"].depth)[solid].abs()
    assert float(depth.mean()) < (0.002 if forward > 0 else 0.0005) and int(solid.sum()) > 100  # eight samples a ray
    assert 0 < len(images["band"].samples) < 0.3 * len(images["whole"].samples)


def test_intervals_are_as_wide_as_what_the_probes_hit() -> None:
    sampler = band(sphere())
    low, high, known, seen = sampler.intervals(aimed([[0.0, 0.0], [0.06, 0.0], [0.098, 0.0], [0.105, 0.0], [0.2, 0.0]]))
    assert known.tolist() == [True, True, False, False, False] and seen.tolist() == [True, True, True, True, False]
    assert float(low[0]) == pytest.approx(0.4 - 0.01, abs=1e-3) and float(high[0]) == pytest.approx(0.41, abs=1e-3)
    hits = [0.5 - math.sqrt(0.01 - x**2) for x in (0.056, 0.064)]  # the probes 4 mm to either side
    assert float(low[1]) == pytest.approx(hits[0] - 0.01, abs=1e-3)
    assert float(high[1]) == pytest.approx(hits[1] + 0.01, abs=1e-3)


def test_rays_without_a_known_surface() -> None:
    avatar = ball("mononphm", NeuSAlpha(sharp())).eval()
    field, rays = avatar.field(STATE), aimed([[0.0, 0.0], [0.099, 0.0], [0.13, 0.0]])
    samples, canonical = band(sphere())(rays, field)
    assert len(samples) == len(canonical.points) and samples.ray.bincount(minlength=3).tolist() == [8, 32, 0]
    assert bool((samples.ray.diff() >= 0).all())
    whole = SurfaceSampler(**MONONPHM).eval()(rays, field)[0]  # type: ignore[arg-type]
    assert torch.equal(samples.start[samples.ray == 1], whole.start[whole.ray == 1])
    alone = band(None)(rays, field)[0]
    assert torch.equal(alone.start, whole.start)
    inside, _ = band(sphere(inward=True))(aimed([[0.0, 0.0]]), field)  # a back face is no surface
    assert torch.equal(inside.start, whole.start[whole.ray == 0])
    nothing, _ = band(sphere())(aimed([]), field)
    assert len(nothing) == 0


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_band_without_a_width(value: float) -> None:
    sampler = SurfaceSampler(4, 4)
    with pytest.raises(ValueError, match=r"SurfaceBandSampler: band is .* m; it must be positive and finite"):
        SurfaceBandSampler(sampler, sampler, value)
