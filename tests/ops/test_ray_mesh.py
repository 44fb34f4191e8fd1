"""Rays against a mesh: first hit and interval within a margin, over the backends."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import trimesh
from torch.autograd import gradcheck, gradgradcheck

from headfields.ops.reference.closest_triangle import closest_face, closest_on_face
from headfields.ops.reference.ray_mesh import first_hit, hit_on_face, margin_interval
from headfields.ops.triangle_bvh import TriangleBVH
from tests.tables import table


def ball(subdivisions=1):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.1)
    return torch.tensor(np.array(mesh.faces)), torch.tensor(np.array(mesh.vertices), dtype=torch.float32)


def rays(count, seed=0):
    """From outside and from inside, some along the axes."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    origins[::4] *= 0.05
    directions = 0.12 * torch.randn(count, 3, generator=generator) - origins
    directions[::7, 0] = 0
    directions[::14, 1] = -0.0
    return origins, torch.nn.functional.normalize(directions, dim=-1)


def two_balls():
    faces, vertices = ball()
    return faces, torch.stack([vertices, 1.3 * vertices + 0.01])


def test_first_hit_matches_brute_force(device):
    faces, vertices = two_balls()
    origins, directions = rays(301)
    index = torch.arange(301) % 2
    hit = TriangleBVH(faces.to(device), vertices.to(device)).raycast(
        origins.to(device), directions.to(device), index.to(device)
    )
    exact = (origins.double(), directions.double(), vertices.double(), faces)
    face = first_hit(*exact, index)
    _, distance = hit_on_face(*exact, index, face)
    assert 50 < (face >= 0).sum() < 301
    assert (hit.face.cpu() >= 0).equal(face >= 0)
    torch.testing.assert_close(hit.distance.cpu().double(), distance, atol=3e-6, rtol=0)
    result = face >= 0
    assert hit.barycentric.cpu()[result].ge(0).all()
    torch.testing.assert_close(hit.barycentric.cpu()[result].sum(-1), torch.ones(int(result.sum())))
    corners = vertices[index[:, None], faces[hit.face.cpu().clamp(min=0)]]
    where = (hit.barycentric.cpu()[..., None] * corners).sum(-2)
    torch.testing.assert_close(
        where[result], (origins + directions * hit.distance.cpu()[:, None])[result], atol=3e-6, rtol=0
    )


@pytest.mark.parametrize("margin", [0.003, 0.04])
def test_interval_matches_brute_force_and_its_definition(device, margin):
    faces, vertices = two_balls()
    origins, directions = rays(101, seed=1)
    index = torch.arange(101) % 2
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    near, far = (x.cpu() for x in bvh.interval(origins.to(device), directions.to(device), margin, index.to(device)))
    exact = (vertices.double(), faces)
    near64, far64 = margin_interval(origins.double(), directions.double(), *exact, margin, index)
    hit = near64 < far64
    assert (near < far).equal(hit) and bool((near[~hit] == 0).all()) and bool((far[~hit] == 0).all())
    assert 20 < hit.sum() < 101
    torch.testing.assert_close(near.double(), near64, atol=2e-6, rtol=0)
    torch.testing.assert_close(far.double(), far64, atol=2e-6, rtol=0)

    def distance(t):
        points = origins.double() + directions.double() * t[:, None]
        face = closest_face(points, *exact, index)
        return closest_on_face(points, *exact, index, face)[2]

    for end, outward in ((near64, -1), (far64, 1)):
        at = distance(torch.where(hit, end, 0.0))[hit]
        edge = (end > 0)[hit]  # or the ray starts within the margin
        torch.testing.assert_close(at[edge], torch.full_like(at[edge], margin), atol=1e-9, rtol=0)
        assert (at <= margin + 1e-9).all()
        for step in (0.002, 0.1):
            beyond = end + outward * step
            outside = distance(torch.where(hit, beyond, 0.0))
            assert (outside > margin)[hit & (beyond >= 0)].all()
    steps = torch.linspace(0, 2, 5).double()
    assert all((distance(t.expand(101)) > margin)[~hit].all() for t in steps)


