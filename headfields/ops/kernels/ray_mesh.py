"""Rays against the triangle tree in Warp: first hit, and the interval within a margin of the surface."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.kernels.closest_triangle import (
    EMPTY,
    double3,
    load3,
    mesh_of,
    stack_float,
    stack_int,
    usable,
)

wp = warp()
# Without fused products: what is ranked, and which of equals is first, is the same number on every device.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})


@wp.func
@no_type_check
def reciprocal(d: float):
    """1 / d, finite where d is 0."""
    if wp.abs(d) > 1.0e-30:
        return 1.0 / d
    return 1.0e30  # finite along an axis the ray does not move on, so that no product is NaN


@wp.func
@no_type_check
def outward(o: float, d: float):
    """By how much the planes across an axis on which the ray does not move are moved: it may lie within one."""
    if wp.abs(d) > 1.0e-30:
        return 0.0
    return 1.0e-6 * wp.abs(o) + 1.0e-10


@wp.func
@no_type_check
def box_interval(o: wp.vec3, inverse: wp.vec3, pad: wp.vec3, lo: wp.vec3, hi: wp.vec3):
    """Where the ray enters and leaves a box; enter > leave where it misses."""
    enter = wp.float32(0.0)
    leave = wp.float32(wp.inf)
    if lo[0] > hi[0]:
        return wp.vec2(wp.inf, -wp.inf)
    for axis in range(3):
        s = (lo[axis] - (o[axis] + pad[axis])) * inverse[axis]
        t = (hi[axis] - (o[axis] - pad[axis])) * inverse[axis]
        enter = wp.max(enter, wp.min(s, t))
        leave = wp.min(leave, wp.max(s, t))
    return wp.vec2(enter, leave * 1.0000004)


@wp.func
@no_type_check
def main_axis(d: wp.vec3):
    """The axis along which the ray moves farthest."""
    x = wp.abs(d[0])
    y = wp.abs(d[1])
    z = wp.abs(d[2])
    axis = wp.int32(2)
    if x > y:
        if x > z:
            axis = 0
    else:
        if y > z:
            axis = 1
    return axis


@wp.func
@no_type_check
def turned(v: wp.vec3, axis: int):
    """The vector with `axis` as its last component, the order of the others kept."""
    result = v
    if axis == 0:
        result = wp.vec3(v[1], v[2], v[0])
    if axis == 1:
        result = wp.vec3(v[2], v[0], v[1])
    return result


@wp.func
@no_type_check
def may_hit(a: wp.vec3, b: wp.vec3, c: wp.vec3, slope_x: float, slope_y: float):
    """False only where the ray certainly misses: see csrc/kernels/bvh_raycast.cpp. Corners are `turned`."""
    ax = a[0] - slope_x * a[2]
    ay = a[1] - slope_y * a[2]
    bx = b[0] - slope_x * b[2]
    by = b[1] - slope_y * b[2]
    cx = c[0] - slope_x * c[2]
    cy = c[1] - slope_y * c[2]
    w = bx * cy - by * cx
    u = cx * ay - cy * ax
    v = ax * by - ay * bx
    deep = wp.max(wp.abs(a[2]), wp.max(wp.abs(b[2]), wp.abs(c[2])))
    wide = wp.max(wp.max(wp.abs(ax), wp.abs(ay)), wp.max(wp.abs(bx), wp.abs(by)))
    wide = wp.max(wide, wp.max(wp.abs(cx), wp.abs(cy)))
    off = 2.5e-7 * (wide + deep)
    error = 5.0 * off * (wide + off) + 1.0e-30
    return wp.min(w, wp.min(u, v)) >= -error or wp.max(w, wp.max(u, v)) <= error


@wp.func
@no_type_check
def sheared(corner: wp.vec3d, d: wp.vec3d):
    """A corner in the plane across the ray: the same numbers for every face that has it."""
    return wp.vec3d(d[2] * corner[0] - d[0] * corner[2], d[2] * corner[1] - d[1] * corner[2], corner[2])


@wp.func
@no_type_check
def difference(a: wp.float64, b: wp.float64):
    """Of two products, with its sign or 0 however the compiler contracts it."""
    result = wp.float64(0.0)
    if a != b:
        result = a - b
    return result


@wp.func
@no_type_check
def exact_hit(a: wp.vec3d, b: wp.vec3d, c: wp.vec3d, d: wp.vec3d):
    """Barycentric coordinates and, last, the distance; NaN where the triangle is missed. See bvh_raycast.cpp."""
    p = sheared(a, d)
    q = sheared(b, d)
    r = sheared(c, d)
    zero = wp.float64(0.0)
    w = difference(q[0] * r[1], q[1] * r[0])
    u = difference(r[0] * p[1], r[1] * p[0])
    v = difference(p[0] * q[1], p[1] * q[0])
    total = w + u + v
    result = wp.vec4(0.0, 0.0, 0.0, wp.nan)
    if ((w >= zero and u >= zero and v >= zero) or (w <= zero and u <= zero and v <= zero)) and total != zero:
        w = w / total
        u = u / total
        v = v / total
        t = (w * p[2] + u * q[2] + v * r[2]) / d[2]
        result = wp.vec4(wp.float32(w), wp.float32(u), wp.float32(v), wp.float32(t))
    return result


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
    mesh = mesh_of(mesh_index, indexed, i)
    inverse = wp.vec3(reciprocal(d[0]), reciprocal(d[1]), reciprocal(d[2]))
    pad = wp.vec3(outward(o[0], d[0]), outward(o[1], d[1]), outward(o[2], d[2]))
    axis = main_axis(d)
    exact = double3(turned(d, axis))
    slope_x = wp.float32(exact[0] / exact[2])
    slope_y = wp.float32(exact[1] / exact[2])
    from_o = turned(o, axis)
    best = max_distance
    weights = wp.vec3(0.0, 0.0, 0.0)
    best_face = wp.int32(2147483647)  # of faces at one distance, which is rounded, the lowest index wins
    stack = stack_int()
    keys = stack_float()
    top = wp.int32(0)
    if usable(o) and usable(d) and exact[2] != wp.float64(0.0) and mesh >= 0 and mesh < bounds.shape[0]:
        stack[0] = 0
        keys[0] = 0.0
        top = wp.int32(1)
    while top > 0:
        top -= 1
        child = stack[top]
        if keys[top] <= best * 1.000001 and child != EMPTY:
            if child < 0:
                leaf = -1 - child
                for k in range(8):
                    a = turned(load3(triangles, mesh, leaf * 144, 0, k), axis)
                    b = turned(load3(triangles, mesh, leaf * 144, 3, k), axis)
                    c = turned(load3(triangles, mesh, leaf * 144, 6, k), axis)
                    if may_hit(a - from_o, b - from_o, c - from_o, slope_x, slope_y):
                        gu = load3(triangles, mesh, leaf * 144, 9, k)
                        at = double3(from_o)
                        hit = exact_hit(double3(a) - at, double3(b) - at, double3(c) - at, exact)
                        t = hit[3]
                        index = order[leaf * 8 + k]
                        nearer = t < best or (t == best and index < best_face)
                        if nearer and t >= 0.0 and t < wp.inf and (gu[0] != 0.0 or gu[1] != 0.0 or gu[2] != 0.0):
                            best = t
                            weights = wp.vec3(hit[0], hit[1], hit[2])
                            best_face = index
            else:
                start = top
                for k in range(8):
                    lo = load3(bounds, mesh, child * 48, 0, k)
                    hi = load3(bounds, mesh, child * 48, 3, k)
                    span = box_interval(o, inverse, pad, lo, hi)
                    if span[0] <= span[1] and span[0] <= best * 1.000001:
                        place = top
                        while place > start and keys[place - 1] < span[0]:
                            stack[place] = stack[place - 1]
                            keys[place] = keys[place - 1]
                            place -= 1
                        stack[place] = children[child, k]
                        keys[place] = span[0]
                        top += 1
    if best_face < 2147483647:
        face[i] = wp.int64(best_face)
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
    mesh = mesh_of(mesh_index, indexed, i)
    inverse = wp.vec3(reciprocal(d[0]), reciprocal(d[1]), reciprocal(d[2]))
    pad = wp.vec3(outward(o[0], d[0]), outward(o[1], d[1]), outward(o[2], d[2]))
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
            if keys[top] < bound and child != EMPTY:
                if child < 0:
                    leaf = -1 - child
                    for k in range(8):
                        ends = join(ends, triangle_span(o, d, triangles, mesh, leaf * 144, k, margin))
                else:
                    start = top
                    for k in range(8):
                        lo = load3(bounds, mesh, child * 48, 0, k)
                        hi = load3(bounds, mesh, child * 48, 3, k)
                        span = box_interval(o, inverse, pad, lo - grown, hi + grown)
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
