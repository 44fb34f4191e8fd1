"""Rays near the posed mesh, points where they are."""

import pytest
import torch

from headfields.deformers import NearSurface, SurfaceCanonicalizer
from headfields.records import HeadState, Rays
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(12, 18, radius=0.1)


def rays(count: int = 40) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.cat([0.3 * (torch.rand(count, 2, generator=generator) - 0.5), torch.ones(count, 1)], dim=1)
    return Rays(origins, torch.tensor([[0.0, 0, -1]]).expand(count, 3), torch.arange(count) % 2)


@pytest.mark.parametrize("behind", [None, 0.02])
def test_its_rays_are_those_of_the_surface_canonicalizer(behind: float | None) -> None:
    state = HeadState(torch.stack([VERTICES, VERTICES + torch.tensor([0.03, 0, 0])]))
    near, surface = (kind(VERTICES, FACES, shell=0.04, behind=behind) for kind in (NearSurface, SurfaceCanonicalizer))
    ready, other = near.prepare(state), surface.prepare(state)
    for found, wanted in zip(near.near_far(rays(), ready), surface.near_far(rays(), other), strict=True):
        assert torch.equal(found, wanted)
    start, end = near.near_far(rays(), ready)
    assert bool((start < end).any()) and bool((start == end).any())
    torch.testing.assert_close(near.posed_bounds(ready), surface.posed_bounds(other))
    torch.testing.assert_close(near.posed_bounds(ready)[:, 0], torch.tensor([-0.14, 0.17]), atol=2e-3, rtol=0)
    torch.testing.assert_close(near.bounds(), surface.bounds())
    wider = NearSurface(VERTICES, FACES, padding=0.1).bounds()
    torch.testing.assert_close(wider, torch.stack([VERTICES.amin(0) - 0.1, VERTICES.amax(0) + 0.1]))


def test_points_stay_where_they_are_and_no_triangle_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from headfields.ops.triangle_bvh import TriangleBVH

    monkeypatch.setattr(TriangleBVH, "closest", lambda *a, **k: pytest.fail("a nearest triangle was looked for"))
    deformer = NearSurface(VERTICES, FACES)
    points = torch.randn(5, 3, requires_grad=True)
    directions = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    frame = torch.zeros(5, dtype=torch.long)
    out = deformer(points, directions, frame, deformer.prepare(HeadState(VERTICES[None])))
    assert torch.equal(out.points, points) and torch.equal(out.directions, directions)
    assert bool(out.valid.all()) and out.face is None and not deformer.gives_faces
    out.points.sum().backward()
    assert bool((points.grad == 1).all())
    none = deformer(points[:0], directions[:0], frame[:0], deformer.prepare(HeadState(VERTICES[None])))
    assert len(none) == 0


def test_errors_name_the_deformer(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"NearSurface: the state has 5 vertices and the canonical mesh 200.*topology"):
        NearSurface(VERTICES, FACES).prepare(HeadState(VERTICES[None, :5]))
    with pytest.raises(ValueError, match=r"NearSurface: shell is 0\.0 m"):
        NearSurface(VERTICES, FACES, shell=0.0)
    with pytest.raises(ValueError, match=r"NearSurface: behind is -0\.1 m"):
        NearSurface(VERTICES, FACES, behind=-0.1)
