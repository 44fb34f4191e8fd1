"""Frames of triangles and deformation gradients in Warp, with their gradients: one thread per mesh and triangle.

`headfields.ops.reference.triangle_frames` defines them.
"""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.reference.triangle_frames import TINY as _TINY

wp = warp()
wp.set_module_options({"enable_backward": False})

TINY = wp.constant(wp.float32(_TINY))


@wp.struct
@no_type_check
class Frame:
    """The frame of a triangle, and what its gradient needs: edges, the lengths that were divided by (0: none was)."""

    edge: wp.vec3
    other: wp.vec3
    origin: wp.vec3
    tangent: wp.vec3
    bitangent: wp.vec3
    normal: wp.vec3
    flattest: wp.vec3
    length: wp.float32
    height: wp.float32


@wp.struct
@no_type_check
class CornerGradients:
    """The gradients of the corners of a triangle."""

    a: wp.vec3
    b: wp.vec3
    c: wp.vec3


@wp.func
@no_type_check
def frame_of(vertices: wp.array2d(dtype=wp.vec3), faces: wp.array2d(dtype=wp.int64), mesh: int, face: int):
    """The frame of a triangle of a mesh."""
    frame = Frame()
    frame.origin = vertices[mesh, wp.int32(faces[face, 0])]
    frame.edge = vertices[mesh, wp.int32(faces[face, 1])] - frame.origin
    frame.other = vertices[mesh, wp.int32(faces[face, 2])] - frame.origin
    squared = wp.dot(frame.edge, frame.edge)
    frame.tangent = wp.vec3(1.0, 0.0, 0.0)
    if not (squared <= TINY):  # so that NaN goes on
        frame.length = wp.sqrt(squared)
        frame.tangent = frame.edge / frame.length
    across = frame.other - wp.dot(frame.other, frame.tangent) * frame.tangent
    squared = wp.dot(across, across)
    if not (squared <= TINY):
        frame.height = wp.sqrt(squared)
        frame.bitangent = across / frame.height
    else:
        x = wp.abs(frame.tangent[0])
        y = wp.abs(frame.tangent[1])
        z = wp.abs(frame.tangent[2])
        frame.flattest = wp.vec3(0.0, 0.0, 1.0)
        if x <= y and x <= z:
            frame.flattest = wp.vec3(1.0, 0.0, 0.0)
        elif y <= z:
            frame.flattest = wp.vec3(0.0, 1.0, 0.0)
        frame.bitangent = wp.cross(wp.normalize(wp.cross(frame.tangent, frame.flattest)), frame.tangent)
    frame.normal = wp.cross(frame.tangent, frame.bitangent)
    return frame


@wp.func
@no_type_check
def tangential(gradient: wp.vec3, direction: wp.vec3, length: wp.float32):
    """The gradient of a vector of this length, from that of its direction."""
    return (gradient - wp.dot(gradient, direction) * direction) / length


@wp.func
@no_type_check
def frame_gradient(frame: Frame, to_tangent: wp.vec3, to_bitangent: wp.vec3, to_normal: wp.vec3, to_origin: wp.vec3):
    """The gradients of the corners, from those of the columns of the frame."""
    tangent = to_tangent + wp.cross(frame.bitangent, to_normal)
    bitangent = to_bitangent + wp.cross(to_normal, frame.tangent)
    other = wp.vec3()
    if frame.height > 0.0:
        across = tangential(bitangent, frame.bitangent, frame.height)
        along = wp.dot(across, frame.tangent)
        other = across - along * frame.tangent
        tangent = tangent - wp.dot(frame.other, frame.tangent) * across - along * frame.other
    else:
        side = wp.cross(frame.tangent, frame.flattest)
        length = wp.length(side)
        unit = side / length
        tangent = tangent + wp.cross(bitangent, unit)
        to_side = tangential(wp.cross(frame.tangent, bitangent), unit, length)
        tangent = tangent + wp.cross(frame.flattest, to_side)
    edge = wp.vec3()
    if frame.length > 0.0:
        edge = tangential(tangent, frame.tangent, frame.length)
    return CornerGradients(to_origin - edge - other, edge, other)


@wp.func
@no_type_check
def area_gradient(frame: Frame, gradient: wp.float32, corners: CornerGradients):
    """`corners` with the gradient of the triangle's area added."""
    cross = wp.cross(frame.edge, frame.other)
    length = wp.length(cross)
    if length > 0.0:
        to_cross = cross * (0.5 * gradient / length)
        edge = wp.cross(frame.other, to_cross)
        other = wp.cross(to_cross, frame.edge)
        corners.a = corners.a - edge - other
        corners.b = corners.b + edge
        corners.c = corners.c + other
    return corners


@wp.func
@no_type_check
def add_corners(
    total: wp.array2d(dtype=wp.vec3), faces: wp.array2d(dtype=wp.int64), mesh: int, face: int, corners: CornerGradients
):
    """Adds the gradients of the corners to those of the vertices."""
    wp.atomic_add(total, mesh, wp.int32(faces[face, 0]), corners.a)
    wp.atomic_add(total, mesh, wp.int32(faces[face, 1]), corners.b)
    wp.atomic_add(total, mesh, wp.int32(faces[face, 2]), corners.c)


@wp.func
@no_type_check
def area(frame: Frame):
    """Of the triangle, in square meters."""
    return 0.5 * wp.length(wp.cross(frame.edge, frame.other))


