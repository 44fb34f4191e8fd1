"""The hash grid in Warp: value, gradient and second gradient, one thread per point and level.

Any dimension, number of features and table size.
"""

from typing import Any, no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.struct
@no_type_check
class Grid:
    """The layout of the table: one entry per level in each array, see `HashGridLayout`."""

    resolution: wp.array(dtype=wp.int32)
    offset: wp.array(dtype=wp.int32)
    hashed: wp.array(dtype=wp.int32)
    mask: wp.uint32
    dimensions: int
    features: int
    smoothstep: int


@wp.struct
@no_type_check
class Cell:
    """A point's cell: its lower vertex, and along each axis the upper vertex's weight and its two derivatives."""

    vertex: wp.vec4i
    upper: wp.vec4
    slope: wp.vec4
    bend: wp.vec4


@wp.func
@no_type_check
def undefined(points: wp.array2d(dtype=wp.float32), n: int, dimensions: int):
    """Whether a coordinate of point `n` is NaN."""
    # A variable to Warp, where a literal would be a constant.
    bad = bool(False)  # noqa: UP018
    for k in range(dimensions):
        if wp.isnan(points[n, k]):
            bad = True
    return bad


@wp.func
@no_type_check
def locate(grid: Grid, points: wp.array2d(dtype=wp.float32), n: int, level: int):
    """The cell of point `n` on a level; outside the unit cube the nearest point of it, where slopes are 0."""
    cell = Cell()
    cells = grid.resolution[level]
    scale = wp.float32(cells)
    for k in range(grid.dimensions):
        x = points[n, k]
        inside = wp.float32(0.0)
        if x >= 0.0 and x <= 1.0:
            inside = scale
        position = wp.clamp(x, 0.0, 1.0) * scale
        lower = wp.min(wp.int32(position), cells - 1)
        t = position - wp.float32(lower)
        cell.vertex[k] = lower
        if grid.smoothstep != 0:
            cell.upper[k] = t * t * (3.0 - 2.0 * t)
            cell.slope[k] = inside * 6.0 * t * (1.0 - t)
            cell.bend[k] = inside * inside * (6.0 - 12.0 * t)
        else:
            cell.upper[k] = t
            cell.slope[k] = inside
            cell.bend[k] = 0.0
    return cell


@wp.func
@no_type_check
def prime(k: int):
    """The factor of axis `k` in the hash."""
    # Müller et al. 2022, eq. 4; the fourth is our own choice.
    value = wp.uint32(1)
    if k == 1:
        value = wp.uint32(2654435761)
    if k == 2:
        value = wp.uint32(805459861)
    if k == 3:
        value = wp.uint32(3674653429)
    return value


@wp.func
@no_type_check
def corner_row(grid: Grid, cell: Cell, level: int, corner: int):
    """The row in the table of a corner of the cell, whose bits are 1 for upper along each axis."""
    entry = wp.uint32(0)
    stride = wp.uint32(1)
    for k in range(grid.dimensions):
        vertex = wp.uint32(cell.vertex[k] + (corner >> k & 1))
        if grid.hashed[level] != 0:
            entry = entry ^ (vertex * prime(k))
        else:
            entry = entry + vertex * stride
            stride = stride * wp.uint32(grid.resolution[level] + 1)
    if grid.hashed[level] != 0:
        entry = entry & grid.mask
    return grid.offset[level] + wp.int32(entry)


@wp.func
@no_type_check
def product(cell: Cell, dimensions: int, corner: int, skip: int):
    """Weight of the corner over all axes but those whose bit is set in `skip`."""
    value = wp.float32(1.0)
    for k in range(dimensions):
        if (skip >> k & 1) == 0:
            side = cell.upper[k]
            if (corner >> k & 1) == 0:
                side = 1.0 - side
            value = value * side
    return value


@wp.func
@no_type_check
def sign(corner: int, k: int):
    """1 for an upper corner along axis `k`, -1 for a lower one."""
    return wp.float32(2 * (corner >> k & 1) - 1)


@wp.func
@no_type_check
def first(cell: Cell, dimensions: int, corner: int, j: int):
    """d/dx_j of the corner's weight."""
    return sign(corner, j) * cell.slope[j] * product(cell, dimensions, corner, 1 << j)


@wp.func
@no_type_check
def directional(cell: Cell, dimensions: int, corner: int, direction: wp.array2d(dtype=wp.float32), n: int):
    """The derivative of the corner's weight along the direction of point `n`."""
    value = wp.float32(0.0)
    for k in range(dimensions):
        value = value + direction[n, k] * first(cell, dimensions, corner, k)
    return value


