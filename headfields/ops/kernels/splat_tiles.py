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
last_key = wp.constant(wp.int64(9223372036854775807))
channels_type = wp.types.vector(length=WIDTH, dtype=wp.float32)
row_gradient = wp.types.vector(length=6, dtype=wp.float32)
"""By center (2), conic (3) and opacity of a row."""


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


@wp.func
@no_type_check
def beyond(xx: wp.float32, xy: wp.float32, yy: wp.float32, d: wp.vec2):
    """The form at a place from its center, less what rounding of its terms and of `alpha_at` may add."""
    a = xx * d[0] * d[0]
    b = 2.0 * xy * d[0] * d[1]
    c = yy * d[1] * d[1]
    return a + b + c - 1.0e-5 * (a + wp.abs(b) + c) - 1.0e-4


@wp.func
@no_type_check
def reaches(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    c: wp.int32,
    i: wp.int32,
    x: wp.int32,
    y: wp.int32,
):
    """Whether a Gaussian whose box holds a tile has an alpha of at least `least_alpha` at a point between the centers
    of its pixels. The least of a convex form over a rectangle without its center lies on a side that faces the center.
    """
    xx = rows[c, i, 2]
    xy = rows[c, i, 3]
    yy = rows[c, i, 4]
    left = wp.float32(x * tile_side) + 0.5 - rows[c, i, 0]
    top = wp.float32(y * tile_side) + 0.5 - rows[c, i, 1]
    if screen.shape[0] > 0:
        left = left - screen[c, i, 0]
        top = top - screen[c, i, 1]
    side = wp.float32(tile_side - 1)
    near_x = wp.clamp(0.0, left, left + side)
    near_y = wp.clamp(0.0, top, top + side)
    first = wp.vec2(near_x, wp.clamp(-xy * near_x / yy, top, top + side))
    second = wp.vec2(wp.clamp(-xy * near_y / xx, left, left + side), near_y)
    inside = near_x == 0.0 and near_y == 0.0
    limit = 2.0 * wp.log(rows[c, i, 5] / least_alpha)
    at_first = near_x != 0.0 and beyond(xx, xy, yy, first) <= limit
    at_second = near_y != 0.0 and beyond(xx, xy, yy, second) <= limit
    return inside or at_first or at_second


@wp.kernel
@no_type_check
def count_tiles(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    height: wp.int32,
    width: wp.int32,
    counts: wp.array(dtype=wp.int64, ndim=2),
):
    """counts: how many tiles each Gaussian reaches."""
    c, i = wp.tid()
    box = tiles_of(rows, screen, c, i, height, width)
    total = wp.int64(0)
    for y in range(box[2], box[3] + 1):
        for x in range(box[0], box[1] + 1):
            if reaches(rows, screen, c, i, x, y):
                total = total + wp.int64(1)
    counts[c, i] = total


@wp.kernel
@no_type_check
def gather_features(
    rows: wp.array(dtype=wp.float32, ndim=3),
    colors: wp.array(dtype=wp.float32, ndim=3),
    features: wp.array(dtype=channels_type, ndim=3),
):
    """Colors, depth and normal of each Gaussian side by side, eight numbers a pass, zeros behind the last."""
    c, i = wp.tid()
    own = wp.min(c, colors.shape[0] - 1)
    d = colors.shape[2]
    for which in range(features.shape[2]):
        channels = channels_type()
        for k in range(width_of_pass):
            j = which * width_of_pass + k
            if j < d:
                channels[k] = colors[own, i, j]
            elif j < d + 4:
                channels[k] = rows[c, i, 6 + j - d]
        features[c, i, which] = channels


