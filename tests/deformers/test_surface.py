"""The surface canonicalizer: rigid motion, blending formulas, validity, gradients."""

import pytest
import torch

import headfields as hf
from headfields.deformers import SurfaceCanonicalizer
from headfields.records import HeadState, Rays
from tests.shapes import grid_sheet, rotation, uv_sphere

SPHERE = uv_sphere(12, 18, radius=0.1)


def deformed(seed: int = 0, amount: float = 0.1) -> torch.Tensor:
    """The sphere bent smoothly, so that no triangle flips."""
    vertices = SPHERE[0]
    generator = torch.Generator().manual_seed(seed)
    linear = torch.eye(3) + amount * torch.randn(3, 3, generator=generator)
    return vertices @ linear.T + 0.02 * torch.sin(20 * vertices.flip(-1))


def points_near(vertices: torch.Tensor, count: int = 64, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chosen = vertices[torch.randint(len(vertices), (count,), generator=generator)]
    offset = 0.01 * torch.randn(count, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return chosen + offset, directions


@pytest.mark.parametrize(("blend", "formula"), [(False, "published"), (True, "published"), (False, "released")])
def test_a_rigid_motion_is_undone(blend: bool, formula: str) -> None:
    vertices, faces = SPHERE
    deformer = SurfaceCanonicalizer(vertices, faces, blend_neighbors=blend, formula=formula)  # type: ignore[arg-type]
    turn, shift = rotation(1).float(), torch.tensor([0.1, -0.2, 0.3])
    points, directions = points_near(vertices)
    state = HeadState(vertices=(vertices @ turn.T + shift)[None])
    frame = torch.zeros(len(points), dtype=torch.long)
    canonical = deformer(points @ turn.T + shift, directions @ turn.T, frame, deformer.prepare(state))
    assert bool(canonical.valid.all())
    torch.testing.assert_close(canonical.points, points, atol=2e-6, rtol=0)
    torch.testing.assert_close(canonical.directions, directions, atol=2e-5, rtol=0)


def test_the_released_formula_blends_frames_and_inverts_afterwards() -> None:
    from headfields.ops.mesh_topology import edge_neighbors
    from headfields.ops.triangle_frames import triangle_frames

    vertices, faces = SPHERE
    posed = deformed(3)
    deformer = SurfaceCanonicalizer(vertices, faces, formula="released")
    points, directions = points_near(posed, 7)
    state = HeadState(vertices=posed[None])
    result = deformer(points, directions, torch.zeros(7, dtype=torch.long), deformer.prepare(state))
    bottom = torch.tensor([[[0.0, 0, 0, 1]]]).expand(len(faces), 1, 4)
    posed_frames = torch.cat([triangle_frames(posed, faces), bottom], dim=1)
    canonical_frames = torch.cat([triangle_frames(vertices, faces), bottom], dim=1)
    neighbors = edge_neighbors(faces)
    for index in range(7):
        face = int(result.face[index])
        ring = [face] + [other for other in neighbors[face].tolist() if other >= 0]
        mixed = []
        for mesh, frames in ((posed, posed_frames), (vertices, canonical_frames)):
            distance = torch.stack([(points[index] - mesh[faces[j]].mean(0)).norm() for j in ring])
            weight = torch.exp(-distance * torch.tensor([1.0] + [4.0] * (len(ring) - 1)))
            mixed.append(torch.einsum("k,kij->ij", weight / weight.sum(), frames[ring]))
        expected = mixed[1] @ torch.linalg.inv(mixed[0]) @ torch.cat([points[index], torch.ones(1)])
        torch.testing.assert_close(result.points[index], expected[:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("formula", ["published", "released"])
def test_the_canonical_mesh_stays_where_it_is(formula: str) -> None:
    vertices, faces = SPHERE
    deformer = SurfaceCanonicalizer(vertices, faces, formula=formula)  # type: ignore[arg-type]
    points, directions = points_near(vertices)
    frame = torch.zeros(len(points), dtype=torch.long)
    out = deformer(points, directions, frame, deformer.prepare(HeadState(vertices=vertices[None])))
    torch.testing.assert_close(out.points, points, atol=2e-6, rtol=0)


def test_the_surface_goes_to_the_surface() -> None:
    vertices, faces = SPHERE
    deformer = SurfaceCanonicalizer(vertices, faces, blend_neighbors=False)
    posed = deformed()
    centers = posed[faces].mean(dim=1)
    result = deformer(centers, torch.ones_like(centers) / 3**0.5, torch.zeros(len(faces), dtype=torch.long),
                      deformer.prepare(HeadState(vertices=posed[None])))  # fmt: skip
    assert float(result.distance.max()) < 1e-6
    # Each triangle is carried rigidly, so its center lands on the canonical triangle's plane.
    a, b, c = (vertices[faces[result.face]][:, k] for k in range(3))
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    assert float(((result.points - a) * normal).sum(-1).abs().max()) < 1e-6


def test_published_blending_is_the_weighted_mean_of_the_neighbors_maps() -> None:
    from headfields.ops.mesh_topology import edge_neighbors
    from headfields.ops.triangle_frames import deformation_gradients

    vertices, faces = SPHERE
    posed = deformed(2)
    deformer = SurfaceCanonicalizer(vertices, faces)
    points, directions = points_near(posed, 7)
    result = deformer(
        points, directions, torch.zeros(7, dtype=torch.long), deformer.prepare(HeadState(vertices=posed[None]))
    )
    gradients = deformation_gradients(posed, vertices, faces)
    neighbors = edge_neighbors(faces)
    for index in range(7):
        face = int(result.face[index])
        ring = [face] + [other for other in neighbors[face].tolist() if other >= 0]
        weight = torch.stack([torch.exp(-4 * (points[index] - posed[faces[j]].mean(0)).norm()) for j in ring])
        mixed = sum(w * gradients[j] for w, j in zip(weight / weight.sum(), ring, strict=True))
        assert isinstance(mixed, torch.Tensor)
        torch.testing.assert_close(result.points[index], mixed[:, :3] @ points[index] + mixed[:, 3], atol=1e-6, rtol=0)


def test_blending_softens_the_step_across_an_edge() -> None:
    vertices, faces = grid_sheet(2)
    bent = vertices.clone()
    bent[:, 2] += 0.3 * vertices[:, 0].abs()  # folded along x = 0
    steps = {}
    for blend in (True, False):
        deformer = SurfaceCanonicalizer(vertices, faces, blend_neighbors=blend, shell=0.5)
        ready = deformer.prepare(HeadState(vertices=bent[None]))
        pair = torch.tensor([[-1e-4, 0.3, 0.3], [1e-4, 0.3, 0.3]])
        out = deformer(pair, torch.tensor([[0.0, 0, 1], [0, 0, 1]]), torch.zeros(2, dtype=torch.long), ready)
        steps[blend] = float((out.points[0] - out.points[1]).norm())
    assert steps[True] < 0.6 * steps[False]


def test_affine_scaling_keeps_stretched_skin_off_what_is_beside_it() -> None:
    """A lid that slides over an eye: a strip, short when it is open, is pulled over a ball that stays. Only where
    triangles are mapped onto triangles, the strip's skin comes back to the strip; else it lands before the ball."""
    strip, strip_faces = grid_sheet(6)
    place = torch.stack([strip[:, 0], strip[:, 1], torch.zeros(len(strip))], -1)
    place = (place - place.amin(0)) / (place.amax(0) - place.amin(0)).clamp_min(1e-6) * torch.tensor([0.03, 1.0, 0.0])
    lid = place * torch.tensor([1.0, 0.004, 1.0]) + torch.tensor([-0.015, 0.006, 0.0135])  # 4 mm high
    shut = place * torch.tensor([1.0, 0.014, 1.0]) + torch.tensor([-0.015, -0.004, 0.0135])  # 14 mm, over the eye
    ball, ball_faces = uv_sphere(12, 18, radius=0.012)
    faces = torch.cat([strip_faces, ball_faces + len(strip)])
    canonical, posed = torch.cat([lid, ball]), torch.cat([shut, ball])
    tree, count = hf.ops.TriangleBVH(faces, canonical), len(strip_faces)
    corners = shut[strip_faces].mean(1)
    errors = {}
    for scaling in ("none", "length", "area", "affine"):
        deformer = SurfaceCanonicalizer(canonical, faces, scaling=scaling)  # type: ignore[arg-type]
        frame = torch.zeros(count, dtype=torch.long)
        towards = torch.tensor([0.0, 0.0, -1.0]).expand(count, 3)
        moved = deformer(corners, towards, frame, deformer.prepare(HeadState(posed[None]))).points
        errors[scaling] = float((moved - lid[strip_faces].mean(1)).norm(dim=-1).max())
        on_lid = tree.closest(moved).face < count
        assert bool(on_lid.all()) or scaling != "affine"
    assert errors["affine"] < 1e-6 and min(errors[name] for name in ("none", "length", "area")) > 5e-4, errors


def test_masks_limit_blending_and_scaling() -> None:
    vertices, faces = SPHERE
    posed = 1.3 * vertices
    none = torch.zeros(len(faces), dtype=torch.bool)
    points, directions = points_near(posed)
    frame = torch.zeros(len(points), dtype=torch.long)
    state = HeadState(vertices=posed[None])

    def run(**options: object) -> torch.Tensor:
        deformer = SurfaceCanonicalizer(vertices, faces, **options)  # type: ignore[arg-type]
        return deformer(points, directions, frame, deformer.prepare(state)).points

    rigid = run(blend_neighbors=False)
    torch.testing.assert_close(run(blended_faces=none), rigid)
    torch.testing.assert_close(run(blend_neighbors=False, scaling="area", scaled_faces=none), rigid)
    assert float((run(blend_neighbors=False, scaling="area") - rigid).abs().max()) > 1e-3


def test_far_points_are_not_valid_and_frames_do_not_mix() -> None:
    vertices, faces = SPHERE
    deformer = SurfaceCanonicalizer(vertices, faces, shell=0.02)
    shift = torch.tensor([1.0, 0, 0])
    state = HeadState(vertices=torch.stack([vertices, vertices + shift]))
    points = torch.tensor([[0.0, 0, 0.11], [0, 0, 0.11], [1.0, 0, 0.11]])
    out = deformer(points, torch.tensor([[0.0, 0, -1]]).expand(3, 3), torch.tensor([0, 1, 1]), deformer.prepare(state))
    assert out.valid.tolist() == [True, False, True]
    torch.testing.assert_close(out.points[0], out.points[2])


def test_a_second_prepare_leaves_the_first_one_alone() -> None:
    vertices, faces = SPHERE
    deformer = SurfaceCanonicalizer(vertices, faces)
    points, directions = points_near(vertices)
    frame = torch.zeros(len(points), dtype=torch.long)
    first = deformer.prepare(HeadState(vertices=vertices[None]))
    before = deformer(points, directions, frame, first).points
    deformer.prepare(HeadState(vertices=deformed()[None]))
    torch.testing.assert_close(deformer(points, directions, frame, first).points, before)


@pytest.mark.parametrize("formula", ["published", "released"])
def test_gradients_reach_points_and_vertices(formula: str) -> None:
    vertices, faces = (part.double() if part.is_floating_point() else part for part in uv_sphere(4, 6, radius=0.1))
    deformer = SurfaceCanonicalizer(vertices, faces, formula=formula, shell=0.1).double()  # type: ignore[arg-type]
    deformer.canonical_vertices.copy_(vertices)
    points, directions = (part.double() for part in points_near(vertices.float(), 3, seed=11))
    frame = torch.zeros(3, dtype=torch.long)
    posed = deformed_small(vertices)

    def function(p: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return deformer(p, directions, frame, deformer.prepare(HeadState(vertices=v[None]))).points

    inputs = (points.requires_grad_(), posed.requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-4, fast_mode=True)


def deformed_small(vertices: torch.Tensor) -> torch.Tensor:
    return vertices + 0.01 * torch.sin(20 * vertices.flip(-1))


def test_no_points() -> None:
    vertices, faces = SPHERE
    deformer = SurfaceCanonicalizer(vertices, faces)
    points = torch.zeros(0, 3, requires_grad=True)
    out = deformer(
        points,
        torch.zeros(0, 3),
        torch.zeros(0, dtype=torch.long),
        deformer.prepare(HeadState(vertices=vertices[None])),
    )
    assert len(out) == 0
    out.points.sum().backward()
    near, far = deformer.near_far(
        Rays(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        deformer.prepare(HeadState(vertices=vertices[None])),
    )
    assert near.shape == far.shape == (0,)


def test_errors_name_the_argument(unchecked: None) -> None:
    vertices, faces = SPHERE
    with pytest.raises(ValueError, match="formula is 'mean'"):
        SurfaceCanonicalizer(vertices, faces, formula="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blended_faces has shape"):
        SurfaceCanonicalizer(vertices, faces, blended_faces=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="one topology"):
        SurfaceCanonicalizer(vertices, faces).prepare(HeadState(vertices=vertices[None, :-1]))


def test_a_ray_is_followed_a_little_way_behind_the_first_surface() -> None:
    vertices, faces = SPHERE
    origins = torch.tensor([[0.0, 0, 1], [0, 0.12, 1], [0, 0.5, 1]])
    rays = Rays(origins, torch.tensor([[0.0, 0, -1]]).expand(3, 3), torch.zeros(3, dtype=torch.long))
    state = HeadState(vertices=vertices[None])
    through = SurfaceCanonicalizer(vertices, faces, shell=0.05, behind=None)
    stopped = SurfaceCanonicalizer(vertices, faces, shell=0.05, behind=0.02)
    near, far = through.near_far(rays, through.prepare(state))
    near_stopped, far_stopped = stopped.near_far(rays, stopped.prepare(state))
    torch.testing.assert_close(near_stopped, near)
    assert float(far[0]) > 1.1  # the far side of the sphere and its shell
    torch.testing.assert_close(far_stopped[0], torch.tensor(0.92), atol=2e-3, rtol=0)
    torch.testing.assert_close(far_stopped[1:], far[1:])  # past the surface, and past everything
    with pytest.raises(ValueError, match="behind"):
        SurfaceCanonicalizer(vertices, faces, behind=-0.01)
