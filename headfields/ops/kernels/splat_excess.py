"""How far vectors of Gaussians go beyond a threshold, in Warp, a thread for each Gaussian;
`headfields.ops.reference.splat_excess` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def views(visible: wp.array2d(dtype=wp.bool), own: int, i: int, frames: int):
    """In how many frames a Gaussian of one, or of all, is drawn."""
    seen = wp.float32(0.0)
    first = own
    last = own + 1
    if frames == 1:
        last = visible.shape[0]
    for frame in range(first, last):
        if visible[frame, i]:
            seen = seen + 1.0
    return seen


@wp.kernel
@no_type_check
def excess(
    vectors: wp.array2d(dtype=wp.vec3),
    visible: wp.array2d(dtype=wp.bool),
    threshold: wp.float32,
    each: wp.bool,
    parts: wp.array3d(dtype=wp.float32),
):
    """parts: what each Gaussian adds to the sum, and to the number that are in view."""
    own, i = wp.tid()
    v = vectors[own, i]
    seen = views(visible, own, i, vectors.shape[0])
    value = wp.float32(0.0)
    if seen > 0.0:
        if each:
            beyond = wp.vec3(
                wp.max(v[0] - threshold, 0.0), wp.max(v[1] - threshold, 0.0), wp.max(v[2] - threshold, 0.0)
            )
            value = wp.sqrt(wp.dot(beyond, beyond) + 1.0e-12) - 1.0e-6
            if not wp.isfinite(v[0] + v[1] + v[2]):  # `max` leaves NaN out
                value = value + v[0] + v[1] + v[2]
        else:
            value = wp.length(v) - threshold
            if value < 0.0:  # NaN stays
                value = wp.float32(0.0)
    parts[0, own, i] = value * seen
    parts[1, own, i] = seen


@wp.kernel
@no_type_check
def excess_gradient(
    grad: wp.array(dtype=wp.float32),
    count: wp.array(dtype=wp.float32),
    vectors: wp.array2d(dtype=wp.vec3),
    visible: wp.array2d(dtype=wp.bool),
    threshold: wp.float32,
    each: wp.bool,
    out: wp.array2d(dtype=wp.vec3),
):
    own, i = wp.tid()
    v = vectors[own, i]
    seen = views(visible, own, i, vectors.shape[0])
    slope = wp.vec3()
    if seen > 0.0:
        if each:
            beyond = wp.vec3(
                wp.max(v[0] - threshold, 0.0), wp.max(v[1] - threshold, 0.0), wp.max(v[2] - threshold, 0.0)
            )
            slope = beyond / wp.sqrt(wp.dot(beyond, beyond) + 1.0e-12)
        else:
            length = wp.length(v)
            if length >= threshold and length > 0.0:
                slope = v / length
    out[own, i] = grad[0] * seen / count[0] * slope
