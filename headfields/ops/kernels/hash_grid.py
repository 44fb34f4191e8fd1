"""The hash grid in Warp: value, gradient and second gradient, made for each number of dimensions and width of loads.

Loops over axes and corners have their lengths when a kernel is compiled, so that what belongs to a point stays in
registers, and a row of the table is read by loads of up to 16 bytes and added to by one instruction (on sm_90).
Kernels of values run level by level: threads that run together read one level's rows.
"""

import functools
from typing import Any, NamedTuple, no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp
from headfields.ops.reference.hash_grid import PRIMES

wp = warp()


@wp.struct
@no_type_check
class GridLevels:
    """The layout of the table: one entry per level in each array, see `HashGridLayout`."""

    resolution: wp.array(dtype=wp.int32)
    offset: wp.array(dtype=wp.int32)
    hashed: wp.array(dtype=wp.int32)
    mask: wp.uint32
    chunks: int
    smoothstep: int


class Kernels(NamedTuple):
    """The three kernels of a specialization."""

    gather: Any
    scatter: Any
    point_gradient: Any


def chunk(features: int) -> int:
    """Features that one load takes: the widest of 8, 4, 2 and 1 that divides a row."""
    return next(width for width in (8, 4, 2, 1) if features % width == 0)


# What CUDA reads at once, by bytes: the type, and an element of it.
_WORDS = {16: ("uint4", (".x", ".y", ".z", ".w")), 8: ("uint2", (".x", ".y")), 4: ("unsigned int", ("",))}


def _load(width: int, half: bool) -> str:
    """C++ that reads `width` numbers at `p` into `v`, through the read-only cache in the widest words."""
    if half and width == 1:
        return "wp::half h; h.u = __ldg(reinterpret_cast<const unsigned short*>(p)); v[0] = wp::half_to_float(h);"
    per_word = 2 if half else 1
    word, parts = _WORDS[min(16, width * (2 if half else 4))]
    lines = []
    for first in range(0, width, per_word * len(parts)):
        name = f"q{first}"
        place = first // (per_word * len(parts))
        lines.append(f"const {word} {name} = __ldg(reinterpret_cast<const {word}*>(p) + {place});")
        for i, part in enumerate(parts):
            at = first + per_word * i
            if half:
                for one, bits in ((at, f"{name}{part} & 0xffffu"), (at + 1, f"{name}{part} >> 16")):
                    lines.append(f"h.u = static_cast<unsigned short>({bits}); v[{one}] = wp::half_to_float(h);")
            else:
                lines.append(f"v[{at}] = __uint_as_float({name}{part});")
    return ("wp::half h; " if half else "") + " ".join(lines)


def _floats(width: int, action: str) -> str:
    """C++ that applies `action`, of a pointer and a value, to the floats at `p` and in `v`, up to four at once."""
    kind = {1: "float", 2: "float2"}.get(width, "float4")
    size = min(width, 4)
    lines = []
    for first in range(0, width, size):
        values = ", ".join(f"v[{first + i}]" for i in range(size))
        value = values if size == 1 else f"make_{kind}({values})"
        lines.append(action.format(f"reinterpret_cast<{kind}*>(p) + {first // size}", value))
    return " ".join(lines)


