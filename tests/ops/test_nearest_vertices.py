"""The k nearest vertices: values, ties, gradients, degenerate input, over the backends; and weights by distance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import headfields.ops.nearest_vertices as module
from headfields.ops import VertexTree
from headfields.ops._bvh_build import balanced_topology
from headfields.ops.dispatch import native, use_cpu_backend
from headfields.ops.nearest_vertices import inverse_distance_weights
from headfields.ops.reference import nearest_vertices as reference
from tests.shapes import uv_sphere
from tests.tables import table


def cloud(count, meshes=1, seed=0):
    """Points at random; every fifth lies where another does, and two are not finite."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(meshes, count, 3, generator=generator)
    copied = vertices[:, 1::5].clone()
    vertices[:, : 5 * copied.shape[1] : 5] = copied
    if count > 12:
        vertices[:, 7], vertices[-1, 12] = torch.nan, 1e25
    return vertices


def assert_nearest(result, points, vertices, k, index=None, max_distance=torch.inf):
    """The same vertices in the same order as by brute force, and their distances."""
    want, _ = reference.nearest_vertices(points, vertices, k, index, max_distance)
    assert result.index.cpu().equal(want)
    distance = reference.distances_to(points.double(), vertices.double(), index, want)
    torch.testing.assert_close(result.distance.cpu().double(), distance, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 16, *(pytest.param(k, marks=pytest.mark.slow) for k in (4, 5))])
@pytest.mark.parametrize("max_distance", [torch.inf, 0.12])
def test_batch_of_clouds_matches_brute_force(device, k, max_distance):
    vertices = cloud(700, meshes=3)
    generator = torch.Generator().manual_seed(1)
    points = 1.4 * torch.rand(901, 3, generator=generator) - 0.2
    points[::100] = torch.nan
    index = torch.randint(3, (901,), generator=generator)
    tree = VertexTree(vertices.to(device))
    assert_nearest(tree.nearest(points.to(device), k, index.to(device), max_distance), points, vertices, k, index,
                   max_distance)  # fmt: skip
    ordered = index.sort().values  # whole groups of one mesh
    assert_nearest(tree.nearest(points.to(device), k, ordered.to(device), max_distance), points, vertices, k, ordered,
                   max_distance)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_queries_are_sorted(dtype):
    """Their squared distances, rounded, do not tell neighbors apart."""
    vertices = cloud(60)[:, 13:].to(dtype)
    points = 3e4 * torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    distance = VertexTree(vertices).nearest(points.to(dtype), 8).distance
    assert bool((distance.diff(dim=1) >= 0).all()) and bool((distance.diff(dim=1) > 0).any())


def test_dense_queries_near_a_surface(device):
    vertices, _ = uv_sphere(24, 40, radius=0.1)
    generator = torch.Generator().manual_seed(2)
    points = vertices[torch.randint(len(vertices), (3000,), generator=generator)]
    points = points + 0.008 * torch.randn(3000, 3, generator=generator)
    result = VertexTree(vertices.to(device)).nearest(points.to(device), 4)
    assert_nearest(result, points, vertices[None], 4)
    assert (result.distance.diff(dim=-1) >= 0).all()


@given(st.integers(1, 90), st.integers(0, 40), st.integers(1, 16), st.integers(0, 10_000), st.booleans())
def test_any_cloud_on_any_backend(count, queries, k, seed, warp):
    if native is None and not warp:
        return
    vertices, k = cloud(count, seed=seed), min(k, count)
    points = 2 * torch.rand(queries, 3, generator=torch.Generator().manual_seed(seed)) - 0.5
    with use_cpu_backend("warp" if warp else "native"):
        assert_nearest(VertexTree(vertices).nearest(points, k), points, vertices, k)


def test_of_equally_near_vertices_the_lowest_index(device):
    same = torch.full((40, 3), 0.25)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)  # all as far from the middle
    turned = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.3, 0.1], [0.3, 0.2, 0.1]])  # sums in another order
    for seed in range(5):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        for vertices, points in (
            (same, same[:20] + 0.1),
            (corners[order], torch.full((20, 3), 0.5)),
            (turned[order % 4], torch.zeros(20, 3)),
        ):
            k = min(7, len(vertices))
            actual = VertexTree(vertices.to(device)).nearest(points.to(device), k).index.cpu()
            assert actual.equal(torch.arange(k).expand(20, k))


def test_order_of_queries_and_company_change_nothing(device):
    vertices, points = cloud(300)[0].to(device), torch.rand(400, 3).to(device)
    tree, order = VertexTree(vertices), torch.randperm(400)
    whole = tree.nearest(points, 6)
    assert tree.nearest(points[order], 6).index.equal(whole.index[order])
    assert tree.nearest(points[37], 6).index.equal(whole.index[37])


@table("batch", [(), (2,), (1, 2), (0,), (7, 1, 3)])
def test_batch_shapes(device, batch):
    tree = VertexTree(cloud(50).to(device))
    points = torch.rand(*batch, 3, device=device)
    for result in (tree.nearest(points, 3), tree.nearest(points.clone().requires_grad_(), 3)):
        assert result.index.shape == result.distance.shape == (*batch, 3)
        assert result.index.dtype == torch.long


