"""Drawing of projected Gaussians in Warp, one thread per pixel, 16 × 16 of a tile together;
`headfields.ops.reference.rasterize_gaussians.rasterize` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.reference.rasterize_gaussians import LEAST_ALPHA, MOST_ALPHA

wp = warp()
wp.set_module_options({"enable_backward": False})

TILE = 16
"""Pixels on a side of a tile."""
WIDTH = 8
"""Channels that a pass over the pixels sums."""
LEAST_LIGHT = 1e-5
"""Light at which a pixel ends, as in csrc/splat.h."""
tile_side = wp.constant(wp.int32(TILE))
width_of_pass = wp.constant(wp.int32(WIDTH))
least_alpha = wp.constant(wp.float32(LEAST_ALPHA))
most_alpha = wp.constant(wp.float32(MOST_ALPHA))
least_light = wp.constant(wp.float32(LEAST_LIGHT))
channels_type = wp.types.vector(length=WIDTH, dtype=wp.float32)


@wp.func
@no_type_check
def tiles_of(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    c: wp.int32,
    i: wp.int32,
    height: wp.int32,
    width: wp.int32,
):
    """The first and last column and row of tiles that a Gaussian may touch; the last before the first for none."""
    none = wp.vec4i(0, -1, 0, -1)
    xx = rows[c, i, 2]
    xy = rows[c, i, 3]
    yy = rows[c, i, 4]
    opacity = rows[c, i, 5]
    determinant = xx * yy - xy * xy
    if not (opacity >= least_alpha and determinant > 0.0 and xx > 0.0 and yy > 0.0 and wp.isfinite(rows[c, i, 6])):
        return none
    reach = 2.0 * wp.log(opacity / least_alpha) / determinant
    x = wp.sqrt(reach * yy) * 1.0001 + 0.01
    y = wp.sqrt(reach * xx) * 1.0001 + 0.01
    center_x = rows[c, i, 0] - 0.5
    center_y = rows[c, i, 1] - 0.5
    if screen.shape[0] > 0:
        center_x = center_x + screen[c, i, 0]
        center_y = center_y + screen[c, i, 1]
    left = wp.max(center_x - x, 0.0)
    right = wp.min(center_x + x, wp.float32(width - 1))
    top = wp.max(center_y - y, 0.0)
    bottom = wp.min(center_y + y, wp.float32(height - 1))
    if not (left <= right and top <= bottom):  # and where one is NaN
        return none
    return wp.vec4i(
        wp.int32(left) / tile_side, wp.int32(right) / tile_side,
        wp.int32(top) / tile_side, wp.int32(bottom) / tile_side,
    )  # fmt: skip


@wp.kernel
@no_type_check
def count_tiles(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    height: wp.int32,
    width: wp.int32,
    counts: wp.array(dtype=wp.int64, ndim=2),
):
    c, i = wp.tid()
    box = tiles_of(rows, screen, c, i, height, width)
    counts[c, i] = wp.int64(box[1] - box[0] + 1) * wp.int64(box[3] - box[2] + 1)


@wp.kernel
@no_type_check
def list_tiles(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    depths: wp.array(dtype=wp.int32, ndim=2),
    height: wp.int32,
    width: wp.int32,
    ends: wp.array(dtype=wp.int64, ndim=2),
    keys: wp.array(dtype=wp.int64),
    gaussians: wp.array(dtype=wp.int32),
):
    """An entry for each tile of each Gaussian, before `ends`: camera and tile, then depth, as a number to sort by. The
    bits of depths, which are positive, rise with them. Entries for which there is no room are left out."""
    c, i = wp.tid()
    box = tiles_of(rows, screen, c, i, height, width)
    across = (width + tile_side - 1) / tile_side
    down = (height + tile_side - 1) / tile_side
    at = ends[c, i] - wp.int64(box[1] - box[0] + 1) * wp.int64(box[3] - box[2] + 1)
    depth = wp.int64(wp.max(depths[c, i], 0))
    for y in range(box[2], box[3] + 1):
        for x in range(box[0], box[1] + 1):
            tile = wp.int64((c * down + y) * across + x)
            if at < wp.int64(keys.shape[0]):
                keys[at] = wp.lshift(tile, wp.int64(32)) + depth
                gaussians[at] = i
            at = at + wp.int64(1)


@wp.func
@no_type_check
def alpha_at(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    c: wp.int32,
    i: wp.int32,
    x: wp.float32,
    y: wp.float32,
):
    """Alpha, not clamped, and the pixel's place from the center."""
    dx = x - rows[c, i, 0]
    dy = y - rows[c, i, 1]
    if screen.shape[0] > 0:
        dx = dx - screen[c, i, 0]
        dy = dy - screen[c, i, 1]
    power = -0.5 * (rows[c, i, 2] * dx * dx + rows[c, i, 4] * dy * dy) - rows[c, i, 3] * dx * dy
    return wp.vec3(rows[c, i, 5] * wp.exp(power), dx, dy)