def test_degenerate_faces_are_near_but_never_hit(device):
    point, segment = [[0.0, 0, 0]] * 3, [[1.0, 0, 0], [1, 1, 0], [1, 0.5, 0]]
    vertices = torch.tensor([*point, *segment], device=device)
    bvh = TriangleBVH(torch.arange(6, device=device).view(2, 3), vertices)
    origins = torch.tensor([[0.0, 0, 1], [1, 0.5, 1], [0.05, 0, 1], [1, 1.05, 1], [0.5, 0, 1]], device=device)
    directions = torch.tensor([0.0, 0, -1], device=device).expand_as(origins)
    assert (bvh.raycast(origins, directions).face == -1).all()
    near, far = bvh.interval(origins, directions, 0.1)
    half = 0.1 * 0.75**0.5
    expected = torch.tensor([0.9, 0.9, 1 - half, 1 - half, 0.0])
    torch.testing.assert_close(near.cpu(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(far.cpu()[:4], 2 - expected[:4], atol=1e-6, rtol=0)
    assert far[4] == 0


def test_no_ray_slips_between_faces(device):
    # A tilted grid seen at its vertices, along its edges and anywhere else.
    steps = torch.linspace(-0.1, 0.1, 9)
    x, y = torch.meshgrid(steps, steps, indexing="ij")
    vertices = torch.stack((x, y, 0.3 * x - 0.2 * y), dim=-1).reshape(-1, 3)
    corner = (torch.arange(8)[:, None] * 9 + torch.arange(8)).reshape(-1)
    faces = torch.cat(
        [torch.stack((corner, corner + 9, corner + 10), -1), torch.stack((corner, corner + 10, corner + 1), -1)]
    )
    inner = vertices[(vertices[:, :2].abs() < 0.09).all(-1)]
    targets = torch.cat(
        [inner, (inner[1:] + inner[:-1]) / 2, 0.09 * (2 * torch.rand(3000, 3) - 1) * inner.new([1, 1, 0])]
    )
    origins = torch.tensor([0.013, -0.007, 1.0]).expand_as(targets)
    hit = TriangleBVH(faces.to(device), vertices.to(device)).raycast(
        origins.to(device), torch.nn.functional.normalize(targets - origins, dim=-1).to(device)
    )
    assert (hit.face >= 0).all()


def test_max_distance_and_both_sides(device):
    bvh = TriangleBVH(
        torch.tensor([[0, 1, 2]], device=device), torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], device=device)
    )
    origins = torch.tensor([[0.2, 0.2, 1.0], [0.2, 0.2, -1], [0.2, 0.2, 0]], device=device)
    directions = torch.tensor([[0.0, 0, -1], [0, 0, 2], [0, 0, 1]], device=device)
    hit = bvh.raycast(origins, directions)
    assert hit.face.tolist() == [0, 0, 0] and hit.distance.tolist() == [1.0, 0.5, 0.0]
    assert bvh.raycast(origins, directions, max_distance=0.5).face.tolist() == [-1, 0, 0]
    assert bvh.raycast(origins, -directions).face.tolist() == [-1, -1, 0]


@table("bad", [float("nan"), float("inf"), 1e30])
def test_rays_that_are_not_finite_hit_nothing(device, bad):
    faces, vertices = ball()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    origins = torch.tensor([0.01, 0.02, 1.0], device=device).repeat(4, 1)
    directions = torch.tensor([0.0, 0, -1], device=device).repeat(4, 1)
    origins[1, 0], directions[2, 1] = bad, bad
    directions[3] = 0
    hit, (near, far) = bvh.raycast(origins, directions), bvh.interval(origins[:3], directions[:3], 0.01)
    assert (hit.face >= 0).tolist() == [True, False, False, False]
    assert torch.isinf(hit.distance[1:]).all() and hit.barycentric[1:].eq(0).all()
    assert near[0] < far[0] and near[1:].eq(0).all() and far[1:].eq(0).all()
    origins.requires_grad_()
    hit = bvh.raycast(origins, directions)
    torch.where(hit.face >= 0, hit.distance, 0.0).sum().backward()
    assert origins.grad.isfinite().all()