@wp.func
@no_type_check
def divisor(ratio: wp.float32, scaling: int):
    """What the map is divided by: 1, the clamped ratio of areas, or its root."""
    value = wp.float32(1.0)
    if scaling != 0:
        value = wp.where(wp.isnan(ratio), ratio, wp.clamp(ratio, 0.01, 100.0))
        if scaling == 2:
            value = wp.sqrt(value)
    return value


@wp.kernel
@no_type_check
def frames(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int64),
    out: wp.array4d(dtype=wp.float32),
):
    """out: columns tangent, bitangent, normal and first corner of every triangle."""
    mesh, face = wp.tid()
    frame = frame_of(vertices, faces, mesh, face)
    for r in range(3):
        out[mesh, face, r, 0] = frame.tangent[r]
        out[mesh, face, r, 1] = frame.bitangent[r]
        out[mesh, face, r, 2] = frame.normal[r]
        out[mesh, face, r, 3] = frame.origin[r]


@wp.func
@no_type_check
def column(values: wp.array4d(dtype=wp.float32), mesh: int, face: int, c: int):
    """Column `c` of the matrix of a triangle."""
    return wp.vec3(values[mesh, face, 0, c], values[mesh, face, 1, c], values[mesh, face, 2, c])


@wp.kernel
@no_type_check
def frames_gradient(
    grad: wp.array4d(dtype=wp.float32),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int64),
    total: wp.array2d(dtype=wp.vec3),
):
    """total += the gradient of the vertices."""
    mesh, face = wp.tid()
    frame = frame_of(vertices, faces, mesh, face)
    corners = frame_gradient(
        frame, column(grad, mesh, face, 0), column(grad, mesh, face, 1), column(grad, mesh, face, 2),
        column(grad, mesh, face, 3),
    )  # fmt: skip
    add_corners(total, faces, mesh, face, corners)


@wp.kernel
@no_type_check
def gradients(
    posed: wp.array2d(dtype=wp.vec3),
    canonical: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int64),
    scaling: int,
    out: wp.array4d(dtype=wp.float32),
):
    """out: each posed triangle's map to its canonical one."""
    mesh, face = wp.tid()
    source = frame_of(posed, faces, mesh, face)
    target = frame_of(canonical, faces, 0, face)
    scale = 1.0 / divisor(area(source) / wp.max(area(target), TINY), scaling)
    for r in range(3):
        row = scale * (
            target.tangent[r] * source.tangent
            + target.bitangent[r] * source.bitangent
            + target.normal[r] * source.normal
        )
        for c in range(3):
            out[mesh, face, r, c] = row[c]
        out[mesh, face, r, 3] = target.origin[r] - wp.dot(row, source.origin)


@wp.kernel
@no_type_check
def gradients_gradient(
    grad: wp.array4d(dtype=wp.float32),
    posed: wp.array2d(dtype=wp.vec3),
    canonical: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int64),
    scaling: int,
    use_posed: int,
    use_canonical: int,
    to_posed: wp.array2d(dtype=wp.vec3),
    to_canonical: wp.array2d(dtype=wp.vec3),
):
    """to_posed, to_canonical += the gradients of both meshes' vertices."""
    mesh, face = wp.tid()
    source = frame_of(posed, faces, mesh, face)
    target = frame_of(canonical, faces, 0, face)
    target_area = wp.max(area(target), TINY)
    ratio = area(source) / target_area
    scale = 1.0 / divisor(ratio, scaling)
    offset = column(grad, mesh, face, 3)
    # The gradient of the map's linear part, by columns; the offset depends on it through the posed corner.
    first = column(grad, mesh, face, 0) - source.origin[0] * offset
    second = column(grad, mesh, face, 1) - source.origin[1] * offset
    third = column(grad, mesh, face, 2) - source.origin[2] * offset
    linear = wp.matrix_from_cols(first, second, third)
    turned = wp.transpose(linear)
    # Σ gradient · (linear part before the division), for the gradient of the scale.
    along = (
        wp.dot(target.tangent, linear * source.tangent)
        + wp.dot(target.bitangent, linear * source.bitangent)
        + wp.dot(target.normal, linear * source.normal)
    )
    to_ratio = wp.float32(0.0)
    if scaling != 0 and ratio >= 0.01 and ratio <= 100.0:
        to_ratio = -along / (ratio * ratio)
        if scaling == 2:
            to_ratio = -0.5 * along / (ratio * wp.sqrt(ratio))
    if use_posed != 0:
        back = wp.vec3(wp.dot(target.tangent, offset), wp.dot(target.bitangent, offset), wp.dot(target.normal, offset))
        to_origin = -scale * (back[0] * source.tangent + back[1] * source.bitangent + back[2] * source.normal)
        corners = frame_gradient(
            source, scale * (turned * target.tangent), scale * (turned * target.bitangent),
            scale * (turned * target.normal), to_origin,
        )  # fmt: skip
        corners = area_gradient(source, to_ratio / target_area, corners)
        add_corners(to_posed, faces, mesh, face, corners)
    if use_canonical != 0:
        corners = frame_gradient(
            target, scale * (linear * source.tangent), scale * (linear * source.bitangent),
            scale * (linear * source.normal), offset,
        )  # fmt: skip
        if area(target) >= TINY:
            corners = area_gradient(target, -to_ratio * ratio / target_area, corners)
        add_corners(to_canonical, faces, 0, face, corners)
