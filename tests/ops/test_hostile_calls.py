"""Registered operations called with anything: an error or a value, never memory outside the arrays."""

import subprocess
import sys

import pytest
import torch

import headfields as hf
from headfields.ops.dispatch import native
from tests.ops import hostile_calls

only_native = pytest.mark.skipif(native is None, reason="the compiled module is not installed")


def test_every_registered_operation_is_tried():
    registered = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("headfields::")
    }
    assert set(hostile_calls.valid_calls()) == registered


@pytest.mark.parametrize(
    ("backend", "seed", "calls"),
    [
        pytest.param("native", 0, 200, marks=only_native),
        pytest.param("warp", 0, 1000, marks=pytest.mark.slow),
        *(pytest.param("native", seed, 20000, marks=[only_native, pytest.mark.slow]) for seed in (1, 2, 3)),
        *(pytest.param("warp", seed, 20000, marks=pytest.mark.slow) for seed in (1, 2, 3)),
    ],
)
def test_damaged_arguments_never_end_the_process(backend, seed, calls):
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.hostile_calls", str(seed), str(calls), backend],
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"ended with {done.returncode} in {done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
    )
    returned, raised = (int(word) for word in done.stdout.splitlines()[-1].split() if word.isdigit())
    assert returned + raised == calls and raised > calls // 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_other_shapes_are_an_error(dtype):
    table, values, index = (
        torch.rand(5, 3, dtype=dtype),
        torch.rand(4, 3, dtype=dtype),
        torch.zeros(4, 2, dtype=torch.long),
    )
    weights = torch.rand(4, 2, dtype=dtype)
    for operation, *arguments in [
        ("interpolate_rows", table, index, weights[:3]),
        ("interpolate_rows", table, index, weights[:, :1]),
        ("interpolate_rows", table, index[:3], weights),
        ("interpolate_rows", table[0], index, weights),
        ("interpolate_rows", table, index[None], weights[None]),
        ("scatter_rows", values[:3], index, weights, 5),
        ("scatter_rows", values, index, weights[:, :1], 5),
        ("scatter_rows", values, index[:3], weights[:3], 5),
        ("scatter_rows", values[0], index, weights, 5),
        ("dot_rows", table, index, values[:3]),
        ("dot_rows", table, index, values[:, :2]),
        ("dot_rows", table[:, :2], index, values),
        ("dot_rows", table, index[:3], values),
        ("dot_rows", table, index[0], values),
    ]:
        with pytest.raises(ValueError, match=f"headfields.{operation}: shapes disagree"):
            getattr(torch.ops.headfields, operation)(*arguments)


@only_native
def test_a_ring_out_of_range_is_an_error():
    points, directions = torch.rand(3, 3), torch.eye(3)
    gradients, centroids = torch.rand(1, 4, 3, 4), torch.rand(1, 4, 3)
    zeros = torch.zeros(3, dtype=torch.long)
    for beyond in (4, 2**40, 2**62):
        ring = torch.tensor([[0, beyond], [1, 0], [2, -1], [3, -5]])
        with pytest.raises(IndexError, match="blended_map: ring"):
            hf.ops.blended_map(points, directions, zeros, zeros, gradients, centroids, ring)
        hf.ops.blended_map(points, directions, zeros + 1, zeros, gradients, centroids, ring)  # not of the ring it uses


