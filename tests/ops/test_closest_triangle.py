"""Nearest triangle: values, gradients, degenerate input, over the backends."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import headfields.ops.triangle_bvh as module
from headfields.ops._bvh_build import EMPTY, balanced_topology, build_topology
from headfields.ops.dispatch import native, use_cpu_backend
from headfields.ops.reference.closest_triangle import barycentric_of_closest, closest_face, closest_on_face
from headfields.ops.triangle_bvh import TriangleBVH
from tests.tables import table


def torus():
    mesh = trimesh.creation.torus(0.1, 0.03, major_sections=16, minor_sections=8)
    return torch.tensor(np.array(mesh.faces)), torch.tensor(np.array(mesh.vertices), dtype=torch.float32)


def soup(count, seed=0, batch=1):
    """Triangles at random, and every third one without area: segments, points, repeated vertices."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(batch, 3 * count, 3, generator=generator)
    corners = vertices.view(batch, count, 3, 3)
    corners[:, 0::9, 1] = corners[:, 0::9, 0]
    corners[:, 3::9] = corners[:, 3::9, :1].clone()
    corners[:, 6::9, 2] = 0.5 * (corners[:, 6::9, 0] + corners[:, 6::9, 1])
    return torch.arange(3 * count).view(count, 3), vertices


def assert_closest(result, points, vertices, faces, index=None, tolerance=2e-6):
    """Distances and points against the brute force in float64; faces may differ where they are equally near."""
    points, vertices, faces = points.double().cpu(), vertices.double().cpu(), faces.cpu()
    face = closest_face(points, vertices, faces, index)
    _, _, distance = closest_on_face(points, vertices, faces, index, face)
    torch.testing.assert_close(result.distance.double().cpu(), distance, atol=tolerance, rtol=1e-6)
    assert (result.face.cpu() >= 0).equal(face >= 0)
    if len(faces) == 0:
        return
    actual = face >= 0
    _, own, _ = closest_on_face(points, vertices, faces, index, result.face.cpu())
    torch.testing.assert_close(result.point.double().cpu()[actual], own[actual], atol=tolerance, rtol=0)
    which = torch.zeros_like(face) if index is None else index.long()
    corners = vertices[which[:, None], faces[result.face.cpu().clamp(min=0)]]
    again = (result.barycentric.double().cpu()[..., None] * corners).sum(-2)
    torch.testing.assert_close(again[actual], own[actual], atol=tolerance, rtol=0)


@pytest.mark.parametrize("scale", [0.3, pytest.param(0.01, marks=pytest.mark.slow)])
def test_torus_matches_brute_force(device, scale):
    faces, vertices = torus()
    torch.manual_seed(8)
    points = vertices[torch.randint(len(vertices), (2000,))] + scale * torch.randn(2000, 3)
    result = TriangleBVH(faces.to(device), vertices.to(device)).closest(points.to(device))
    assert_closest(result, points, vertices[None], faces, tolerance=2e-7)


def test_batch_of_degenerate_soups_matches_brute_force(device):
    faces, vertices = soup(60, batch=3)
    points, index = 1.5 * torch.rand(301, 3) - 0.25, torch.randint(3, (301,))
    result = TriangleBVH(faces.to(device), vertices.to(device)).closest(points.to(device), index.to(device))
    assert_closest(result, points, vertices, faces, index)


@table("kind", ["points", "segments", "slivers"])
def test_meshes_of_degenerate_faces_alone_have_answers(device, kind):
    torch.manual_seed(1)
    corners = torch.rand(40, 1, 3).repeat(1, 3, 1)
    if kind != "points":
        corners[:, 1] = torch.rand(40, 3)
    if kind == "slivers":
        corners[:, 2] = corners[:, 1] + 1e-7 * torch.randn(40, 3)
    faces, points = torch.arange(120).view(40, 3), torch.rand(200, 3)
    result = TriangleBVH(faces.to(device), corners.view(-1, 3).to(device)).closest(points.to(device))
    assert (result.face >= 0).all()
    assert_closest(result, points, corners.view(1, -1, 3), faces)