@functools.cache
@no_type_check
def specialized(dimensions: int, width: int, half: bool, directional: bool) -> Kernels:
    """The kernels of one specialization, which are compiled when first launched.

    Args:
        dimensions: of the points.
        width: features that a load takes, `chunk(features)`; a row has `Grid.chunks` of them.
        half: whether tables are float16; sums are float32.
        directional: whether weights stand for their derivative along a direction of each point (for second gradients).
    """
    corners = 2**dimensions
    number = wp.float16 if half else wp.float32
    values = wp.types.vector(length=width, dtype=wp.float32)
    position = wp.types.vector(length=dimensions, dtype=wp.float32)
    integers = wp.types.vector(length=dimensions, dtype=wp.uint32)
    primes = integers(*PRIMES[:dimensions])
    module = wp.get_module(f"{__name__}_{dimensions}_{width}{'_half' * half}{'_directional' * directional}")

    @wp.func_native(f"""
        wp::vec_t<{width}, float> v;
        const {"wp::half" if half else "float"}* p = table.data + size_t(row) * {width};
        #if defined(__CUDA_ARCH__)
        {_load(width, half)}
        #else
        for (int i = 0; i < {width}; ++i) v[i] = static_cast<float>(p[i]);
        #endif
        return v;
    """)
    def table_row(table: wp.array(dtype=number), row: wp.int64) -> values: ...

    @wp.func_native(f"""
        wp::vec_t<{width}, float> v;
        const float* p = grad.data + size_t(row) * {width};
        #if defined(__CUDA_ARCH__)
        {_load(width, False)}
        #else
        for (int i = 0; i < {width}; ++i) v[i] = p[i];
        #endif
        return v;
    """)
    def grad_row(grad: wp.array(dtype=wp.float32), row: wp.int64) -> values: ...

    @wp.func_native(f"""
        float* p = out.data + size_t(row) * {width};
        #if defined(__CUDA_ARCH__)
        {_floats(width, "*({0}) = {1};")}
        #else
        for (int i = 0; i < {width}; ++i) p[i] = v[i];
        #endif
    """)
    def store_row(out: wp.array(dtype=wp.float32), row: wp.int64, v: values): ...

    @wp.func_native(f"""
        float* p = total.data + size_t(row) * {width};
        #if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        {_floats(width, "atomicAdd({0}, {1});")}
        #elif defined(__CUDA_ARCH__)
        for (int i = 0; i < {width}; ++i) atomicAdd(p + i, v[i]);
        #else
        for (int i = 0; i < {width}; ++i) p[i] += v[i];
        #endif
    """)
    def add_row(total: wp.array(dtype=wp.float32), row: wp.int64, v: values): ...

    @wp.struct
    class Cell:
        """A point's cell: the lower vertex's and the next one's part in a row, by axis; the upper vertex's weight, its
        two derivatives, and the first times the direction."""

        lower: integers
        upper: integers
        first_row: int
        hashed: int
        mask: wp.uint32
        weight: position
        slope: position
        bend: position
        along: position

    @wp.func
    def undefined(point: position):
        """Whether a coordinate is NaN."""
        # A variable to Warp, where a literal would be a constant.
        bad = bool(False)  # noqa: UP018
        for k in range(dimensions):
            if wp.isnan(point[k]):
                bad = True
        return bad

    @wp.func
    def locate(grid: GridLevels, point: position, direction: position, level: int):
        """The cell of a point on a level; outside the unit cube the nearest point of it, where slopes are 0."""
        cell = Cell()
        cells = grid.resolution[level]
        scale = wp.float32(cells)
        cell.hashed = grid.hashed[level]
        cell.first_row = grid.offset[level]
        cell.mask = grid.mask
        stride = wp.uint32(1)
        for k in range(dimensions):
            x = point[k]
            inside = wp.where(x >= 0.0 and x <= 1.0, scale, 0.0)
            place = wp.clamp(x, 0.0, 1.0) * scale
            vertex = wp.min(wp.int32(place), cells - 1)
            t = place - wp.float32(vertex)
            factor = wp.where(cell.hashed != 0, primes[k], stride)
            stride = stride * wp.uint32(cells + 1)
            cell.lower[k] = wp.uint32(vertex) * factor
            cell.upper[k] = wp.uint32(vertex + 1) * factor
            if grid.smoothstep != 0:
                cell.weight[k] = t * t * (3.0 - 2.0 * t)
                cell.slope[k] = inside * 6.0 * t * (1.0 - t)
                cell.bend[k] = direction[k] * inside * inside * (6.0 - 12.0 * t)
            else:
                cell.weight[k] = t
                cell.slope[k] = inside
                cell.bend[k] = 0.0
            cell.along[k] = direction[k] * cell.slope[k]
        return cell

    @wp.func
    def corner_row(grid: GridLevels, cell: Cell, corner: int):
        """The first chunk in the table of a corner of the cell, whose bits are 1 for upper along each axis."""
        total = wp.uint32(0)
        mixed = wp.uint32(0)
        for k in range(dimensions):
            part = wp.where((corner >> k & 1) != 0, cell.upper[k], cell.lower[k])
            total = total + part
            mixed = mixed ^ part
        entry = wp.where(cell.hashed != 0, mixed & cell.mask, total)
        return wp.int64(cell.first_row + wp.int32(entry)) * wp.int64(grid.chunks)

    @wp.func
    def weight(cell: Cell, corner: int, skip: int):
        """The product of the corner's weights over all axes but `skip`, and its derivative along the direction."""
        value = wp.float32(1.0)
        slope = wp.float32(0.0)
        for k in range(dimensions):
            if k != skip:
                upper = (corner >> k & 1) != 0
                side = wp.where(upper, cell.weight[k], 1.0 - cell.weight[k])
                if wp.static(directional):
                    slope = slope * side + value * wp.where(upper, cell.along[k], -cell.along[k])
                value = value * side
        return value, slope

    @wp.kernel(module=module, enable_backward=False)
    def gather(
        grid: GridLevels,
        points: wp.array(dtype=position),
        direction: wp.array(dtype=position),
        table: wp.array(dtype=number),
        plain: wp.array(dtype=number),
        use_plain: int,
        at_undefined: wp.float32,
        out: wp.array(dtype=wp.float32),
    ):
        """out = weights (or their derivative along `direction`) times `table`, plus weights times `plain`."""
        level, n = wp.tid()
        first = (wp.int64(n) * wp.int64(grid.resolution.shape[0]) + wp.int64(level)) * wp.int64(grid.chunks)
        point = points[n]
        if undefined(point):
            for i in range(grid.chunks):
                store_row(out, first + wp.int64(i), values(at_undefined))
            return
        cell = locate(grid, point, direction[n], level)
        for i in range(grid.chunks):
            total = values()
            for corner in range(corners):
                row = corner_row(grid, cell, corner) + wp.int64(i)
                value, slope = weight(cell, corner, -1)
                if wp.static(directional):
                    total += slope * table_row(table, row)
                    if use_plain != 0:
                        total += value * table_row(plain, row)
                else:
                    total += value * table_row(table, row)
            store_row(out, first + wp.int64(i), total)

    @wp.kernel(module=module, enable_backward=False)
    def scatter(
        grid: GridLevels,
        points: wp.array(dtype=position),
        direction: wp.array(dtype=position),
        grad: wp.array(dtype=wp.float32),
        total: wp.array(dtype=wp.float32),
    ):
        """total[row] += weight (or its derivative along `direction`) times grad."""
        level, n = wp.tid()
        first = (wp.int64(n) * wp.int64(grid.resolution.shape[0]) + wp.int64(level)) * wp.int64(grid.chunks)
        point = points[n]
        if undefined(point):
            return
        cell = locate(grid, point, direction[n], level)
        for i in range(grid.chunks):
            incoming = grad_row(grad, first + wp.int64(i))
            for corner in range(corners):
                row = corner_row(grid, cell, corner) + wp.int64(i)
                value, slope = weight(cell, corner, -1)
                if wp.static(directional):
                    value = slope
                add_row(total, row, value * incoming)

    @wp.kernel(module=module, enable_backward=False)
    def point_gradient(
        grid: GridLevels,
        points: wp.array(dtype=position),
        direction: wp.array(dtype=position),
        grad: wp.array(dtype=wp.float32),
        table: wp.array(dtype=number),
        plain: wp.array(dtype=number),
        use_plain: int,
        out: wp.array(dtype=position),
    ):
        """d/dx of grad times the output of `gather`; one thread per point, so that levels add up in order."""
        n = wp.tid()
        levels = grid.resolution.shape[0]
        point = points[n]
        total = position()
        if not undefined(point):
            for level in range(levels):
                cell = locate(grid, point, direction[n], level)
                first = (wp.int64(n) * wp.int64(levels) + wp.int64(level)) * wp.int64(grid.chunks)
                for i in range(grid.chunks):
                    incoming = grad_row(grad, first + wp.int64(i))
                    for corner in range(corners):
                        row = corner_row(grid, cell, corner) + wp.int64(i)
                        main = wp.dot(incoming, table_row(table, row))
                        other = wp.float32(0.0)
                        if wp.static(directional):  # noqa: SIM102
                            if use_plain != 0:
                                other = wp.dot(incoming, table_row(plain, row))
                        for j in range(dimensions):
                            value, slope = weight(cell, corner, j)
                            if wp.static(directional):
                                slope = cell.slope[j] * (main * slope + other * value) + cell.bend[j] * main * value
                            else:
                                slope = main * cell.slope[j] * value
                            total[j] += wp.where((corner >> j & 1) != 0, slope, -slope)
        out[n] = total

    return Kernels(gather, scatter, point_gradient)