def padded(count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """An array of `count` values within a longer one that is -7 before and after."""
    whole = torch.full((count + 64,), -7, dtype=dtype)
    return whole, whole[32 : 32 + count]


@only_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("counted", "filled"), [(0.3, 0.9), (0.9, 0.3), (0.0, 1.0), (1.0, 0.0)])
def test_a_grid_that_changes_between_the_passes_of_a_march(counted, filled, dtype):
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(8, 8, 8, generator=generator)
    rays = 40
    origins = torch.rand(rays, 3, generator=generator).to(dtype)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=-1).to(dtype)
    near, far = torch.full((rays,), 0.01, dtype=dtype), torch.full((rays,), 1.5, dtype=dtype)
    box = torch.tensor([[0.0] * 3, [1.0] * 3], dtype=dtype)
    before, after = ((chance < share).view(torch.uint8) for share in (counted, filled))
    counts = torch.empty(rays, dtype=torch.long)
    native.march_count(origins, directions, near, far, None, before, box, 0.02, 0.0, counts, 2)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    total = int(offsets[-1])
    arrays = [padded(total, kind) for kind in (torch.long, dtype, dtype)]
    ray, start, end = (inner for _, inner in arrays)
    native.march_fill(origins, directions, near, far, None, after, box, 0.02, 0.0, offsets, ray, start, end, 2)
    for whole, _ in arrays:
        assert (whole[:32] == -7).all() and (whole[32 + total :] == -7).all()
    assert torch.equal(ray, torch.repeat_interleave(torch.arange(rays), counts))
    assert ((start >= 0.01) & (start <= end) & (end <= 1.5)).all()


@only_native
def test_samples_that_change_between_the_passes_of_a_merge():
    offsets = torch.tensor([0, 4, 8])
    start = torch.linspace(0.0, 1.0, 9)[:-1].repeat(1)
    touching, overlapping = (offsets, start, start + 0.125), (offsets, start + 0.05, start + 0.175)
    counts = torch.empty(2, dtype=torch.long)
    native.merge_count(*touching, *touching, counts, 1)
    room = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    arrays = [padded(int(room[-1]), kind) for kind in (torch.long, torch.float32, torch.float32)]
    native.merge_fill(*touching, *overlapping, room, *(inner for _, inner in arrays), 1)  # has more pieces
    for whole, inner in arrays:
        assert (whole[:32] == -7).all() and (whole[32 + len(inner) :] == -7).all()
    assert arrays[0][1].tolist() == [0] * int(counts[0]) + [1] * int(counts[1])


def test_a_march_whose_step_is_lost_to_rounding_ends():
    occupied, box = torch.ones(2, 2, 2, dtype=torch.bool), torch.tensor([[0.0] * 3, [1.0] * 3])
    origin, direction = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    near, far = torch.tensor([0.5]), torch.tensor([3.0])
    with pytest.raises(ValueError, match="march"):
        hf.ops.march_occupancy(origin, direction, near, far, occupied, box, step=1e-30)


def backends():
    """Each backend of the CPU, one after the other."""
    for backend in ("warp",) if native is None else ("warp", "native"):
        with hf.use_cpu_backend(backend):
            yield backend


def test_a_tree_made_by_hand_is_checked_on_every_backend():
    """A TriangleBVH or VertexTree whose arrays a program has replaced, and what only Warp would read."""
    for _ in backends():
        vertices, points = torch.rand(30, 3), torch.rand(5, 3)
        for damage in ("child", "circle", "leaf", "order", "slot", "short"):
            triangles, cloud = hf.ops.TriangleBVH(torch.randint(0, 30, (100, 3)), vertices), hf.ops.VertexTree(vertices)
            for tree in (triangles, cloud):
                children, order, slot = (part.clone() for part in tree._topology)
                if damage == "child":
                    children[0, 0] = len(children)
                elif damage == "circle":
                    children[-1, 7] = 0
                elif damage == "leaf":
                    children[-1, 0] = ~len(slot)
                elif damage == "order":
                    order[0] = 100
                elif damage == "slot":
                    slot[0] = 8 * len(children)
                else:
                    order = order[8:]
                tree._topology = (children, order, slot)
                with pytest.raises(ValueError, match="not a tree over these faces or vertices"):
                    tree.refit(vertices)
                tree._tree = (*tree._tree[:-5], *tree._topology, *tree._tree[-2:])
                with pytest.raises(ValueError, match="not a tree over these faces or vertices"):
                    triangles.closest(points) if tree is triangles else cloud.nearest(points, 2)