@given(st.integers(0, 33), st.integers(0, 9), st.integers(0, 10_000), st.booleans())
def test_any_soup_on_any_backend(count, queries, seed, warp):
    if native is None and not warp:
        return
    faces, vertices = soup(count, seed)
    points = 2 * torch.rand(queries, 3, generator=torch.Generator().manual_seed(seed)) - 0.5
    with use_cpu_backend("warp" if warp else "native"):
        assert_closest(TriangleBVH(faces, vertices).closest(points), points, vertices, faces)


def test_order_of_faces_changes_nothing(device):
    faces, vertices = soup(50)
    points, order = torch.rand(300, 3).to(device), torch.randperm(50)
    one = TriangleBVH(faces.to(device), vertices.to(device)).closest(points)
    other = TriangleBVH(faces[order].to(device), vertices.to(device)).closest(points)
    torch.testing.assert_close(one.distance, other.distance, atol=1e-6, rtol=0)


@table("batch", [(), (2,), (1, 2), (0,), (7, 1, 3)])
def test_batch_shapes(device, batch):
    faces, vertices = torus()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    points = torch.randn(*batch, 3, device=device)
    for result in (bvh.closest(points, sign=True), bvh.closest(points.clone().requires_grad_(), sign=True)):
        assert result.face.shape == result.distance.shape == result.sign.shape == batch
        assert result.barycentric.shape == result.point.shape == (*batch, 3)


def test_nothing_to_find(device):
    faces, vertices = torus()
    points = torch.randn(5, 3, device=device, requires_grad=True)
    vertices = vertices.to(device).requires_grad_()
    empty = TriangleBVH(faces[:0].to(device), vertices)
    result = empty.closest(points, sign=True)
    assert (result.face == -1).all() and torch.isinf(result.distance).all()
    result.point.sum().backward()
    assert points.grad.isfinite().all() and vertices.grad.eq(0).all()
    none = TriangleBVH(faces.to(device), vertices[None][:0].to(device))
    assert none.closest(points[:0], torch.zeros(0, dtype=torch.long, device=device)).face.shape == (0,)
    no_queries = TriangleBVH(faces.to(device), vertices.to(device)).closest(points[:0])
    assert no_queries.distance.requires_grad and no_queries.distance.shape == (0,)


@table("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_points_that_are_not_finite_have_no_face(device, bad):
    faces, vertices = torus()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    points = torch.zeros(9, 3, device=device)
    points[::2, 1] = bad
    result = bvh.closest(points)
    assert result.face[::2].eq(-1).all() and result.face[1::2].ge(0).all()
    assert torch.isinf(result.distance[::2]).all() and result.distance[1::2].isfinite().all()
    points.requires_grad_()
    result = bvh.closest(points)
    torch.where(result.face >= 0, result.distance, 0.0).sum().backward()
    assert points.grad.isfinite().all()


def test_faces_with_bad_vertices_are_left_out_until_mended(device):
    faces, vertices = soup(30)
    broken = vertices.clone()
    broken[0, ::7] = float("nan")
    broken[0, 4] = 1e25
    points = torch.rand(100, 3)
    bvh = TriangleBVH(faces.to(device), broken.to(device))
    assert_closest(bvh.closest(points.to(device)), points, broken, faces)
    assert_closest(bvh.refit(vertices.to(device)).closest(points.to(device)), points, vertices, faces)


def test_max_distance_is_inclusive_and_exact(device):
    faces = torch.tensor([[0, 1, 2]], device=device)
    bvh = TriangleBVH(faces, torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], device=device))
    points = torch.tensor([[0.25, 0.25, z] for z in (0.0, 0.5, 0.50001)], device=device)
    assert bvh.closest(points, max_distance=0.5).face.tolist() == [0, 0, -1]
    assert bvh.closest(points, max_distance=0.0).face.tolist() == [0, -1, -1]


