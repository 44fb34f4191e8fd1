"""The loss of Gaussians' images in Warp, a thread for each number of them: windows are summed along rows and then along
columns; `headfields.ops.reference.l1_dssim` defines it."""

import math
from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.reference.l1_dssim import C1, C2, SIGMA, WINDOW

wp = warp()
wp.set_module_options({"enable_backward": False})

REACH = wp.constant(wp.int32(WINDOW // 2))
STEEPNESS = wp.constant(wp.float32(-0.5 / SIGMA**2))
WEIGHT = wp.constant(
    wp.float32(1 / sum(math.exp(-0.5 * (k / SIGMA) ** 2) for k in range(-(WINDOW // 2), WINDOW // 2 + 1)))
)
c1 = wp.constant(wp.float32(C1))
c2 = wp.constant(wp.float32(C2))


@wp.func
@no_type_check
def weight_at(k: wp.int32):
    """Of a pixel k beside the middle of the window."""
    return WEIGHT * wp.exp(STEEPNESS * wp.float32(k * k))


@wp.kernel
@no_type_check
def sum_rows(
    images: wp.array(dtype=wp.float32, ndim=4),
    truths: wp.array(dtype=wp.float32, ndim=4),
    sums: wp.array(dtype=wp.vec4, ndim=4),
):
    """Weighted sums of x, y, x² + y² and x y along rows."""
    b, row, column, d = wp.tid()
    total = wp.vec4()
    for k in range(-REACH, REACH + 1):
        at = column + k
        if at >= 0 and at < images.shape[2]:
            x = images[b, row, at, d]
            y = truths[b, row, at, d]
            total = total + weight_at(k) * wp.vec4(x, y, x * x + y * y, x * y)
    sums[b, row, column, d] = total


@wp.kernel
@no_type_check
def sum_columns(
    images: wp.array(dtype=wp.float32, ndim=4),
    truths: wp.array(dtype=wp.float32, ndim=4),
    sums: wp.array(dtype=wp.vec4, ndim=4),
    dssim: wp.float32,
    values: wp.array(dtype=wp.float32, ndim=4),
    slopes: wp.array(dtype=wp.vec3, ndim=4),
):
    """The loss of each number, and the derivatives of its window's similarity by three of the means."""
    b, row, column, d = wp.tid()
    total = wp.vec4()
    for k in range(-REACH, REACH + 1):
        at = row + k
        if at >= 0 and at < images.shape[1]:
            total = total + weight_at(k) * sums[b, at, column, d]
    of_means = total[0] * total[1]
    squares = total[0] * total[0] + total[1] * total[1]
    first = 2.0 * of_means + c1
    second = 2.0 * (total[3] - of_means) + c2
    third = squares + c1
    fourth = total[2] - squares + c2
    below = 1.0 / (third * fourth)
    value = first * second * below
    by_mean = 2.0 * total[1] * (second - first) * below - 2.0 * total[0] * value * (1.0 / third - 1.0 / fourth)
    slopes[b, row, column, d] = wp.vec3(by_mean, -value / fourth, 2.0 * first * below)
    apart = wp.abs(images[b, row, column, d] - truths[b, row, column, d])
    values[b, row, column, d] = (1.0 - dssim) * apart + dssim * (1.0 - value)


@wp.kernel
@no_type_check
def spread_rows(slopes: wp.array(dtype=wp.vec3, ndim=4), sums: wp.array(dtype=wp.vec3, ndim=4)):
    """Weighted sums of the slopes along rows: the window is symmetric, so that its gradient is itself."""
    b, row, column, d = wp.tid()
    total = wp.vec3()
    for k in range(-REACH, REACH + 1):
        at = column + k
        if at >= 0 and at < slopes.shape[2]:
            total = total + weight_at(k) * slopes[b, row, at, d]
    sums[b, row, column, d] = total


@wp.kernel
@no_type_check
def spread_columns(
    grad: wp.array(dtype=wp.float32),
    images: wp.array(dtype=wp.float32, ndim=4),
    truths: wp.array(dtype=wp.float32, ndim=4),
    sums: wp.array(dtype=wp.vec3, ndim=4),
    dssim: wp.float32,
    share: wp.float32,
    out: wp.array(dtype=wp.float32, ndim=4),
):
    """The gradient of the images; `share` is 1 / the number of numbers."""
    b, row, column, d = wp.tid()
    total = wp.vec3()
    for k in range(-REACH, REACH + 1):
        at = row + k
        if at >= 0 and at < images.shape[1]:
            total = total + weight_at(k) * sums[b, at, column, d]
    x = images[b, row, column, d]
    y = truths[b, row, column, d]
    side = wp.float32(0.0)
    if x > y:
        side = wp.float32(1.0)
    if x < y:
        side = wp.float32(-1.0)
    similar = total[0] + 2.0 * x * total[1] + y * total[2]
    out[b, row, column, d] = grad[0] * share * ((1.0 - dssim) * side - dssim * similar)