def test_nothing_to_ask_keeps_a_gradient(device):
    vertices = cloud(20)[:, :7].to(device).requires_grad_()
    points = torch.zeros(0, 3, device=device, requires_grad=True)
    distance = VertexTree(vertices).nearest(points, 2).distance
    assert distance.shape == (0, 2) and distance.requires_grad
    distance.sum().backward()
    assert vertices.grad.eq(0).all()
    none = VertexTree(vertices[:0]).nearest(points, 2, torch.zeros(0, dtype=torch.long, device=device))
    assert none.index.shape == (0, 2) and none.distance.requires_grad


@table("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_points_that_are_not_finite_have_no_neighbors(device, bad):
    tree = VertexTree(cloud(30)[:, :7].to(device))
    points = torch.full((9, 3), 0.5, device=device)
    points[::2, 1] = bad
    for queries in (points, points.clone().requires_grad_()):
        result = tree.nearest(queries, 4)
        assert result.index[::2].eq(-1).all() and result.index[1::2].ge(0).all()
        assert torch.isinf(result.distance[::2]).all() and result.distance[1::2].isfinite().all()
        if queries.requires_grad:
            torch.where(result.index >= 0, result.distance, 0.0).sum().backward()
            assert queries.grad.isfinite().all()


def test_bad_vertices_are_left_out_until_mended(device):
    vertices = cloud(60)
    broken = vertices.nan_to_num(0.3).clamp(max=1)
    points = torch.rand(100, 3)
    tree = VertexTree(vertices.to(device))
    assert_nearest(tree.nearest(points.to(device), 9), points, vertices, 9)
    assert_nearest(tree.refit(broken.to(device)).nearest(points.to(device), 9), points, broken, 9)
    few = vertices[:, 6:9].clone()  # one of the three is NaN
    result = VertexTree(few.to(device)).nearest(points.to(device), 3)
    assert (result.index[:, 2] == -1).all() and (result.index[:, :2] >= 0).all()


def test_max_distance_is_inclusive_and_exact(device):
    tree = VertexTree(torch.tensor([[0.0, 0, 0], [0, 0, 1]], device=device))
    points = torch.tensor([[0.0, 0.0, -z] for z in (0.0, 0.5, 0.50001)], device=device)
    assert tree.nearest(points, 2, max_distance=0.5).index.tolist() == [[0, -1], [0, -1], [-1, -1]]
    assert tree.nearest(points, 1, max_distance=0.0).index.tolist() == [[0], [-1], [-1]]
    assert tree.nearest(points, 2, max_distance=1.5).index.tolist() == [[0, 1], [0, 1], [0, -1]]


def test_refit_and_posed(device):
    rest = cloud(200)
    moved = torch.stack([rest[0].roll(1, -1) * s for s in (1.0, 2.0, 0.5)])
    points, index = torch.rand(200, 3), torch.arange(200) % 3
    tree = VertexTree(rest.to(device))
    posed = tree.posed(moved.to(device))
    assert len(tree) == 1 and len(posed) == 3
    assert_nearest(posed.nearest(points.to(device), 4, index.to(device)), points, moved, 4, index)
    assert_nearest(tree.nearest(points.to(device), 4), points, rest, 4)
    assert tree.refit(moved.to(device)) is tree and len(tree) == 3


def test_the_tree_does_not_grow_with_the_frames():
    tree = VertexTree(cloud(50))
    sizes = set()
    for _ in range(3):
        tree.refit(cloud(50))
        sizes.add(sum(part.numel() for part in tree._tree))
    assert len(sizes) == 1


def test_gradients_and_second_order(device):
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(2, 9, 3, dtype=torch.float64, generator=generator).to(device).requires_grad_()
    points = torch.randn(6, 3, dtype=torch.float64, generator=generator).to(device).requires_grad_()
    tree, index = VertexTree(vertices.detach()), (torch.arange(6) % 2).to(device)

    def run(points, vertices):
        distance = tree.refit(vertices).nearest(points, 4, index).distance
        return distance, inverse_distance_weights(distance, epsilon=0.1)

    assert gradcheck(run, (points, vertices))
    assert gradgradcheck(run, (points, vertices), fast_mode=True)


def test_first_gradients_match_the_reference(device):
    vertices, points, index = cloud(40, 2)[:, 20:], torch.rand(30, 3), torch.arange(30) % 2
    p, v = (x.clone().to(device).requires_grad_() for x in (points, vertices))
    VertexTree(v).nearest(p, 5, index.to(device)).distance.square().sum().backward()
    p64, v64 = (x.double().requires_grad_() for x in (points, vertices))
    reference.nearest_vertices(p64, v64, 5, index)[1].square().sum().backward()
    torch.testing.assert_close(p.grad.double().cpu(), p64.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(v.grad.double().cpu(), v64.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradients_at_a_vertex_are_finite(power):
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]) * 0.01
    vertices.requires_grad_()
    points = vertices.detach().clone().requires_grad_()
    distance = VertexTree(vertices).nearest(points, 3).distance
    (first,) = torch.autograd.grad(distance[:, 0].sum(), points, create_graph=True)
    assert first.eq(0).all()
    features = torch.randn(4, 3)
    merged = (inverse_distance_weights(distance, power) * features).sum()
    first = torch.autograd.grad(merged, (points, vertices), create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), (points, vertices))
    assert all(x.isfinite().all() for x in (*first, *second))


