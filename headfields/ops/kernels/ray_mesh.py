"""Rays against the triangle tree in Warp: first hit, and the interval within a margin of the surface."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.kernels.closest_triangle import (
    load3,
    stack_float,
    stack_int,
    usable,
)

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def reciprocal(d: float):
    """1 / d, finite where d is 0."""
    if wp.abs(d) > 1.0e-30:
        return 1.0 / d
    return 1.0e30  # finite along an axis the ray does not move on, so that no product is NaN


@wp.func
@no_type_check
def box_interval(o: wp.vec3, inverse: wp.vec3, lo: wp.vec3, hi: wp.vec3):
    """Where the ray enters and leaves a box; enter > leave where it misses."""
    enter = wp.float32(0.0)
    leave = wp.float32(wp.inf)
    if lo[0] > hi[0]:
        return wp.vec2(wp.inf, -wp.inf)
    for axis in range(3):
        s = (lo[axis] - o[axis]) * inverse[axis]
        t = (hi[axis] - o[axis]) * inverse[axis]
        enter = wp.max(enter, wp.min(s, t))
        leave = wp.min(leave, wp.max(s, t))
    return wp.vec2(enter, leave * 1.0000004)


@wp.func
@no_type_check
def edge_volume(p: wp.vec3, q: wp.vec3, d: wp.vec3):
    """On which side of an edge from p to q a ray through the origin passes: six times a signed volume."""
    return wp.dot(wp.cross(p + q, q - p), d)


@wp.kernel
@no_type_check
def raycast(
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
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
    """One thread per ray: the first face hit, from either side; with `fused` also barycentrics and distance."""
    i = wp.tid()
    o = origins[i]
    d = directions[i]
    mesh = wp.int32(0)
    if indexed != 0:
        mesh = mesh_index[i]
    inverse = wp.vec3(reciprocal(d[0]), reciprocal(d[1]), reciprocal(d[2]))
    best = max_distance
    weights = wp.vec3(0.0, 0.0, 0.0)
    best_slot = wp.int32(-1)
    stack = stack_int()
    keys = stack_float()
    top = wp.int32(0)
    if usable(o) and usable(d) and mesh >= 0 and mesh < bounds.shape[0]:
        stack[0] = 0
        keys[0] = 0.0
        top = wp.int32(1)
    while top > 0:
        top -= 1
        child = stack[top]
        if keys[top] <= best:
            if child < 0:
                leaf = -1 - child
                for k in range(8):
                    gu = load3(triangles, mesh, leaf * 144, 9, k)
                    a = load3(triangles, mesh, leaf * 144, 0, k) - o
                    b = load3(triangles, mesh, leaf * 144, 3, k) - o
                    c = load3(triangles, mesh, leaf * 144, 6, k) - o
                    w = wp.vec3(edge_volume(b, c, d), edge_volume(c, a, d), edge_volume(a, b, d))
                    normal = wp.cross(b - a, c - a)
                    slope = wp.dot(normal, d)
                    one_sided = wp.min(w) >= 0.0 or wp.max(w) <= 0.0
                    if one_sided and wp.dot(gu, gu) > 0.0 and slope != 0.0 and w[0] + w[1] + w[2] != 0.0:
                        t = wp.dot(normal, a) / slope
                        if t >= 0.0 and (t < best or (best_slot < 0 and t <= best)):
                            best = t
                            weights = w
                            best_slot = leaf * 8 + k
            else:
                start = top
                for k in range(8):
                    lo = load3(bounds, mesh, child * 48, 0, k)
                    hi = load3(bounds, mesh, child * 48, 3, k)
                    span = box_interval(o, inverse, lo, hi)
                    if span[0] <= span[1] and span[0] <= best:
                        at = top
                        while at > start and keys[at - 1] < span[0]:
                            stack[at] = stack[at - 1]
                            keys[at] = keys[at - 1]
                            at -= 1
                        stack[at] = children[child, k]
                        keys[at] = span[0]
                        top += 1
    if best_slot >= 0:
        face[i] = wp.int64(order[best_slot])
        weights = weights / (weights[0] + weights[1] + weights[2])
    else:
        face[i] = wp.int64(-1)
        best = wp.inf
    if fused != 0:
        barycentric[i] = weights
        distance[i] = best


@wp.func
@no_type_check
def clip(span: wp.vec2, c0: float, c1: float):
    """The part of the span where c0 + t c1 >= 0."""
    if c1 > 0.0:
        return wp.vec2(wp.max(span[0], -c0 / c1), span[1])
    if c1 < 0.0:
        return wp.vec2(span[0], wp.min(span[1], -c0 / c1))
    if c0 < 0.0:
        return wp.vec2(wp.inf, -wp.inf)
    return span


@wp.func
@no_type_check
def within(a: float, b: float, c: float):
    """Where a t^2 + 2 b t + c <= 0; everywhere or nowhere where a is 0 but for rounding."""
    if a > 1.0e-10:
        discriminant = b * b - a * c
        if discriminant >= 0.0:
            root = wp.sqrt(discriminant)
            return wp.vec2((-b - root) / a, (root - b) / a)
    elif c <= 0.0:
        return wp.vec2(-wp.inf, wp.inf)
    return wp.vec2(wp.inf, -wp.inf)


@wp.func
@no_type_check
def join(span: wp.vec2, part: wp.vec2):
    """The smallest interval that holds both; `part` may be empty."""
    if part[0] <= part[1]:
        return wp.vec2(wp.min(span[0], part[0]), wp.max(span[1], part[1]))
    return span


@wp.func
@no_type_check
def join_edge(span: wp.vec2, w: wp.vec3, edge: wp.vec3, inverse: float, d: wp.vec3, margin2: float):
    """With the cylinder around an edge and the ball around its start; w runs from the start to the ray."""
    s0 = wp.dot(w, edge) * inverse
    s1 = wp.dot(d, edge) * inverse
    wp_ = w - s0 * edge
    dp = d - s1 * edge
    cylinder = within(wp.dot(dp, dp), wp.dot(wp_, dp), wp.dot(wp_, wp_) - margin2)
    cylinder = clip(clip(cylinder, s0, s1), 1.0 - s0, -s1)
    return join(join(span, cylinder), within(wp.dot(d, d), wp.dot(w, d), wp.dot(w, w) - margin2))


@wp.func
@no_type_check
def triangle_span(
    o: wp.vec3, d: wp.vec3, triangles: wp.array(dtype=wp.float32, ndim=2), mesh: int, base: int, k: int, margin: float
):
    """The interval of the ray within `margin` of one triangle: prism, three cylinders, three balls."""
    a = load3(triangles, mesh, base, 0, k)
    empty = wp.vec2(wp.inf, -wp.inf)
    if not usable(a):
        return empty
    b = load3(triangles, mesh, base, 3, k)
    c = load3(triangles, mesh, base, 6, k)
    gu = load3(triangles, mesh, base, 9, k)
    gv = load3(triangles, mesh, base, 12, k)
    shift = wp.dot(a - o, d)  # measured from the point nearest to a: small numbers
    w = o + shift * d - a
    m2 = margin * margin
    span = join_edge(empty, w, b - a, triangles[mesh, base + 120 + k], d, m2)
    span = join_edge(span, w - (b - a), c - b, triangles[mesh, base + 136 + k], d, m2)
    span = join_edge(span, w - (c - a), a - c, triangles[mesh, base + 128 + k], d, m2)
    if wp.dot(gu, gu) > 0.0:
        normal = wp.cross(b - a, c - a)
        normal = normal / wp.sqrt(wp.dot(normal, normal))
        h0 = wp.dot(normal, w)
        h1 = wp.dot(normal, d)
        prism = clip(clip(wp.vec2(-wp.inf, wp.inf), margin + h0, h1), margin - h0, -h1)
        prism = clip(clip(prism, wp.dot(gu, w), wp.dot(gu, d)), wp.dot(gv, w), wp.dot(gv, d))
        span = join(span, clip(prism, 1.0 - wp.dot(gu + gv, w), -wp.dot(gu + gv, d)))
    if span[0] <= span[1] and span[1] + shift >= 0.0:
        return wp.vec2(wp.max(span[0] + shift, 0.0), span[1] + shift)
    return empty


@wp.kernel
@no_type_check
def interval(
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    mesh_index: wp.array(dtype=wp.int32),
    indexed: int,
    children: wp.array(dtype=wp.int32, ndim=2),
    bounds: wp.array(dtype=wp.float32, ndim=2),
    triangles: wp.array(dtype=wp.float32, ndim=2),
    margin: float,
    near: wp.array(dtype=wp.float32),
    far: wp.array(dtype=wp.float32),
):
    """One thread per ray: first and last distance within the margin of the mesh."""
    i = wp.tid()
    o = origins[i]
    d = directions[i]
    mesh = wp.int32(0)
    if indexed != 0:
        mesh = mesh_index[i]
    inverse = wp.vec3(reciprocal(d[0]), reciprocal(d[1]), reciprocal(d[2]))
    ends = wp.vec2(wp.inf, -wp.inf)
    grown = wp.vec3(margin, margin, margin) * 1.00001
    stack = stack_int()
    keys = stack_float()
    passes = wp.int32(0)
    if usable(o) and usable(d) and mesh >= 0 and mesh < bounds.shape[0]:
        passes = 2
    for backward in range(passes):  # front to back for the first distance, back to front for the last
        stack[0] = 0
        keys[0] = -wp.inf
        top = wp.int32(1)
        while top > 0:
            top -= 1
            child = stack[top]
            bound = ends[0]
            if backward == 1:
                bound = -ends[1]
            if keys[top] < bound:
                if child < 0:
                    leaf = -1 - child
                    for k in range(8):
                        ends = join(ends, triangle_span(o, d, triangles, mesh, leaf * 144, k, margin))
                else:
                    start = top
                    for k in range(8):
                        lo = load3(bounds, mesh, child * 48, 0, k)
                        hi = load3(bounds, mesh, child * 48, 3, k)
                        span = box_interval(o, inverse, lo - grown, hi + grown)
                        # The ball around the box: a grown box has corners that no point within the margin reaches.
                        half = 0.5 * (hi - lo)
                        radius = 1.0001 * (wp.length(half) + margin)
                        middle = wp.dot(lo + half - o, d)
                        squared = radius * radius - wp.length_sq(o + middle * d - lo - half)
                        if squared >= 0.0 and span[0] <= span[1]:
                            reach = wp.sqrt(squared)
                            span = wp.vec2(wp.max(span[0], middle - reach), wp.min(span[1], middle + reach))
                            key = span[0]
                            if backward == 1:
                                key = -span[1]
                            if span[0] <= span[1] and key < bound:
                                at = top
                                while at > start and keys[at - 1] < key:
                                    stack[at] = stack[at - 1]
                                    keys[at] = keys[at - 1]
                                    at -= 1
                                stack[at] = children[child, k]
                                keys[at] = key
                                top += 1
    near[i] = ends[0]
    far[i] = ends[1]
