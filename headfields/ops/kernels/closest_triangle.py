"""The triangle tree in Warp: refit (csrc/bvh.h has the layout) and nearest triangle."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
# Without fused products: what is ranked, and which of equals is first, is the same number on every device.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})

FAR = wp.constant(1.0e18)  # larger coordinates have no result: their squares would overflow
NOWHERE = wp.constant(1.0e30)  # where the triangle of an empty lane lies
TIE = wp.constant(1.0e-6)  # as in csrc/bvh.h
SLACK = wp.constant(2.4e-7)
EMPTY = wp.constant(-(2**31))
stack_int = wp.types.vector(length=64, dtype=wp.int32)  # nine levels, seven siblings per level
stack_float = wp.types.vector(length=64, dtype=wp.float32)


@wp.func
@no_type_check
def load3(rows: wp.array(dtype=wp.float32, ndim=2), b: int, base: int, row: int, k: int):
    """The vector of lane `k` in three rows of eight from `row` on, of the block that begins at `base`."""
    at = base + row * 8 + k
    return wp.vec3(rows[b, at], rows[b, at + 8], rows[b, at + 16])


@wp.func
@no_type_check
def store3(rows: wp.array(dtype=wp.float32, ndim=2), b: int, base: int, row: int, k: int, v: wp.vec3):
    """The reverse of `load3`."""
    at = base + row * 8 + k
    rows[b, at] = v[0]
    rows[b, at + 8] = v[1]
    rows[b, at + 16] = v[2]


@wp.func
@no_type_check
def store_box(bounds: wp.array(dtype=wp.float32, ndim=2), mesh: int, slot: int, lo: wp.vec3, hi: wp.vec3):
    """Writes the box of a leaf into the node above it: eight slots are a node."""
    node = slot / 8
    lane = slot - 8 * node
    store3(bounds, mesh, node * 48, 0, lane, lo)
    store3(bounds, mesh, node * 48, 3, lane, hi)


@wp.func
@no_type_check
def box_distance2(p: wp.vec3, bounds: wp.array(dtype=wp.float32, ndim=2), mesh: int, node: int, k: int):
    """Squared distance to the box of child `k`; 0 within it, infinite to that of an empty lane."""
    lo = load3(bounds, mesh, node * 48, 0, k)
    hi = load3(bounds, mesh, node * 48, 3, k)
    return wp.length_sq(wp.max(wp.max(lo - p, p - hi), wp.vec3(0.0, 0.0, 0.0)))


@wp.func
@no_type_check
def mesh_of(mesh_index: wp.array(dtype=wp.int32), indexed: int, query: int):
    """The mesh that a query asks: the first one where there is no index."""
    mesh = wp.int32(0)
    if indexed != 0:
        mesh = mesh_index[query]
    return mesh


@wp.func
@no_type_check
def usable(v: wp.vec3):
    """Whether a vertex or a point is finite and not too far out for float32."""
    return wp.abs(v[0]) < FAR and wp.abs(v[1]) < FAR and wp.abs(v[2]) < FAR


@wp.func
@no_type_check
def inverse_or_zero(x: float, least: float):
    """1 / x, and 0 where x is at most `least`: an edge or a triangle without extent has no slope."""
    if x > least:
        return 1.0 / x
    return 0.0


@wp.kernel
@no_type_check
def refit_leaves(
    vertices: wp.array(dtype=wp.vec3, ndim=2),
    faces: wp.array(dtype=wp.int32, ndim=2),
    order: wp.array(dtype=wp.int32),
    slot: wp.array(dtype=wp.int32),
    bounds: wp.array(dtype=wp.float32, ndim=2),
    triangles: wp.array(dtype=wp.float32, ndim=2),
):
    """One thread per leaf and mesh: writes its eight triangles, and their boxes into the node above."""
    mesh, leaf = wp.tid()
    lo = wp.vec3(wp.inf, wp.inf, wp.inf)
    hi = wp.vec3(-wp.inf, -wp.inf, -wp.inf)
    base = leaf * 144
    for k in range(8):
        face = order[leaf * 8 + k]
        a = wp.vec3(NOWHERE, NOWHERE, NOWHERE)
        b = a
        c = a
        if face >= 0:
            pa = vertices[mesh, faces[face, 0]]
            pb = vertices[mesh, faces[face, 1]]
            pc = vertices[mesh, faces[face, 2]]
            if usable(pa) and usable(pb) and usable(pc):
                a = pa
                b = pb
                c = pc
                lo = wp.min(lo, wp.min(a, wp.min(b, c)))
                hi = wp.max(hi, wp.max(a, wp.max(b, c)))
        ab = b - a
        ac = c - a
        n = wp.cross(ab, ac)
        n2 = wp.dot(n, n)
        inverse = 0.0
        if n2 > 1.0e-12 * wp.dot(ab, ab) * wp.dot(ac, ac):
            inverse = inverse_or_zero(n2, 1.0e-36)
        store3(triangles, mesh, base, 0, k, a)
        store3(triangles, mesh, base, 3, k, b)
        store3(triangles, mesh, base, 6, k, c)
        store3(triangles, mesh, base, 9, k, inverse * wp.cross(ac, n))
        store3(triangles, mesh, base, 12, k, inverse * wp.cross(n, ab))
        triangles[mesh, base + 120 + k] = inverse_or_zero(wp.dot(ab, ab), 1.0e-30)
        triangles[mesh, base + 128 + k] = inverse_or_zero(wp.dot(ac, ac), 1.0e-30)
        triangles[mesh, base + 136 + k] = inverse_or_zero(wp.dot(c - b, c - b), 1.0e-30)
    store_box(bounds, mesh, slot[leaf], lo, hi)


@wp.kernel
@no_type_check
def refit_nodes(children: wp.array(dtype=wp.int32, ndim=2), first: int, bounds: wp.array(dtype=wp.float32, ndim=2)):
    """One thread a node of one level and mesh, deepest level first: the boxes of its children that are nodes."""
    mesh, offset = wp.tid()
    node = first + offset
    for k in range(8):
        child = children[node, k]
        if child >= 0 or child == EMPTY:
            lo = wp.vec3(wp.inf, wp.inf, wp.inf)
            hi = wp.vec3(-wp.inf, -wp.inf, -wp.inf)
            if child >= 0:
                for j in range(8):
                    lo = wp.min(lo, load3(bounds, mesh, child * 48, 0, j))
                    hi = wp.max(hi, load3(bounds, mesh, child * 48, 3, j))
            store3(bounds, mesh, node * 48, 0, k, lo)
            store3(bounds, mesh, node * 48, 3, k, hi)


@wp.func
@no_type_check
def along(p: wp.vec3, edge: wp.vec3, inverse: float):
    """The foot of p on an edge from the origin: 0 at its start, 1 at its end; `inverse` is 1 / |edge|²."""
    return wp.clamp(wp.dot(p, edge) * inverse, 0.0, 1.0)


@wp.func
@no_type_check
def squared_distance(p: wp.vec3, triangles: wp.array(dtype=wp.float32, ndim=2), mesh: int, base: int, k: int):
    """The least of the squared distances to the candidates of the reference."""
    a = load3(triangles, mesh, base, 0, k)
    b = load3(triangles, mesh, base, 3, k)
    c = load3(triangles, mesh, base, 6, k)
    ap = p - a
    s = along(ap, b - a, triangles[mesh, base + 120 + k])
    best = wp.length_sq(ap - s * (b - a))
    s = along(ap, c - a, triangles[mesh, base + 128 + k])
    best = wp.min(best, wp.length_sq(ap - s * (c - a)))
    s = along(p - b, c - b, triangles[mesh, base + 136 + k])
    best = wp.min(best, wp.length_sq(p - b - s * (c - b)))
    u = wp.dot(load3(triangles, mesh, base, 9, k), ap)
    v = wp.dot(load3(triangles, mesh, base, 12, k), ap)
    if u > 0.0 and v > 0.0 and u + v < 1.0:
        best = wp.min(best, wp.length_sq(ap - u * (b - a) - v * (c - a)))
    return best


@wp.func
@no_type_check
def double3(v: wp.vec3):
    """In double precision."""
    return wp.vec3d(wp.float64(v[0]), wp.float64(v[1]), wp.float64(v[2]))


@wp.func
@no_type_check
def along_double(p: wp.vec3d, edge: wp.vec3d):
    """As `along`, in double precision; 0 on an edge without extent."""
    squared = wp.dot(edge, edge)
    t = wp.float64(0.0)
    if squared > wp.float64(1.0e-60):
        t = wp.dot(p, edge) / squared
    return wp.clamp(t, wp.float64(0.0), wp.float64(1.0))


@wp.func
@no_type_check
def refined(point: wp.vec3, first: wp.vec3, second: wp.vec3, third: wp.vec3):
    """Barycentric coordinates of the nearest point of the chosen triangle and, last, its distance, in double precision:
    far away, float32 loses the foot."""
    one = wp.float64(1.0)
    zero = wp.float64(0.0)
    ap = double3(point) - double3(first)
    ab = double3(second) - double3(first)
    ac = double3(third) - double3(first)
    bp = double3(point) - double3(second)
    bc = double3(third) - double3(second)
    s = along_double(ap, ab)
    best = wp.vec4d(one - s, s, zero, wp.length_sq(ap - s * ab))
    s = along_double(ap, ac)
    squared = wp.length_sq(ap - s * ac)
    if squared < best[3]:
        best = wp.vec4d(one - s, zero, s, squared)
    s = along_double(bp, bc)
    squared = wp.length_sq(bp - s * bc)
    if squared < best[3]:
        best = wp.vec4d(zero, one - s, s, squared)
    n = wp.cross(ab, ac)
    n2 = wp.dot(n, n)
    if n2 > wp.float64(1.0e-24) * wp.dot(ab, ab) * wp.dot(ac, ac) and n2 > wp.float64(1.0e-100):
        u = wp.dot(wp.cross(ac, n), ap) / n2
        v = wp.dot(wp.cross(n, ab), ap) / n2
        if u > zero and v > zero and u + v < one:
            squared = wp.length_sq(ap - u * ab - v * ac)
            if squared < best[3]:
                best = wp.vec4d(one - u - v, u, v, squared)
    return wp.vec4(wp.float32(best[0]), wp.float32(best[1]), wp.float32(best[2]), wp.float32(wp.sqrt(best[3])))


@wp.func
@no_type_check
def largest(v: wp.vec3):
    """The largest magnitude of a component."""
    return wp.max(wp.abs(v[0]), wp.max(wp.abs(v[1]), wp.abs(v[2])))


@wp.func
@no_type_check
def within(best: float, slack: float, ties: float):
    """Squared distances below this count as equal to `best`, for 1 tie; generously for more."""
    distance = wp.sqrt(best) * (1.0 + ties * TIE) + ties * slack
    return distance * distance + 1.0e-30


@wp.kernel
@no_type_check
def closest(
    points: wp.array(dtype=wp.vec3),
    mesh_index: wp.array(dtype=wp.int32),
    indexed: int,
    children: wp.array(dtype=wp.int32, ndim=2),
    order: wp.array(dtype=wp.int32),
    bounds: wp.array(dtype=wp.float32, ndim=2),
    triangles: wp.array(dtype=wp.float32, ndim=2),
    max_distance: float,
    fused: int,
    face: wp.array(dtype=wp.int64),
    barycentric: wp.array(dtype=wp.vec3),
    distance: wp.array(dtype=wp.float32),
):
    """One thread per point: the nearest face, the lowest index of equally near ones; with `fused` its foot too."""
    i = wp.tid()
    p = points[i]
    mesh = mesh_of(mesh_index, indexed, i)
    best = max_distance * max_distance * 1.00001 + 1.0e-30
    equal = best  # and what counts as equal to it: see csrc/kernels/bvh_closest.cpp
    bound = best
    slack = wp.float32(0.0)
    chosen = wp.int32(-1)
    chosen_squared = wp.float32(wp.inf)
    best_slot = wp.int32(-1)
    passed = wp.bool(False)  # whether a face gave way to a lower index
    again = wp.bool(False)
    stack = stack_int()
    keys = stack_float()
    top = wp.int32(0)
    if usable(p) and mesh >= 0 and mesh < bounds.shape[0]:
        stack[0] = 0
        keys[0] = 0.0
        top = wp.int32(1)
        for k in range(8):
            lo = load3(bounds, mesh, 0, 0, k)
            if lo[0] < wp.inf:
                slack = wp.max(slack, wp.max(largest(lo), largest(load3(bounds, mesh, 0, 3, k))))
        slack = slack * SLACK
        equal = within(best, slack, 1.0)  # of what is nearer than the limit, and may be at it
        bound = within(best, slack, 2.0)
    while top > 0:
        top -= 1
        child = stack[top]
        if keys[top] < bound and child != EMPTY:
            if child < 0:
                leaf = -1 - child
                for k in range(children.shape[1]):  # eight: a constant would unroll the loop, into twice the registers
                    squared = squared_distance(p, triangles, mesh, leaf * 144, k)
                    if squared < equal:
                        if squared < best:
                            best = squared
                            equal = within(best, slack, 1.0)
                            bound = within(best, slack, 2.0)
                        index = order[leaf * 8 + k]
                        if chosen < 0 or index < chosen or chosen_squared >= equal:
                            if chosen_squared >= equal and passed:
                                again = wp.bool(True)  # what was passed over may be the lowest of those left
                            chosen = index
                            chosen_squared = squared
                            best_slot = leaf * 8 + k
                        else:
                            passed = wp.bool(True)
            else:
                start = top
                for k in range(8):
                    squared = box_distance2(p, bounds, mesh, child, k)
                    if squared < bound:
                        at = top
                        while at > start and keys[at - 1] < squared:
                            stack[at] = stack[at - 1]
                            keys[at] = keys[at - 1]
                            at -= 1
                        stack[at] = children[child, k]
                        keys[at] = squared
                        top += 1
        if top == 0 and again:  # once more, now that the least distance is known
            again = wp.bool(False)
            passed = wp.bool(False)
            chosen = wp.int32(-1)
            stack[0] = 0
            keys[0] = 0.0
            top = wp.int32(1)
    length = wp.inf
    answer = wp.vec4()
    if best_slot >= 0:
        base = (best_slot / 8) * 144
        k = best_slot - (best_slot / 8) * 8
        a = load3(triangles, mesh, base, 0, k)
        answer = refined(p, a, load3(triangles, mesh, base, 3, k), load3(triangles, mesh, base, 6, k))
        length = answer[3]
    if length > max_distance:
        best_slot = wp.int32(-1)
    if best_slot >= 0:
        face[i] = wp.int64(order[best_slot])
    else:
        face[i] = wp.int64(-1)
        answer = wp.vec4(0.0, 0.0, 0.0, 0.0)
        length = wp.inf
    if fused != 0:
        barycentric[i] = wp.vec3(answer[0], answer[1], answer[2])
        distance[i] = length