def test_weights_are_the_papers_and_the_nearest_takes_all():
    distance = torch.tensor([[0.004, 0.005, 0.02], [0.0, 0.005, 0.006], [0.0, 0.0, 0.01]], dtype=torch.float64)
    weights = inverse_distance_weights(distance)
    paper = (1 / distance[0]) / (1 / distance[0]).sum()
    torch.testing.assert_close(weights[0], paper, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights[1:], torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3).double())
    squared = inverse_distance_weights(distance[:1], power=2.0)
    torch.testing.assert_close(squared[0], paper.square() / paper.square().sum(), atol=1e-6, rtol=0)


def test_weights_where_neighbors_are_missing():
    distance = torch.tensor([[0.1, torch.inf], [torch.inf, torch.inf], [1e18, torch.inf]], requires_grad=True)
    weights = inverse_distance_weights(distance)
    assert weights.tolist() == [[1, 0], [0, 0], [1, 0]]
    (first,) = torch.autograd.grad(weights.square().sum(), distance, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), distance)
    assert first.isfinite().all() and second.isfinite().all()
    assert inverse_distance_weights(torch.tensor([torch.nan, 1.0])).isnan().all()
    assert inverse_distance_weights(torch.zeros(0, 4)).shape == (0, 4)


def test_derivatives_of_the_weights():
    distance = torch.tensor([[0.3, 0.5, 0.9], [0.0, 0.4, 0.6]], dtype=torch.float64, requires_grad=True)
    for power in (1.0, 2.5):
        assert gradcheck(lambda d, p=power: inverse_distance_weights(d, p, epsilon=0.2), distance)
        assert gradgradcheck(lambda d, p=power: inverse_distance_weights(d, p, epsilon=0.2), distance, fast_mode=True)


@pytest.mark.parametrize("fused", [True, False])
def test_opcheck(device, fused):
    tree = VertexTree(cloud(30, 2).to(device))
    points, index = torch.randn(5, 3, device=device), torch.zeros(5, dtype=torch.int32, device=device)
    torch.library.opcheck(torch.ops.headfields.nearest_vertices, (points, index, *tree._tree, 3, 1.0, fused))
    torch.library.opcheck(torch.ops.headfields.vertex_refit, (tree._tree[0], *tree._topology, tree._levels))


def test_a_tree_built_without_the_compiled_module(monkeypatch):
    monkeypatch.setattr(module, "build_topology", balanced_topology)
    vertices, points = cloud(300), torch.rand(60, 3)
    assert_nearest(VertexTree(vertices).nearest(points, 4), points, vertices, 4)


def test_errors_name_the_argument(unchecked):
    vertices = cloud(40)[0, 20:]
    tree, points, index = VertexTree(torch.stack([vertices] * 2)), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"mesh_index is None.*2 meshes"):
        tree.nearest(points, 3)
    with pytest.raises(ValueError, match=r"mesh_index has shape \(3,\)"):
        tree.nearest(points, 3, index[:3])
    with pytest.raises(ValueError, match="max_distance is nan"):
        tree.nearest(points, 3, index, max_distance=float("nan"))
    with pytest.raises(ValueError, match="k is 17; expected 1 to 16"):
        tree.nearest(points, 17, index)
    with pytest.raises(ValueError, match="k is 3, but there are only 2 vertices"):
        VertexTree(vertices[:2]).nearest(points, 3)
    with pytest.raises(TypeError, match=r"points has dtype torch\.int64"):
        tree.nearest(points.long(), 3, index)
    with pytest.raises(ValueError, match="refit: vertices has shape"):
        tree.refit(vertices[:-1])
    with pytest.raises(ValueError, match="vertices has shape"):
        VertexTree(vertices[0])
    with pytest.raises(ValueError, match="epsilon is 0"):
        inverse_distance_weights(points, epsilon=0)
    with pytest.raises(ValueError, match="power is -1"):
        inverse_distance_weights(points, power=-1)
    with pytest.raises(TypeError, match="distance has dtype"):
        inverse_distance_weights(points.long())


@pytest.mark.skipif(native is None, reason="the compiled module is not installed")
def test_a_mesh_that_is_not_there(unchecked):
    with pytest.raises(IndexError, match="mesh_index holds 2"), use_cpu_backend("native"):
        VertexTree(cloud(9)).nearest(torch.zeros(4, 3), 3, torch.full((4,), 2))