@wp.kernel
@no_type_check
def list_tiles(
    rows: wp.array(dtype=wp.float32, ndim=3),
    screen: wp.array(dtype=wp.float32, ndim=3),
    bits: wp.array(dtype=wp.int32, ndim=3),
    height: wp.int32,
    width: wp.int32,
    counts: wp.array(dtype=wp.int64),
    ends: wp.array(dtype=wp.int64),
    keys: wp.array(dtype=wp.int64),
    gaussians: wp.array(dtype=wp.int32),
):
    """An entry for each tile of each Gaussian, before `ends`: camera and tile, then depth, as a number to sort by. The
    bits of depths, which are positive, rise with them. Entries for which there is no room are left out; room without an
    entry is behind all tiles. A thread for each Gaussian of each camera, and for each entry."""
    thread = wp.tid()
    listed = counts.shape[0]
    used = wp.int64(0)
    if listed > 0:
        used = ends[listed - 1]
    if thread < keys.shape[0] and wp.int64(thread) >= used:
        keys[thread] = last_key
        gaussians[thread] = 0
    if thread >= listed:
        return
    c = thread / rows.shape[1]
    i = thread % rows.shape[1]
    box = tiles_of(rows, screen, c, i, height, width)
    across = (width + tile_side - 1) / tile_side
    down = (height + tile_side - 1) / tile_side
    at = ends[thread] - counts[thread]
    depth = wp.int64(wp.max(bits[c, i, 6], 0))
    for y in range(box[2], box[3] + 1):
        for x in range(box[0], box[1] + 1):
            if reaches(rows, screen, c, i, x, y):
                if at < wp.int64(keys.shape[0]):
                    tile = wp.int64((c * down + y) * across + x)
                    keys[at] = wp.lshift(tile, wp.int64(32)) + depth
                    gaussians[at] = i
                at = at + wp.int64(1)


@wp.kernel
@no_type_check
def start_tiles(
    keys: wp.array(dtype=wp.int64),
    order: wp.array(dtype=wp.int64),
    listed: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    starts: wp.array(dtype=wp.int64, ndim=2),
    gaussians: wp.array(dtype=wp.int32),
    entries: wp.array(dtype=wp.int64),
):
    """Where each list begins in the sorted keys, the Gaussians in their order, and the number of entries that there
    are. A thread for each entry, and one for the end."""
    t = wp.tid()
    tiles = starts.shape[1] - 1
    most = starts.shape[0] * tiles
    before = wp.int32(-1)
    if t > 0:
        before = wp.int32(wp.min(wp.rshift(keys[t - 1], wp.int64(32)), wp.int64(most)))
    here = most
    if t < keys.shape[0]:
        here = wp.int32(wp.min(wp.rshift(keys[t], wp.int64(32)), wp.int64(most)))
        gaussians[t] = listed[order[t]]
    for tile in range(before + 1, here + 1):
        c = tile / tiles
        if c < starts.shape[0]:
            starts[c, tile % tiles] = wp.int64(t)
        if tile % tiles == 0 and c > 0:
            starts[c - 1, tiles] = wp.int64(t)
    if t == 0:
        total = wp.int64(0)
        if ends.shape[0] > 0:
            total = ends[ends.shape[0] - 1]
        entries[0] = total


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


# 32 threads of a tile, two rows of its pixels, go through its list together: on CUDA they add up what they have for a
# Gaussian among themselves, and the first of them adds it to that of others, one atomic addition in place of up to 32.
# On a CPU, where Warp runs a thread after the other, each is alone.
@wp.func_native("""
    #if defined(__CUDA_ARCH__)
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    #endif
    return value;
""")
def sum_together(value: wp.float32) -> wp.float32:
    """The sum over 32 threads, for each of them."""


@wp.func_native("""
    #if defined(__CUDA_ARCH__)
    for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
    #endif
    return value;
""")
def most_together(value: wp.int32) -> wp.int32:
    """The largest value of 32 threads, for each of them."""


@wp.func_native("""
    #if defined(__CUDA_ARCH__)
    return __popc(__ballot_sync(0xffffffffu, holds));
    #else
    return holds ? 1 : 0;
    #endif
""")
def count_together(holds: wp.bool) -> wp.int32:
    """For how many of 32 threads it holds."""


