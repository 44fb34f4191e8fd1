"""Rotation matrices in Warp; `headfields.ops.rotations.rotation_matrices` defines them."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.kernel
@no_type_check
def from_axis_angle(vectors: wp.array(dtype=wp.vec3), out: wp.array(dtype=wp.mat33)):
    """One thread a rotation."""
    i = wp.tid()
    v = vectors[i]
    square = wp.dot(v, v)
    a = 1.0 - square / 6.0  # near 0 the quotients' series, to float32's last digit
    b = 0.5 - square / 24.0
    if not (square < 1.0e-3):
        angle = wp.sqrt(square)
        half = wp.sin(0.5 * angle) / angle
        a = wp.sin(angle) / angle
        b = 2.0 * half * half
    else:
        a = a + square * square / 120.0
        b = b + square * square / 720.0
    out[i] = wp.mat33(
        1.0 - b * (v[1] * v[1] + v[2] * v[2]), b * v[0] * v[1] - a * v[2], b * v[0] * v[2] + a * v[1],
        b * v[0] * v[1] + a * v[2], 1.0 - b * (v[0] * v[0] + v[2] * v[2]), b * v[1] * v[2] - a * v[0],
        b * v[0] * v[2] - a * v[1], b * v[1] * v[2] + a * v[0], 1.0 - b * (v[0] * v[0] + v[1] * v[1]),
    )  # fmt: skip
