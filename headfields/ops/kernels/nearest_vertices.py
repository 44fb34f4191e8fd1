"""The tree over vertices in Warp: refit (csrc/nearest_vertices.h has the layout) and the k nearest vertices."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.kernels.closest_triangle import (
    EMPTY,
    NOWHERE,
    box_distance2,
    load3,
    mesh_of,
    stack_float,
    stack_int,
    store3,
    store_box,
    usable,
)
from headfields.ops.reference.nearest_vertices import MAX_NEIGHBORS

wp = warp()
# Without fused products: what is ranked, and which of equals is first, is the same number on every device.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})

SLACK = wp.constant(1.0 + 1.0e-6)  # exceeds float32 rounding error of a squared distance
best_int = wp.types.vector(length=MAX_NEIGHBORS, dtype=wp.int32)
best_float = wp.types.vector(length=MAX_NEIGHBORS, dtype=wp.float32)


@wp.kernel
@no_type_check
def refit_leaves(
    vertices: wp.array(dtype=wp.vec3, ndim=2),
    order: wp.array(dtype=wp.int32),
    slot: wp.array(dtype=wp.int32),
    bounds: wp.array(dtype=wp.float32, ndim=2),
    positions: wp.array(dtype=wp.float32, ndim=2),
):
    """One thread per leaf and mesh: writes its eight vertices, and their box into the node above."""
    mesh, leaf = wp.tid()
    lo = wp.vec3(wp.inf, wp.inf, wp.inf)
    hi = wp.vec3(-wp.inf, -wp.inf, -wp.inf)
    for k in range(8):
        vertex = order[leaf * 8 + k]
        v = wp.vec3(NOWHERE, NOWHERE, NOWHERE)
        if vertex >= 0:
            position = vertices[mesh, vertex]
            if usable(position):
                v = position
                lo = wp.min(lo, v)
                hi = wp.max(hi, v)
        store3(positions, mesh, leaf * 24, 0, k, v)
    store_box(bounds, mesh, slot[leaf], lo, hi)


@wp.func
@no_type_check
def distance2(p: wp.vec3, v: wp.vec3):
    """Squared distance in float64, so that all backends order vertices identically."""
    x = wp.float64(p[0]) - wp.float64(v[0])
    y = wp.float64(p[1]) - wp.float64(v[1])
    z = wp.float64(p[2]) - wp.float64(v[2])
    return x * x + y * y + z * z


@wp.kernel
@no_type_check
def nearest(
    points: wp.array(dtype=wp.vec3),
    mesh_index: wp.array(dtype=wp.int32),
    indexed: int,
    children: wp.array(dtype=wp.int32, ndim=2),
    order: wp.array(dtype=wp.int32),
    bounds: wp.array(dtype=wp.float32, ndim=2),
    positions: wp.array(dtype=wp.float32, ndim=2),
    max_distance: float,
    index: wp.array(dtype=wp.int64, ndim=2),
    fused: int,
    distance: wp.array(dtype=wp.float32, ndim=2),
):
    """One thread per point: its nearest vertices by distance and then by index; with `fused` also their distances."""
    i = wp.tid()
    p = points[i]
    mesh = mesh_of(mesh_index, indexed, i)
    count = index.shape[1]
    squared = best_float()
    vertex = best_int()
    for j in range(count):
        squared[j] = wp.inf
        vertex[j] = -1
    bound = max_distance * max_distance * 1.00001 + 1.0e-30
    stack = stack_int()
    keys = stack_float()
    top = wp.int32(0)
    if usable(p) and mesh >= 0 and mesh < bounds.shape[0]:
        stack[0] = 0
        keys[0] = 0.0
        top = wp.int32(1)
    while top > 0:
        top -= 1
        child = stack[top]
        if keys[top] < bound and child != EMPTY:
            if child < 0:
                leaf = -1 - child
                for k in range(8):
                    v = load3(positions, mesh, leaf * 24, 0, k)
                    if wp.length_sq(p - v) < bound:
                        exact = distance2(p, v)
                        rank = wp.float32(exact)
                        candidate = order[leaf * 8 + k]
                        better = rank < squared[count - 1]
                        if rank == squared[count - 1] and candidate < vertex[count - 1]:
                            better = True
                        if wp.float32(wp.sqrt(exact)) > max_distance:
                            better = False
                        if better:
                            at = count - 1
                            while at > 0 and (
                                squared[at - 1] > rank or (squared[at - 1] == rank and vertex[at - 1] > candidate)
                            ):
                                squared[at] = squared[at - 1]
                                vertex[at] = vertex[at - 1]
                                at -= 1
                            squared[at] = rank
                            vertex[at] = candidate
                            bound = wp.min(bound, squared[count - 1] * SLACK + 1.0e-30)
            else:
                start = top
                for k in range(8):
                    away = box_distance2(p, bounds, mesh, child, k)
                    if away < bound:
                        at = top
                        while at > start and keys[at - 1] < away:
                            stack[at] = stack[at - 1]
                            keys[at] = keys[at - 1]
                            at -= 1
                        stack[at] = children[child, k]
                        keys[at] = away
                        top += 1
    for j in range(count):
        index[i, j] = wp.int64(vertex[j])
        if fused != 0:
            distance[i, j] = wp.sqrt(squared[j])
