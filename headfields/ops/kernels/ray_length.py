"""Lengths of pixels' rays in Warp; `headfields.ops.ray_length` defines them."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.kernel
@no_type_check
def lengths(lens: wp.array(dtype=wp.mat33), out: wp.array3d(dtype=wp.float32)):
    """One thread a pixel."""
    c, row, column = wp.tid()
    k = lens[c]
    x = wp.vec3(k[0, 0], k[0, 1], k[0, 2])
    y = wp.vec3(k[1, 0], k[1, 1], k[1, 2])
    z = wp.vec3(k[2, 0], k[2, 1], k[2, 2])
    first = wp.cross(y, z)
    pixel = wp.vec3(wp.float32(column) + 0.5, wp.float32(row) + 0.5, 1.0)
    away = pixel[0] * first + pixel[1] * wp.cross(z, x) + pixel[2] * wp.cross(x, y)
    out[c, row, column] = wp.length(away) / wp.abs(wp.dot(x, first))
