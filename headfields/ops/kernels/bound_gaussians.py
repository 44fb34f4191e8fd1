"""Similarities of triangles, and Gaussians moved by them, in Warp: one thread per mesh and triangle or Gaussian.

`headfields.ops.reference.bound_gaussians` defines them.
"""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.kernels.triangle_frames import frame_of
from headfields.ops.reference.bound_gaussians import SMALLEST as _SMALLEST

wp = warp()
wp.set_module_options({"enable_backward": False})

SMALLEST = wp.constant(wp.float32(_SMALLEST))


@wp.func
@no_type_check
def shepperd(m: wp.mat33):
    """The quaternion (w, x, y, z) of a rotation; of equally large entries the first is the one that is divided by."""
    w = 1.0 + m[0, 0] + m[1, 1] + m[2, 2]  # four times the squares
    x = 1.0 + m[0, 0] - m[1, 1] - m[2, 2]
    y = 1.0 - m[0, 0] + m[1, 1] - m[2, 2]
    z = 1.0 - m[0, 0] - m[1, 1] + m[2, 2]
    a = m[2, 1] - m[1, 2]
    b = m[0, 2] - m[2, 0]
    c = m[1, 0] - m[0, 1]
    d = m[0, 1] + m[1, 0]
    e = m[0, 2] + m[2, 0]
    f = m[1, 2] + m[2, 1]
    row = wp.vec4(c, e, f, z)
    largest = z
    if y >= largest:
        row = wp.vec4(b, d, y, f)
        largest = y
    if x >= largest:
        row = wp.vec4(a, x, d, e)
        largest = x
    if w >= largest:
        row = wp.vec4(w, a, b, c)
        largest = w
    return row * (0.5 / wp.sqrt(wp.max(largest, 1.0e-12)))


@wp.func
@no_type_check
def product(a: wp.vec4, b: wp.vec4):
    """The quaternion of the rotation `b` followed by `a`."""
    return wp.vec4(
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
        a[0] * b[3] + a[3] * b[0] - a[2] * b[1] + a[1] * b[2],
    )


@wp.kernel
@no_type_check
def similarities(
    vertices: wp.array2d(dtype=wp.vec3), faces: wp.array2d(dtype=wp.int64), out: wp.array3d(dtype=wp.float32)
):
    """out: size times rotation, centroid, rotation as a quaternion, and size of every triangle."""
    mesh, face = wp.tid()
    frame = frame_of(vertices, faces, mesh, face)
    size = 0.5 * (wp.dot(frame.edge, frame.tangent) + wp.dot(frame.other, frame.bitangent))
    if size < SMALLEST:  # so that NaN goes on
        size = SMALLEST
    rotation = wp.matrix_from_cols(frame.tangent, frame.normal, -frame.bitangent)
    center = frame.origin + (frame.edge + frame.other) / 3.0
    turn = shepperd(rotation)
    for r in range(3):
        for c in range(3):
            out[mesh, face, 3 * r + c] = size * rotation[r, c]
        out[mesh, face, 9 + r] = center[r]
    for j in range(4):
        out[mesh, face, 12 + j] = turn[j]
    out[mesh, face, 16] = size


@wp.func
@no_type_check
def linear_of(table: wp.array3d(dtype=wp.float32), mesh: int, face: int):
    """Size times rotation of a triangle."""
    return wp.mat33(
        table[mesh, face, 0], table[mesh, face, 1], table[mesh, face, 2],
        table[mesh, face, 3], table[mesh, face, 4], table[mesh, face, 5],
        table[mesh, face, 6], table[mesh, face, 7], table[mesh, face, 8],
    )  # fmt: skip


@wp.func
@no_type_check
def turn_of(table: wp.array3d(dtype=wp.float32), mesh: int, face: int):
    """The rotation of a triangle as a quaternion."""
    return wp.vec4(table[mesh, face, 12], table[mesh, face, 13], table[mesh, face, 14], table[mesh, face, 15])


@wp.kernel
@no_type_check
def bind(
    means: wp.array2d(dtype=wp.vec3),
    quaternions: wp.array2d(dtype=wp.vec4),
    scales: wp.array2d(dtype=wp.vec3),
    table: wp.array3d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int64),
    to_means: wp.array2d(dtype=wp.vec3),
    to_quaternions: wp.array2d(dtype=wp.vec4),
    to_scales: wp.array2d(dtype=wp.vec3),
):
    """Gaussians of one frame, or of each, in the space of every frame."""
    mesh, k = wp.tid()
    own = wp.min(mesh, means.shape[0] - 1)
    face = wp.int32(faces[k])
    shift = wp.vec3(table[mesh, face, 9], table[mesh, face, 10], table[mesh, face, 11])
    to_means[mesh, k] = linear_of(table, mesh, face) * means[own, k] + shift
    to_quaternions[mesh, k] = product(turn_of(table, mesh, face), quaternions[own, k])
    to_scales[mesh, k] = table[mesh, face, 16] * scales[own, k]


@wp.kernel
@no_type_check
def bind_gradient(
    means: wp.array2d(dtype=wp.vec3),
    quaternions: wp.array2d(dtype=wp.vec4),
    scales: wp.array2d(dtype=wp.vec3),
    table: wp.array3d(dtype=wp.float32),
    faces: wp.array(dtype=wp.int64),
    to_means: wp.array2d(dtype=wp.vec3),
    to_quaternions: wp.array2d(dtype=wp.vec4),
    to_scales: wp.array2d(dtype=wp.vec3),
):
    """The gradients of Gaussians of each frame; of those of one frame, summed over all."""
    own, k = wp.tid()
    face = wp.int32(faces[k])
    first = own
    last = own + 1
    if to_means.shape[0] == 1:
        last = table.shape[0]
    mean = wp.vec3()
    turn = wp.vec4()
    scale = wp.vec3()
    for mesh in range(first, last):
        rotation = turn_of(table, mesh, face)
        back = wp.vec4(rotation[0], -rotation[1], -rotation[2], -rotation[3])
        mean = mean + wp.transpose(linear_of(table, mesh, face)) * means[mesh, k]
        turn = turn + product(back, quaternions[mesh, k])
        scale = scale + table[mesh, face, 16] * scales[mesh, k]
    to_means[own, k] = mean
    to_quaternions[own, k] = turn
    to_scales[own, k] = scale