@table("batch", [(), (2,), (1, 2), (0,), (5, 1, 3)])
def test_batch_shapes(device, batch):
    faces, vertices = ball()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    origins, directions = torch.randn(2, *batch, 3, device=device)
    for o in (origins, origins.clone().requires_grad_()):
        hit = bvh.raycast(o, directions)
        assert hit.face.shape == hit.distance.shape == batch and hit.barycentric.shape == (*batch, 3)
        assert hit.distance.requires_grad == o.requires_grad
    near, far = bvh.interval(origins, torch.nn.functional.normalize(directions, dim=-1), 0.01)
    assert near.shape == far.shape == batch


def test_no_faces(device):
    faces, vertices = ball()
    bvh = TriangleBVH(faces[:0].to(device), vertices.to(device))
    origins = torch.randn(3, 3, device=device, requires_grad=True)
    hit = bvh.raycast(origins, -origins)
    near, far = bvh.interval(origins, torch.nn.functional.normalize(-origins, dim=-1), 0.01)
    assert (hit.face == -1).all() and hit.barycentric.requires_grad and (near == far).all()


def test_gradients_and_second_order(device):
    faces, vertices = ball(0)
    origins, directions = rays(6, seed=4)
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    hits = bvh.raycast(origins.to(device), directions.to(device)).face >= 0
    assert hits.sum() >= 2

    def run(origins, directions, vertices):
        hit = bvh.refit(vertices).raycast(origins, directions)
        return hit.barycentric[hits], hit.distance[hits]

    inputs = [x.double().to(device).requires_grad_() for x in (origins, directions, vertices)]
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, atol=1e-4, fast_mode=True)


def test_opcheck(device):
    faces, vertices = ball()
    tree = TriangleBVH(faces.to(device), vertices.to(device))._tree
    origins, directions = (x.to(device) for x in rays(5))
    for fused in (True, False):
        torch.library.opcheck(torch.ops.headfields.raycast, (origins, directions, None, *tree, 3.0, fused))
    torch.library.opcheck(torch.ops.headfields.ray_interval, (origins, directions, None, *tree, 0.01))


def test_errors_name_the_argument(unchecked):
    faces, vertices = ball()
    bvh = TriangleBVH(faces, vertices)
    origins, directions = rays(4)
    with pytest.raises(ValueError, match="interval: margin is 0"):
        bvh.interval(origins, directions, 0.0)
    with pytest.raises(ValueError, match=r"raycast: origins has shape \(3,\)"):
        bvh.raycast(origins[0], directions)
    with pytest.raises(TypeError, match=r"raycast: directions has dtype torch\.int64"):
        bvh.raycast(origins, directions.long())


@pytest.mark.parametrize("unit", [pytest.param(True, marks=pytest.mark.slow), False])
def test_no_ray_slips_through_a_vertex(device, unit):
    # From within a closed mesh every ray hits; aimed at a vertex, all the faces around it decide by rounding.
    faces, vertices = ball(3)
    origins = 0.05 * torch.nn.functional.normalize(torch.randn(20000, 3), dim=-1)
    directions = vertices[torch.randint(len(vertices), (len(origins),))] - origins
    if unit:
        directions = torch.nn.functional.normalize(directions, dim=-1)
    face = TriangleBVH(faces.to(device), vertices.to(device)).raycast(origins.to(device), directions.to(device)).face
    assert (face >= 0).all()
    some = slice(0, 300)
    assert face[some].cpu().equal(first_hit(origins[some], directions[some], vertices[None], faces))


def rational_first_hit(origin, direction, triangles):
    """The lowest index of the faces that an exact ray meets first (edges and vertices count), and the distance."""

    def cross(p, q):
        return [p[(k + 1) % 3] * q[(k + 2) % 3] - p[(k + 2) % 3] * q[(k + 1) % 3] for k in range(3)]

    def dot(p, q):
        return sum(x * y for x, y in zip(p, q, strict=True))

    o, d = ([Fraction(x) for x in v] for v in (origin, direction))
    best = None
    for index, corners in enumerate(triangles):
        a, b, c = ([Fraction(x) - y for x, y in zip(corner, o, strict=True)] for corner in corners)
        weights = [dot(cross(p, q), d) for p, q in ((b, c), (c, a), (a, b))]
        normal = cross([x - y for x, y in zip(b, a, strict=True)], [x - y for x, y in zip(c, a, strict=True)])
        if dot(normal, d) == 0 or not (min(weights) >= 0 or max(weights) <= 0):
            continue
        t = dot(normal, a) / dot(normal, d)
        if t >= 0 and (best is None or t < best[0]):
            best = (t, index)
    return best