def test_refit_follows_the_vertices_and_the_number_of_meshes(device):
    faces, vertices = torus()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    moved = torch.stack([vertices.roll(1, -1) * s for s in (1.0, 2.0, 0.5)])
    points, index = 0.2 * torch.randn(200, 3), torch.arange(200) % 3
    result = bvh.refit(moved.to(device)).closest(points.to(device), index.to(device))
    assert len(bvh) == 3
    assert_closest(result, points, moved, faces, index, tolerance=3e-7)


def test_sign_tells_inside_by_winding_number(device):
    faces, vertices = torus()
    points = vertices[torch.randint(len(vertices), (300,))] + 0.02 * torch.randn(300, 3)
    a, b, c = (vertices[faces][None] - points[:, None, None]).double().unbind(2)
    la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
    solid = torch.atan2(
        torch.linalg.det(torch.stack((a, b, c), -2)),
        la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb,
    )
    inside = (2 * solid.sum(1) / (4 * torch.pi)) > 0.5
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    assert 50 < inside.sum() < 250
    assert (bvh.closest(points.to(device), sign=True).sign.cpu() < 0).equal(inside)
    assert (bvh.closest(points.to(device).double(), sign=True).sign.cpu() < 0).equal(inside)


def test_sign_at_a_sharp_corner():
    # A needle of a tetrahedron: at its tip the plain mean of the face normals gives the wrong side.
    vertices = torch.tensor([[0.0, 0, 1], [0.1, 0, 0], [-0.05, 0.08, 0], [-0.05, -0.08, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    points = torch.tensor([[0.0, 0, 1.1], [0.02, 0.01, 1.05], [0, 0, 0.5], [0, 0, -0.1], [0.3, 0, -0.1]])
    assert TriangleBVH(faces, vertices).closest(points, sign=True).sign.tolist() == [1, 1, -1, 1, 1]


def small_case(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 1, 4], [0, 0, 1], [4, 4, 4]])
    vertices = torch.randn(2, 5, 3, dtype=dtype, generator=generator).requires_grad_()
    points = torch.randn(8, 3, dtype=dtype, generator=generator).requires_grad_()
    return faces, vertices, points, torch.arange(8) % 2


def test_gradients_and_second_order(device):
    faces, vertices, points, index = small_case()
    bvh = TriangleBVH(faces.to(device), vertices.detach().to(device))

    def run(points, vertices):
        result = bvh.refit(vertices).closest(points, index.to(device))
        return result.point, result.distance

    inputs = [x.detach().to(device).requires_grad_() for x in (points, vertices)]
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_barycentric_gradients():
    generator = torch.Generator().manual_seed(3)
    corners = torch.randn(12, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    points = corners.detach().mean(1) + torch.randn(12, 3, dtype=torch.float64, generator=generator)
    points.requires_grad_()
    cases = (barycentric_of_closest(points, corners) == 0).sum(-1)
    assert set(cases.tolist()) == {0, 1, 2}
    assert gradcheck(barycentric_of_closest, (points, corners))
    assert gradgradcheck(barycentric_of_closest, (points, corners), fast_mode=True)


def test_first_gradients_match_the_reference(device):
    faces, vertices, points, index = small_case(torch.float32)
    p, v = (x.detach().to(device).requires_grad_() for x in (points, vertices))
    result = TriangleBVH(faces.to(device), v).closest(p, index.to(device))
    (result.distance.square().sum() + result.point.sum()).backward()
    p64, v64 = (x.detach().double().requires_grad_() for x in (points, vertices))
    face = closest_face(p64, v64, faces, index)
    _, nearest, distance = closest_on_face(p64, v64, faces, index, face)
    (distance.square().sum() + nearest.sum()).backward()
    torch.testing.assert_close(p.grad.double().cpu(), p64.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(v.grad.double().cpu(), v64.grad, atol=1e-4, rtol=1e-4)


def test_gradients_are_finite_on_the_surface_and_on_degenerate_faces():
    faces, vertices, _, _ = small_case(torch.float32)
    vertices = vertices.detach()[:1].requires_grad_()
    points = vertices.detach()[0].clone().requires_grad_()
    bvh = TriangleBVH(faces[3:], vertices)
    distance = bvh.closest(points).distance
    (first,) = torch.autograd.grad(distance.sum(), points, create_graph=True)
    first.square().sum().backward()
    assert first.isfinite().all() and points.grad.isfinite().all() and vertices.grad.isfinite().all()
    assert first[distance == 0].eq(0).all() and (distance == 0).any()


def test_fused_and_differentiable_paths_agree(device):
    faces, vertices = torus()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    points = 0.1 * torch.randn(300, 3, device=device)
    fused, other = bvh.closest(points), bvh.closest(points.clone().requires_grad_())
    assert not fused.distance.requires_grad and other.distance.requires_grad
    torch.testing.assert_close(fused.distance, other.distance.detach(), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(fused.barycentric, other.barycentric.detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_opcheck(device, fused):
    faces, vertices = torus()
    bvh = TriangleBVH(faces.to(device), vertices.to(device))
    points = torch.randn(5, 3, device=device)
    index = torch.zeros(5, dtype=torch.int32, device=device)
    torch.library.opcheck(torch.ops.headfields.closest_triangle, (points, index, *bvh._tree, 1.0, fused))
    refit = (bvh._tree[0], bvh._faces, *bvh._topology, bvh._levels)
    torch.library.opcheck(torch.ops.headfields.bvh_refit, refit)


def check_topology(faces, children, order, slot, levels):
    assert sorted(order[order >= 0].tolist()) == list(range(len(faces)))
    lanes = children.reshape(-1)
    assert (lanes[slot.long()] == ~torch.arange(len(slot), dtype=torch.int32)).all()
    inner = lanes[lanes >= 0]
    assert inner.tolist() == list(range(1, len(children)))
    assert (lanes[(lanes < 0) & (lanes != EMPTY)]).unique().numel() == len(slot)
    parent = {int(child): node for node, row in enumerate(children.tolist()) for child in row if child >= 0}
    depth = [0]
    depth += [0] * (len(children) - 1)
    for child, node in sorted(parent.items()):
        depth[child] = depth[node] + 1
    assert levels == [depth.index(level) for level in range(max(depth) + 1)] and len(levels) <= 9


@pytest.mark.parametrize("count", [0, 1, 8, 9, 64, 65, 1000])
def test_both_builders_make_whole_trees(count, monkeypatch):
    faces, vertices = soup(count)
    check_topology(faces, *build_topology(faces, vertices[0]))
    check_topology(faces, *balanced_topology(faces, vertices[0]))
    monkeypatch.setattr(module, "build_topology", balanced_topology)
    points = torch.rand(50, 3)
    assert_closest(TriangleBVH(faces, vertices).closest(points), points, vertices, faces)


@pytest.mark.skipif(native is None, reason="the compiled module is not installed")
@pytest.mark.skipif(native is None, reason="the compiled module is not installed")
def test_the_tree_does_not_depend_on_the_number_of_threads():
    faces = torch.randint(9_000, (20_000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    vertices = torch.rand(9_000, 3, generator=torch.Generator().manual_seed(1))
    vertices[:200] = vertices[200]  # faces without a place of their own
    alone, shared = (native.bvh_build(faces, vertices, threads) for threads in (1, 3))
    assert all((a == b).all() for a, b in zip(alone, shared, strict=True))
    assert sorted(face for face in alone[1].tolist() if face >= 0) == list(range(20_000))


def test_odd_meshes_keep_the_tree_shallow():
    # Each face twice as far as all before it, and many on one spot: the heuristic alone would peel them one by one.
    far = 2.0 ** torch.arange(0, 50, 0.25)
    corners = torch.cat([far[:, None, None] * torch.rand(200, 3, 3), torch.zeros(3000, 3, 3)])
    faces = torch.arange(3 * len(corners)).view(-1, 3)
    check_topology(faces, *build_topology(faces, corners.view(-1, 3)))


def test_errors_name_the_argument(unchecked):
    faces, vertices = torus()
    bvh = TriangleBVH(faces, torch.stack([vertices, vertices]))
    points = torch.zeros(4, 3)
    index = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"mesh_index is None.*2 meshes"):
        bvh.closest(points)
    with pytest.raises(ValueError, match=r"mesh_index has shape \(3,\)"):
        bvh.closest(points, index[:3])
    with pytest.raises(ValueError, match="max_distance is nan"):
        bvh.closest(points, index, max_distance=float("nan"))
    with pytest.raises(IndexError, match="mesh_index holds 2"), use_cpu_backend("native"):
        bvh.closest(points, index + 2)
    with pytest.raises(ValueError, match="refit: vertices has shape"):
        bvh.refit(vertices[:-1])
    with pytest.raises(ValueError, match="faces holds indices"):
        TriangleBVH(faces, vertices[:-1])


def test_at_a_vertex_the_lowest_index_of_its_faces_wins(device):
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.1)
    faces = torch.tensor(np.array(mesh.faces))[torch.randperm(len(mesh.faces))]
    vertices = torch.tensor(np.array(mesh.vertices) * [1.0, 1.3, 0.7], dtype=torch.float32)
    lowest = torch.full((len(vertices),), len(faces)).scatter_reduce_(
        0, faces.flatten(), torch.arange(len(faces)).repeat_interleave(3), "amin"
    )
    edges = torch.stack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]], 1)
    for center in ([0.0, 0.0, 0.0], [0.03, 1.7, -0.2]):
        moved = vertices + torch.tensor(center)
        tree = TriangleBVH(faces.to(device), moved.to(device))
        order = torch.randperm(len(moved))
        assert tree.closest(moved[order].to(device)).face.cpu().equal(lowest[order])
        assert tree.closest(moved.to(device), max_distance=0.0).face.cpu().equal(lowest)
        for i in range(0, len(moved), 40):
            assert tree.closest(moved[i].to(device)).face.item() == lowest[i]
        assert closest_face(moved, moved[None], faces).equal(lowest)
        # In the wedges outside edges and vertices, but for points at the border of one, where rounding decides.
        out = moved[edges[::7].flatten(0, 1)].mean(1)
        out = torch.cat([out, moved[::5]]) + 1e-4 * torch.randn(len(out) + len(moved[::5]), 3).sign()
        same = tree.closest(out.to(device)).face.cpu() == closest_face(out.double(), moved[None].double(), faces)
        assert same.float().mean() > 0.98


def test_faces_that_are_no_longer_as_near_as_the_nearest_hide_no_other(device):
    """Sheets above each other, a few units of the last place apart: which are equally near is known at the end."""
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]])
    points = torch.cat([0.2 * torch.rand(20, 2) - 0.1, torch.zeros(20, 1)], dim=1)
    for seed in range(6):
        height = 1 + 3 * 2**-23 * torch.randperm(40, generator=torch.Generator().manual_seed(seed)).float()
        sheets = (corners + torch.nn.functional.pad(height[:, None, None], (2, 0))).reshape(-1, 3)
        nearest = TriangleBVH(torch.arange(120).view(40, 3).to(device), sheets.to(device)).closest(points.to(device))
        tolerance = 1e-6 + 2.4e-7 * float(height.max())
        first = (height.double() < 1 + tolerance).nonzero()[0]
        assert (nearest.face.cpu() == first).all()