@wp.func_native("""
    #if defined(__CUDA_ARCH__)
    return thread % 32 == 0;
    #else
    return true;
    #endif
""")
def is_first(thread: wp.int32) -> wp.bool:
    """Whether a thread is the first of its 32."""


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
    color: wp.array(dtype=wp.float32, ndim=4),
    depth: wp.array(dtype=wp.float32, ndim=3),
    normal: wp.array(dtype=wp.float32, ndim=4),
    light: wp.array(dtype=wp.float32, ndim=3),
    median: wp.array(dtype=wp.float32, ndim=3),
    last: wp.array(dtype=wp.int32, ndim=3),
    counts: wp.array(dtype=wp.int32, ndim=2),
):
    """The channels of pass `which`; the first pass writes all else. `screen` is empty or (c, n, 2). `counts`, the
    one thing that threads sum by atomics, is empty or zeros (c, n)."""
    c, tile, k = wp.tid()
    across = (width + tile_side - 1) / tile_side
    x = (tile % across) * tile_side + k % tile_side
    y = (tile / across) * tile_side + k / tile_side
    inside = x < width and y < height
    first = is_first(k)
    through = wp.float32(1.0)
    middle = wp.float32(0.0)
    ended = wp.int32(2147483647)
    sums = channels_type()
    entry = starts[c, tile]
    end = starts[c, tile + 1]
    place = wp.int32(0)
    going = inside
    alive = count_together(going)
    while entry < end and alive > 0:
        i = gaussians[entry]
        alpha = wp.float32(0.0)
        if going:
            alpha = alpha_at(rows, screen, c, i, wp.float32(x) + 0.5, wp.float32(y) + 0.5)[0]
        drawn = alpha >= least_alpha
        if drawn:
            weight = wp.min(alpha, most_alpha) * through
            after = through - weight
            sums = sums + weight * features[c, i, which]
            if through > 0.5 and after <= 0.5:
                middle = rows[c, i, 6]
            through = after
            if not (through > least_light):
                ended = place
                going = False
        if which == 0 and counts.shape[0] > 0:
            pixels = count_together(drawn)
            if first and pixels > 0:
                wp.atomic_add(counts, c, i, pixels)
        entry = entry + wp.int64(1)
        place = place + 1
        alive = count_together(going)
    if inside:
        d = color.shape[3]
        for k in range(width_of_pass):
            j = which * width_of_pass + k
            if j < d:
                color[c, y, x, j] = sums[k]
            elif j == d:
                depth[c, y, x] = sums[k]
            elif j < d + 4:
                normal[c, y, x, j - d - 1] = sums[k]
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
    first = is_first(k)
    through = wp.float32(0.0)
    behind = wp.float32(0.0)  # the light's worth behind the Gaussian
    begin = starts[c, tile]
    own = wp.min(c, features.shape[0] - 1)
    mine = wp.int32(-1)
    if x < width and y < height:
        through = light[c, y, x]
        behind = through * to_light[c, y, x]
        mine = wp.int32(wp.min(starts[c, tile + 1] - wp.int64(1) - begin, wp.int64(last[c, y, x])))
    place = most_together(mine)
    while place >= 0:
        i = gaussians[begin + wp.int64(place)]
        at_pixel = wp.vec3()
        if place <= mine:
            at_pixel = alpha_at(rows, screen, c, i, wp.float32(x) + 0.5, wp.float32(y) + 0.5)
        drawn = at_pixel[0] >= least_alpha
        if count_together(drawn) > 0:
            alpha = wp.float32(0.0)
            inverse = wp.float32(1.0)
            weight = wp.float32(0.0)
            worth = wp.float32(0.0)
            if drawn:
                alpha = wp.min(at_pixel[0], most_alpha)
                inverse = 1.0 / (1.0 - alpha)
                through = through * inverse  # before the Gaussian
                weight = alpha * through
            for f in range(features.shape[2]):
                share = wp.float32(0.0)
                if drawn:
                    worth = worth + grad[c, y, x, f] * features[own, i, f]
                    share = weight * grad[c, y, x, f]
                share = sum_together(share)
                if first:
                    wp.atomic_add(to_features, own, i, f, share)
            parts = row_gradient()
            if drawn and at_pixel[0] <= most_alpha:
                h = (through * worth - behind * inverse) * alpha  # by log alpha
                dx = at_pixel[1]
                dy = at_pixel[2]
                parts[0] = h * (rows[c, i, 2] * dx + rows[c, i, 3] * dy)
                parts[1] = h * (rows[c, i, 3] * dx + rows[c, i, 4] * dy)
                parts[2] = -0.5 * h * dx * dx
                parts[3] = -h * dx * dy
                parts[4] = -0.5 * h * dy * dy
                parts[5] = h / rows[c, i, 5]
            for j in range(6):
                part = sum_together(parts[j])
                if first:
                    wp.atomic_add(to_rows, c, i, j, part)
            if magnitudes.shape[0] > 0:
                for j in range(2):
                    part = sum_together(wp.abs(parts[j]))
                    if first:
                        wp.atomic_add(magnitudes, c, i, j, part)
            behind = behind + weight * worth
        place = place - 1