def test_ties_are_the_lowest_index_as_exact_arithmetic_has_it(device):
    # Coordinates are small multiples of 1/64, so that rays go through vertices and edges exactly.
    faces, vertices = ball(1)
    vertices = (vertices * 640).round() / 64
    origins = (torch.randn(40, 3) * 20).round() / 64
    targets = torch.cat([vertices[torch.randint(len(vertices), (20,))], vertices[faces[:20, :2]].mean(1)])
    directions = targets - origins
    directions[::8] = torch.tensor([0.0, 0.0, -1.0])  # within planes of boxes, too
    origins[::8] = vertices[:5] + torch.tensor([0.0, 0.0, 4.0])
    triangles = vertices[faces].tolist()
    exact = [rational_first_hit(o, d, triangles) for o, d in zip(origins.tolist(), directions.tolist(), strict=True)]
    expected = [-1 if hit is None else hit[1] for hit in exact]
    tree = TriangleBVH(faces.to(device), vertices.to(device))
    hit = tree.raycast(origins.to(device), directions.to(device))
    assert hit.face.tolist() == expected and min(expected) >= 0
    assert hit.distance.tolist() == pytest.approx([float(t) for t, _ in exact], rel=1e-7)
    assert first_hit(origins, directions, vertices[None], faces).tolist() == expected


def test_an_answer_does_not_depend_on_the_other_rays(device):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]], device=device)
    one = TriangleBVH(torch.tensor([[0, 1, 2]], device=device), corners)
    for zero in (0.0, -0.0):  # a ray within the side of the box
        rays = torch.tensor([[2.0, 0.5, 1], [1, 0.5, 1], [0.9, 0.5, 1], [1, 0.5, 1]], device=device)
        down = torch.tensor([zero, 0.0, -1.0], device=device)
        assert one.raycast(rays, down.expand(4, 3)).face.tolist() == [-1, 0, 0, 0]
        assert [one.raycast(ray[None], down[None]).face.item() for ray in rays] == [-1, 0, 0, 0]
    faces, vertices = ball(2)
    tree = TriangleBVH(faces.to(device), (vertices * 1000).round().to(device))
    origins = tree.vertices[0].repeat(4, 1)
    directions = torch.eye(3, device=device).repeat(len(origins) // 3 + 1, 1)[: len(origins)]
    origins = origins - 300 * directions
    together = tree.raycast(origins, directions).face
    order = torch.randperm(len(origins), device=device)
    assert tree.raycast(origins[order], directions[order]).face.equal(together[order])
    for i in range(0, len(origins), 16):
        assert tree.raycast(origins[i : i + 1], directions[i : i + 1]).face.equal(together[i : i + 1])


def test_rays_of_a_larger_mesh_in_any_order():
    # A tree of some megabytes, where rays of one place are put in an order and others are not.
    faces, vertices = ball(6)
    tree = TriangleBVH(faces, vertices)
    targets = 0.12 * torch.randn(1500, 3)
    places = torch.tensor([[0.3, 0.02, 0.01], [-0.2, 0.25, 0.0]])
    together = torch.cat([tree.raycast(place.expand(1500, 3), targets - place).face for place in places])
    mixed = torch.randperm(3000)
    origins, directions = places.repeat_interleave(1500, 0), torch.cat([targets - place for place in places])
    hit = tree.raycast(origins[mixed], directions[mixed])
    assert hit.face.equal(together[mixed]) and 300 < (together >= 0).sum() < 3000
    some = (hit.face >= 0).nonzero()[:200, 0]
    corners = vertices[faces[hit.face[some]]]
    where = (hit.barycentric[some, :, None] * corners).sum(1)
    along = directions[mixed][some] * hit.distance[some, None]
    torch.testing.assert_close(where, origins[mixed][some] + along, atol=3e-6, rtol=0)