def test_an_empty_lane_with_a_box_is_no_leaf():
    for backend in backends():
        tree = hf.ops.TriangleBVH(torch.randint(0, 30, (20, 3)), torch.rand(30, 3))
        vertices, faces, children, order, slot, bounds, triangles = tree._tree
        assert (children == -(2**31)).any(), backend
        filled = bounds.nan_to_num(posinf=-1.0, neginf=2.0).clamp(-1, 2)
        arguments = (vertices, faces, children, order, slot, filled, triangles)
        points, directions = torch.rand(50, 3), torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
        torch.ops.headfields.closest_triangle(points, None, *arguments, 1.0, True)
        torch.ops.headfields.raycast(points, directions, None, *arguments, 10.0, True)
        torch.ops.headfields.ray_interval(points, directions, None, *arguments, 0.1)


def test_shapes_that_disagree_are_an_error_on_every_backend():
    offsets, m = torch.tensor([0, 2, 5]), torch.rand(5)
    occupied, box = torch.ones(2, 2, 2, dtype=torch.bool), torch.tensor([[0.0] * 3, [1.0] * 3])
    near, far, points = torch.zeros(3), torch.ones(3), torch.rand(3, 3)
    for operation, *arguments in [
        ("weighted_sum", m[:4], torch.rand(5, 2), offsets, False),
        ("weighted_sum_backward", torch.rand(1, 2), m, torch.rand(5, 2), offsets, False),
        ("ray_weights_backward", m[:4], m, offsets, False),
        ("ray_weights_double", m, m[:1], m, offsets, False),
        ("inverse_cdf", m, m, m[:4], offsets, torch.rand(2, 3)),
        ("merge_samples", offsets, m, m[:4], offsets, m, m),
        ("march", points[:2], points, near, far, None, occupied, box, 0.1, 0.0, 1000, "march"),
        ("march", points, points, near, far, None, occupied, box, 1e-30, 0.0, 1000, "march"),
        ("occupancy_lookup", points[:, :2].contiguous(), occupied, box),
        ("mlp", points, [torch.rand(8, 4)], [torch.rand(1, 8)], None),
        ("mlp", points, [torch.rand(200, 3), torch.rand(1, 200)], [torch.rand(1, 200), torch.rand(1, 1)], None),
    ]:
        for backend in backends():
            with pytest.raises((ValueError, RuntimeError, TypeError)):
                getattr(torch.ops.headfields, operation)(*arguments)
                pytest.fail(f"{operation} on {backend} took its arguments")


@only_native
def test_a_tree_that_is_none_is_an_error():
    tree = hf.ops.TriangleBVH(torch.randint(0, 30, (60, 3)), torch.rand(30, 3))
    vertices, faces, children, order, slot, bounds, triangles = tree._tree
    loop, deep, far = children.clone(), children.clone(), children.clone()
    loop[-1, 0], deep[0, 0], far[0, 0] = 0, len(children), ~len(slot)
    for damaged in (loop, deep, far, children[:0], children[:, :7]):
        with pytest.raises(ValueError, match="not a tree"):
            torch.ops.headfields.closest_triangle(
                torch.rand(5, 3), None, vertices, faces, damaged.contiguous(), order, slot, bounds, triangles, 1.0, True
            )
    with pytest.raises(IndexError, match="faces name a vertex"):
        torch.ops.headfields.bvh_refit(vertices[:, :5].contiguous(), faces, children, order, slot, tree._levels)


def test_faces_that_name_no_vertex_are_an_error_beside_a_tree_that_is_right():
    """The kernel that gives the nearest points reads the faces by itself."""
    arguments = list(hostile_calls.valid_calls()["closest_triangle"])
    faces = arguments[3].clone()
    faces[2, 1] = 2**31 - 1
    arguments[3] = faces
    with hf.use_cpu_backend("warp"), pytest.raises(IndexError, match="closest: faces holds 2147483647"):
        torch.ops.headfields.closest_triangle(*arguments)