@wp.func
@no_type_check
def second(cell: Cell, dimensions: int, corner: int, j: int, direction: wp.array2d(dtype=wp.float32), n: int):
    """d/dx_j of the derivative of the corner's weight along the direction."""
    value = sign(corner, j) * direction[n, j] * cell.bend[j] * product(cell, dimensions, corner, 1 << j)
    for k in range(dimensions):
        if k != j:
            pair = sign(corner, j) * cell.slope[j] * sign(corner, k) * cell.slope[k]
            value = value + direction[n, k] * pair * product(cell, dimensions, corner, (1 << j) | (1 << k))
    return value


@wp.kernel
@no_type_check
def gather(
    grid: Grid,
    points: wp.array2d(dtype=wp.float32),
    direction: wp.array2d(dtype=wp.float32),
    table: wp.array2d(dtype=Any),
    plain: wp.array2d(dtype=Any),
    use_direction: int,
    use_plain: int,
    at_undefined: wp.float32,
    out: wp.array2d(dtype=wp.float32),
):
    """out = weights (or their derivative along `direction`) times `table`, plus weights times `plain`."""
    n, level = wp.tid()
    base = level * grid.features
    if undefined(points, n, grid.dimensions):
        for f in range(grid.features):
            out[n, base + f] = at_undefined
        return
    cell = locate(grid, points, n, level)
    for start in range(0, grid.features, 4):
        width = wp.min(4, grid.features - start)
        total = wp.vec4()
        for corner in range(1 << grid.dimensions):
            row = corner_row(grid, cell, level, corner)
            value = product(cell, grid.dimensions, corner, 0)
            weight = value
            if use_direction != 0:
                weight = directional(cell, grid.dimensions, corner, direction, n)
            for f in range(width):
                total[f] = total[f] + weight * wp.float32(table[row, start + f])
                if use_plain != 0:
                    total[f] = total[f] + value * wp.float32(plain[row, start + f])
        for f in range(width):
            out[n, base + start + f] = total[f]


@wp.kernel
@no_type_check
def scatter(
    grid: Grid,
    points: wp.array2d(dtype=wp.float32),
    direction: wp.array2d(dtype=wp.float32),
    grad: wp.array2d(dtype=wp.float32),
    use_direction: int,
    total: wp.array2d(dtype=wp.float32),
):
    """total[row] += weight (or its derivative along `direction`) times grad."""
    n, level = wp.tid()
    if undefined(points, n, grid.dimensions):
        return
    cell = locate(grid, points, n, level)
    for corner in range(1 << grid.dimensions):
        row = corner_row(grid, cell, level, corner)
        weight = wp.float32(0.0)
        if use_direction != 0:
            weight = directional(cell, grid.dimensions, corner, direction, n)
        else:
            weight = product(cell, grid.dimensions, corner, 0)
        for f in range(grid.features):
            wp.atomic_add(total, row, f, weight * grad[n, level * grid.features + f])


@wp.kernel
@no_type_check
def point_gradient(
    grid: Grid,
    points: wp.array2d(dtype=wp.float32),
    direction: wp.array2d(dtype=wp.float32),
    grad: wp.array2d(dtype=wp.float32),
    table: wp.array2d(dtype=Any),
    plain: wp.array2d(dtype=Any),
    use_direction: int,
    use_plain: int,
    out: wp.array2d(dtype=wp.float32),
):
    """d/dx of grad times the output of `gather`; one thread per point, so that levels add up in order."""
    n = wp.tid()
    total = wp.vec4()
    if not undefined(points, n, grid.dimensions):
        for level in range(grid.resolution.shape[0]):
            cell = locate(grid, points, n, level)
            for corner in range(1 << grid.dimensions):
                row = corner_row(grid, cell, level, corner)
                main = wp.float32(0.0)
                other = wp.float32(0.0)
                for f in range(grid.features):
                    g = grad[n, level * grid.features + f]
                    main = main + g * wp.float32(table[row, f])
                    if use_plain != 0:
                        other = other + g * wp.float32(plain[row, f])
                for j in range(grid.dimensions):
                    slope = first(cell, grid.dimensions, corner, j)
                    if use_direction != 0:
                        total[j] = total[j] + main * second(cell, grid.dimensions, corner, j, direction, n)
                    else:
                        total[j] = total[j] + main * slope
                    if use_plain != 0:
                        total[j] = total[j] + other * slope
    for j in range(grid.dimensions):
        out[n, j] = total[j]


# Both table types are declared here: an overload met at a later launch would compile the module again.
_float32 = {"table": wp.array2d(dtype=wp.float32), "plain": wp.array2d(dtype=wp.float32)}
_float16 = {"table": wp.array2d(dtype=wp.float16), "plain": wp.array2d(dtype=wp.float16)}
gather_float32, gather_float16 = wp.overload(gather, _float32), wp.overload(gather, _float16)
point_gradient_float32 = wp.overload(point_gradient, _float32)
point_gradient_float16 = wp.overload(point_gradient, _float16)