@wp.kernel
@no_type_check
def draw(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    features: wp.array(dtype=channels_type, ndim=3),
    which: wp.int32,
    starts: wp.array(dtype=wp.int64, ndim=2),
    gaussians: wp.array(dtype=wp.int32),
    height: wp.int32,
    width: wp.int32,
    image: wp.array(dtype=channels_type, ndim=3),
    light: wp.array(dtype=wp.float32, ndim=3),
    median: wp.array(dtype=wp.float32, ndim=3),
    last: wp.array(dtype=wp.int32, ndim=3),
    counts: wp.array(dtype=wp.int32, ndim=2),
):
    """The channels of pass `which`; the first pass writes all else. `screen` is empty or (c, n, 2)."""
    c, tile, k = wp.tid()
    across = (width + tile_side - 1) / tile_side
    x = (tile % across) * tile_side + k % tile_side
    y = (tile / across) * tile_side + k / tile_side
    if x < width and y < height:
        through = wp.float32(1.0)
        middle = wp.float32(0.0)
        ended = wp.int32(2147483647)
        sums = channels_type()
        own = wp.min(c, features.shape[0] - 1)
        entry = starts[c, tile]
        end = starts[c, tile + 1]
        place = wp.int32(0)
        while entry < end and ended > place:
            i = gaussians[entry]
            alpha = alpha_at(rows, screen, c, i, wp.float32(x) + 0.5, wp.float32(y) + 0.5)[0]
            if alpha >= least_alpha:
                weight = wp.min(alpha, most_alpha) * through
                after = through - weight
                sums = sums + weight * features[own, i, which]
                if through > 0.5 and after <= 0.5:
                    middle = rows[c, i, 6]
                through = after
                if which == 0:
                    wp.atomic_add(counts, c, i, 1)
                if not (through > least_light):
                    ended = place
            entry = entry + wp.int64(1)
            place = place + 1
        image[c, y, x] = sums
        if which == 0:
            light[c, y, x] = through
            median[c, y, x] = middle
            last[c, y, x] = ended


@wp.kernel
@no_type_check
def draw_backward(
    grad: wp.array(dtype=wp.float32, ndim=4),
    to_light: wp.array(dtype=wp.float32, ndim=3),
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    features: wp.array(dtype=wp.float32, ndim=3),
    starts: wp.array(dtype=wp.int64, ndim=2),
    gaussians: wp.array(dtype=wp.int32),
    height: wp.int32,
    width: wp.int32,
    light: wp.array(dtype=wp.float32, ndim=3),
    last: wp.array(dtype=wp.int32, ndim=3),
    to_rows: wp.array(dtype=wp.float32, ndim=3),
    to_features: wp.array(dtype=wp.float32, ndim=3),
    magnitudes: wp.array(dtype=wp.float32, ndim=3),
):
    """From the last Gaussian of a pixel to its first. Sums by atomics; `magnitudes` is empty or (c, n, 2)."""
    c, tile, k = wp.tid()
    across = (width + tile_side - 1) / tile_side
    x = (tile % across) * tile_side + k % tile_side
    y = (tile / across) * tile_side + k / tile_side
    if x < width and y < height:
        through = light[c, y, x]
        behind = through * to_light[c, y, x]  # the light's worth behind the Gaussian
        own = wp.min(c, features.shape[0] - 1)
        begin = starts[c, tile]
        entry = wp.min(starts[c, tile + 1] - wp.int64(1), begin + wp.int64(last[c, y, x]))
        while entry >= begin:
            i = gaussians[entry]
            at_pixel = alpha_at(rows, screen, c, i, wp.float32(x) + 0.5, wp.float32(y) + 0.5)
            if at_pixel[0] >= least_alpha:
                alpha = wp.min(at_pixel[0], most_alpha)
                inverse = 1.0 / (1.0 - alpha)
                through = through * inverse  # before the Gaussian
                weight = alpha * through
                worth = wp.float32(0.0)
                for f in range(features.shape[2]):
                    worth = worth + grad[c, y, x, f] * features[own, i, f]
                    wp.atomic_add(to_features, own, i, f, weight * grad[c, y, x, f])
                if at_pixel[0] <= most_alpha:
                    h = (through * worth - behind * inverse) * alpha  # by log alpha
                    dx = at_pixel[1]
                    dy = at_pixel[2]
                    to_x = h * (rows[c, i, 2] * dx + rows[c, i, 3] * dy)
                    to_y = h * (rows[c, i, 3] * dx + rows[c, i, 4] * dy)
                    wp.atomic_add(to_rows, c, i, 0, to_x)
                    wp.atomic_add(to_rows, c, i, 1, to_y)
                    wp.atomic_add(to_rows, c, i, 2, -0.5 * h * dx * dx)
                    wp.atomic_add(to_rows, c, i, 3, -h * dx * dy)
                    wp.atomic_add(to_rows, c, i, 4, -0.5 * h * dy * dy)
                    wp.atomic_add(to_rows, c, i, 5, h / rows[c, i, 5])
                    if magnitudes.shape[0] > 0:
                        wp.atomic_add(magnitudes, c, i, 0, wp.abs(to_x))
                        wp.atomic_add(magnitudes, c, i, 1, wp.abs(to_y))
                behind = behind + weight * worth
            entry = entry - wp.int64(1)
