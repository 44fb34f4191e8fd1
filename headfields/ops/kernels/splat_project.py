"""Projection of Gaussians in Warp; `headfields.ops.reference.rasterize_gaussians.project` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.reference.rasterize_gaussians import FIELD_MARGIN, LEAST_ALPHA

wp = warp()
wp.set_module_options({"enable_backward": False})

LEAST = wp.constant(wp.float32(LEAST_ALPHA))
MARGIN = wp.constant(wp.float32(0.5 * FIELD_MARGIN))
row_type = wp.types.vector(length=10, dtype=wp.float32)


class Projected:
    """One Gaussian and everything on the way to its row."""

    local: wp.vec3  # in camera frame
    axes: wp.mat33
    a: wp.float32  # slopes x / z and y / z, and those within the margin
    b: wp.float32
    near_a: wp.float32
    near_b: wp.float32
    first: wp.vec3  # rows of lens · Jacobian, in camera frame
    second: wp.vec3
    p: wp.vec3  # in world frame
    q: wp.vec3
    e: wp.vec3  # in the Gaussian's frame
    f: wp.vec3
    m: wp.vec3  # scaled
    n: wp.vec3
    xx: wp.float32
    xy: wp.float32
    yy: wp.float32
    sharp: wp.float32  # the determinant without the low-pass, and with it
    blurred: wp.float32
    share: wp.float32  # of opacity, where antialiased
    normal: wp.vec3
    sign: wp.float32
    flattest: wp.int32
    row: row_type
    drawn: wp.bool


projected_type = wp.struct(Projected)  # no decorator: checkers of annotations take what it gives for a function


@wp.func
@no_type_check
def within(slope: wp.float32, focal: wp.float32, principal: wp.float32, pixels: wp.float32):
    margin = MARGIN * pixels
    return wp.max(wp.min(slope, (pixels - principal + margin) / focal), -(principal + margin) / focal)


@wp.func
@no_type_check
def projected(
    mean: wp.vec3,
    turn: wp.vec4,
    scale: wp.vec3,
    opacity: wp.float32,
    pose: wp.mat44,
    lens: wp.mat33,
    height: wp.int32,
    width: wp.int32,
    near: wp.float32,
    low_pass: wp.float32,
    antialiased: wp.bool,
):
    o = projected_type()
    squared = wp.dot(turn, turn)
    d = wp.float32(0.0)
    if squared > 0.0:
        d = 2.0 / squared
    w = turn[0]
    x = turn[1]
    y = turn[2]
    z = turn[3]
    o.axes = wp.mat33(
        1.0 - d * (y * y + z * z), d * (x * y - w * z), d * (x * z + w * y),
        d * (x * y + w * z), 1.0 - d * (x * x + z * z), d * (y * z - w * x),
        d * (x * z - w * y), d * (y * z + w * x), 1.0 - d * (x * x + y * y),
    )  # fmt: skip
    rotation = wp.mat33(
        pose[0, 0], pose[0, 1], pose[0, 2], pose[1, 0], pose[1, 1], pose[1, 2], pose[2, 0], pose[2, 1], pose[2, 2]
    )
    o.local = rotation * mean + wp.vec3(pose[0, 3], pose[1, 3], pose[2, 3])
    i = 1.0 / o.local[2]
    o.a = o.local[0] * i
    o.b = o.local[1] * i
    o.near_a = within(o.a, lens[0, 0], lens[0, 2], wp.float32(width))
    o.near_b = within(o.b, lens[1, 1], lens[1, 2], wp.float32(height))
    o.first = i * wp.vec3(lens[0, 0], lens[0, 1], -(lens[0, 0] * o.near_a + lens[0, 1] * o.near_b))
    o.second = i * wp.vec3(lens[1, 0], lens[1, 1], -(lens[1, 0] * o.near_a + lens[1, 1] * o.near_b))
    o.p = wp.transpose(rotation) * o.first
    o.q = wp.transpose(rotation) * o.second
    o.e = wp.transpose(o.axes) * o.p
    o.f = wp.transpose(o.axes) * o.q
    o.m = wp.cw_mul(o.e, scale)
    o.n = wp.cw_mul(o.f, scale)
    o.xx = wp.dot(o.m, o.m)
    o.xy = wp.dot(o.m, o.n)
    o.yy = wp.dot(o.n, o.n)
    area = wp.cross(o.m, o.n)
    o.sharp = wp.dot(area, area)
    o.blurred = o.sharp + low_pass * (o.xx + o.yy) + low_pass * low_pass
    o.share = wp.float32(1.0)
    if antialiased:
        o.share = wp.float32(0.0)
        if o.sharp > 0.0:
            o.share = wp.sqrt(o.sharp / o.blurred)
    o.flattest = wp.int32(0)
    if scale[1] < scale[0]:
        o.flattest = wp.int32(1)
    if scale[2] < scale[o.flattest]:
        o.flattest = wp.int32(2)
    o.normal = wp.vec3(o.axes[0, o.flattest], o.axes[1, o.flattest], o.axes[2, o.flattest])
    o.sign = wp.float32(1.0)
    if wp.dot(rotation * o.normal, o.local) > 0.0:
        o.sign = wp.float32(-1.0)
    r = row_type()
    r[0] = lens[0, 0] * o.a + lens[0, 1] * o.b + lens[0, 2]
    r[1] = lens[1, 0] * o.a + lens[1, 1] * o.b + lens[1, 2]
    r[2] = (o.yy + low_pass) / o.blurred
    r[3] = -o.xy / o.blurred
    r[4] = (o.xx + low_pass) / o.blurred
    r[5] = opacity * o.share
    r[6] = o.local[2]
    for k in range(3):
        r[7 + k] = o.sign * o.normal[k]
    o.row = r
    o.drawn = o.local[2] > near and r[5] >= LEAST
    for k in range(10):
        if not wp.isfinite(r[k]):
            o.drawn = False
    if not wp.isfinite(o.xx + o.yy):
        o.drawn = False
    return o


@wp.kernel
@no_type_check
def project(
    means: wp.array(dtype=wp.vec3, ndim=2),
    quaternions: wp.array(dtype=wp.vec4, ndim=2),
    scales: wp.array(dtype=wp.vec3, ndim=2),
    opacities: wp.array(dtype=wp.float32, ndim=2),
    pose: wp.array(dtype=wp.mat44),
    lens: wp.array(dtype=wp.mat33),
    height: wp.int32,
    width: wp.int32,
    near: wp.float32,
    low_pass: wp.float32,
    antialiased: wp.bool,
    rows: wp.array(dtype=wp.float32, ndim=3),
    radii: wp.array(dtype=wp.float32, ndim=2),
):
    c, i = wp.tid()
    o = projected(
        means[wp.min(c, means.shape[0] - 1), i], quaternions[wp.min(c, quaternions.shape[0] - 1), i],
        scales[wp.min(c, scales.shape[0] - 1), i], opacities[wp.min(c, opacities.shape[0] - 1), i],
        pose[c], lens[c], height, width, near, low_pass, antialiased,
    )  # fmt: skip
    radius = wp.float32(0.0)
    if o.drawn:
        apart = 0.5 * (o.xx - o.yy)
        longer = 0.5 * (o.xx + o.yy) + low_pass + wp.sqrt(apart * apart + o.xy * o.xy)
        reach = 2.0 * wp.log(o.row[5] / LEAST) / (o.row[2] * o.row[4] - o.row[3] * o.row[3])
        x = wp.sqrt(reach * o.row[4])
        y = wp.sqrt(reach * o.row[2])
        shown_x = o.row[0] + x > 0.0 and o.row[0] - x < wp.float32(width)
        shown_y = o.row[1] + y > 0.0 and o.row[1] - y < wp.float32(height)
        if shown_x and shown_y:
            radius = 3.0 * wp.sqrt(longer)
    for k in range(10):
        value = wp.float32(0.0)
        if o.drawn:
            value = o.row[k]
        rows[c, i, k] = value
    radii[c, i] = radius


@wp.kernel
@no_type_check
def project_backward(
    grad: wp.array(dtype=wp.float32, ndim=3),
    means: wp.array(dtype=wp.vec3, ndim=2),
    quaternions: wp.array(dtype=wp.vec4, ndim=2),
    scales: wp.array(dtype=wp.vec3, ndim=2),
    opacities: wp.array(dtype=wp.float32, ndim=2),
    pose: wp.array(dtype=wp.mat44),
    lens: wp.array(dtype=wp.mat33),
    height: wp.int32,
    width: wp.int32,
    near: wp.float32,
    low_pass: wp.float32,
    antialiased: wp.bool,
    to_means: wp.array(dtype=wp.vec3, ndim=2),
    to_quaternions: wp.array(dtype=wp.vec4, ndim=2),
    to_scales: wp.array(dtype=wp.vec3, ndim=2),
    to_opacities: wp.array(dtype=wp.float32, ndim=2),
    to_cameras: wp.array(dtype=wp.float32, ndim=3),
):
    """One thread per Gaussian, which goes through the cameras. `to_cameras` is empty, or (c, n, 18): the Gaussian's
    share of the gradient of three rows of the pose and two of the intrinsics."""
    i = wp.tid()
    for c in range(pose.shape[0]):
        if c < to_means.shape[0]:
            to_means[c, i] = wp.vec3()
        if c < to_quaternions.shape[0]:
            to_quaternions[c, i] = wp.vec4()
        if c < to_scales.shape[0]:
            to_scales[c, i] = wp.vec3()
        if c < to_opacities.shape[0]:
            to_opacities[c, i] = wp.float32(0.0)
        if c < to_cameras.shape[0]:
            for column in range(18):
                to_cameras[c, i, column] = wp.float32(0.0)
        place = wp.vec4i(
            wp.min(c, means.shape[0] - 1), wp.min(c, quaternions.shape[0] - 1),
            wp.min(c, scales.shape[0] - 1), wp.min(c, opacities.shape[0] - 1),
        )  # fmt: skip
        mean = means[place[0], i]
        turn = quaternions[place[1], i]
        scale = scales[place[2], i]
        opacity = opacities[place[3], i]
        k = lens[c]
        o = projected(mean, turn, scale, opacity, pose[c], k, height, width, near, low_pass, antialiased)
        if o.drawn:
            g = row_type()
            for column in range(10):
                g[column] = grad[c, i, column]
            # The covariance on screen, as in csrc/kernels/splat_project.cpp.
            g_sharp = wp.float32(0.0)
            g_blurred = -(g[2] * o.row[2] + g[3] * o.row[3] + g[4] * o.row[4]) / o.blurred
            if antialiased:
                g_share = 0.5 * g[5] * opacity * o.share
                g_sharp = g_share / o.sharp
                g_blurred = g_blurred - g_share / o.blurred
            g_sharp = g_sharp + g_blurred
            g_xx = g[4] / o.blurred + low_pass * g_blurred
            g_yy = g[2] / o.blurred + low_pass * g_blurred
            g_xy = -g[3] / o.blurred
            g_area = 2.0 * g_sharp * wp.cross(o.m, o.n)
            g_m = wp.cross(o.n, g_area) + 2.0 * g_xx * o.m + g_xy * o.n
            g_n = wp.cross(g_area, o.m) + 2.0 * g_yy * o.n + g_xy * o.m
            g_e = wp.cw_mul(g_m, scale)
            g_f = wp.cw_mul(g_n, scale)
            axes = wp.outer(o.p, g_e) + wp.outer(o.q, g_f)
            for r in range(3):
                axes[r, o.flattest] = axes[r, o.flattest] + o.sign * g[7 + r]
            g_p = o.axes * g_e
            g_q = o.axes * g_f
            rotation = wp.mat33(
                pose[c][0, 0], pose[c][0, 1], pose[c][0, 2], pose[c][1, 0], pose[c][1, 1], pose[c][1, 2],
                pose[c][2, 0], pose[c][2, 1], pose[c][2, 2],
            )  # fmt: skip
            g_first = rotation * g_p
            g_second = rotation * g_q
            inverse = 1.0 / o.local[2]
            g_lens_xx = inverse * (g_first[0] - o.near_a * g_first[2]) + o.a * g[0]
            g_lens_xy = inverse * (g_first[1] - o.near_b * g_first[2]) + o.b * g[0]
            g_lens_yx = inverse * (g_second[0] - o.near_a * g_second[2]) + o.a * g[1]
            g_lens_yy = inverse * (g_second[1] - o.near_b * g_second[2]) + o.b * g[1]
            g_lens_x = g[0]
            g_lens_y = g[1]
            g_near_a = -inverse * (k[0, 0] * g_first[2] + k[1, 0] * g_second[2])
            g_near_b = -inverse * (k[0, 1] * g_first[2] + k[1, 1] * g_second[2])
            g_a = k[0, 0] * g[0] + k[1, 0] * g[1]
            g_b = k[0, 1] * g[0] + k[1, 1] * g[1]
            if o.near_a == o.a:
                g_a = g_a + g_near_a
            else:
                g_lens_xx = g_lens_xx - g_near_a * o.near_a / k[0, 0]
                g_lens_x = g_lens_x - g_near_a / k[0, 0]
            if o.near_b == o.b:
                g_b = g_b + g_near_b
            else:
                g_lens_yy = g_lens_yy - g_near_b * o.near_b / k[1, 1]
                g_lens_y = g_lens_y - g_near_b / k[1, 1]
            g_inverse = (wp.dot(g_first, o.first) + wp.dot(g_second, o.second)) / inverse
            g_inverse = g_inverse + g_a * o.local[0] + g_b * o.local[1]
            g_local = wp.vec3(g_a * inverse, g_b * inverse, g[6] - g_inverse * inverse * inverse)
            w = turn[0]
            x = turn[1]
            y = turn[2]
            z = turn[3]
            d = 2.0 / wp.dot(turn, turn)
            g_turn = d * wp.vec4(
                z * (axes[1, 0] - axes[0, 1]) + y * (axes[0, 2] - axes[2, 0]) + x * (axes[2, 1] - axes[1, 2]),
                y * (axes[0, 1] + axes[1, 0]) + z * (axes[0, 2] + axes[2, 0]) + w * (axes[2, 1] - axes[1, 2])
                - 2.0 * x * (axes[1, 1] + axes[2, 2]),
                x * (axes[0, 1] + axes[1, 0]) + z * (axes[1, 2] + axes[2, 1]) + w * (axes[0, 2] - axes[2, 0])
                - 2.0 * y * (axes[0, 0] + axes[2, 2]),
                x * (axes[0, 2] + axes[2, 0]) + y * (axes[1, 2] + axes[2, 1]) + w * (axes[1, 0] - axes[0, 1])
                - 2.0 * z * (axes[0, 0] + axes[1, 1]),
            )  # fmt: skip
            if not wp.isfinite(d):  # a quaternion of no length: the identity, without a gradient
                g_turn = wp.vec4()
                d = wp.float32(0.0)
            g_turn = g_turn - 0.5 * d * wp.dot(turn, g_turn) * turn
            g_scale = wp.cw_mul(g_m, o.e) + wp.cw_mul(g_n, o.f)
            to_means[place[0], i] = to_means[place[0], i] + wp.transpose(rotation) * g_local
            to_quaternions[place[1], i] = to_quaternions[place[1], i] + g_turn
            to_scales[place[2], i] = to_scales[place[2], i] + g_scale
            to_opacities[place[3], i] = to_opacities[place[3], i] + g[5] * o.share
            if c < to_cameras.shape[0]:
                g_rotation = wp.outer(g_local, mean) + wp.outer(o.first, g_p) + wp.outer(o.second, g_q)
                for r in range(3):
                    for column in range(3):
                        to_cameras[c, i, 4 * r + column] = g_rotation[r, column]
                    to_cameras[c, i, 4 * r + 3] = g_local[r]
                to_cameras[c, i, 12] = g_lens_xx
                to_cameras[c, i, 13] = g_lens_xy
                to_cameras[c, i, 14] = g_lens_x
                to_cameras[c, i, 15] = g_lens_yx
                to_cameras[c, i, 16] = g_lens_yy
                to_cameras[c, i, 17] = g_lens_y
