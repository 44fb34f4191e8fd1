"""The multiresolution hash grid of Instant-NGP: features interpolated from levels of learned vertices.

Three registered operations, each the derivative of the one before: `headfields::hash_grid`, `..._backward` and
`..._backward_backward`, which has none and so raises on a third derivative. All take flat points and the layout as
integers; gradients that are not needed (`needs`) are neither computed nor allocated. `..._rounded` is the first one of
a table that is read in half precision, and its gradient, of float32.
"""

import functools
import math
from typing import Any, Literal, Sequence  # noqa: UP035 (ops/registration.py)

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops import dispatch
from headfields.ops._checks import check_floating, check_same_device, check_shape, no_third_derivative, require_shapes
from headfields.ops.functorch_rules import pullback
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.ops.needed_gradients import needed_gradients
from headfields.ops.reference import hash_grid as reference
from headfields.ops.registration import register_op, where_needed
from headfields.ops.warp_launch import launch


@functools.lru_cache(maxsize=64)
def _layout(*key: int) -> HashGridLayout:
    return HashGridLayout(*key)


def hash_grid(
    points: Float[Tensor, "*batch d"],
    table: Float[Tensor, "entries f"],
    layout: HashGridLayout,
    interpolation: Literal["linear", "smoothstep"] = "linear",
    rounded: Float[Tensor, "entries f"] | None = None,
) -> Float[Tensor, "*batch width"]:
    """Features of points: on every level the d-linear interpolation of the 2^d vertices around the point.

    Müller et al., *Instant Neural Graphics Primitives with a Multiresolution Hash Encoding* (2022), section 3 and
    eq. 1 to 4, without an offset between levels: vertex i of a level with N cells is at i / N.

    Args:
        points: coordinates in [0, 1]^d, float32 or float64. A coordinate outside is clamped to the border (our own
            choice, the same on every backend) and gets no gradient. A point with a NaN has NaN features and passes
            no gradient to anything; no memory outside the table is ever read.
        table: `layout.entries` rows of `layout.features`: float32, or float16 (half the memory; interpolated and
            accumulated in float32, the gradient rounded to float16 at the end), or float64 with float64 points.
        layout: the row of each vertex.
        interpolation: `"linear"`, or `"smoothstep"`: the weight t along each axis becomes t² (3 − 2t), which makes the
            features continuously differentiable (the same paper, appendix A).

    Returns:
        `layout.width` features per point, level by level, in the dtype of `points`.

    Differentiable twice, to points and table, in every mixture (so a loss may hold the gradient of a distance by its
    point); a third derivative raises. Derivatives by points are one-sided on cell borders.

    Raises:
        TypeError: points or table have another dtype.
        ValueError: a shape does not fit the layout, or devices differ.

    >>> import torch, headfields as hf
    >>> layout = hf.ops.HashGridLayout(levels=4, features=2, log2_table_size=10, finest_resolution=64)
    >>> table = torch.zeros(layout.entries, layout.features)
    >>> hf.ops.hash_grid(torch.rand(5, 3), table, layout).shape  # 4 levels of 2 features
    torch.Size([5, 8])
    """
    check_floating("hash_grid", "points", points)
    check_floating("hash_grid", "table", table)
    if not isinstance(layout, HashGridLayout):
        raise TypeError(f"hash_grid: layout is a {type(layout).__name__}; expected hf.ops.HashGridLayout")
    check_shape("hash_grid", "points", points, f"... {layout.dimensions}")
    if table.shape != (layout.entries, layout.features):
        raise ValueError(
            f"hash_grid: table has shape {tuple(table.shape)}; the layout has {layout.entries} entries of "
            f"{layout.features} features"
        )
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"hash_grid: points has dtype {points.dtype}, too coarse for a grid; pass points.float()")
    allowed = (torch.float64,) if points.dtype == torch.float64 else (torch.float32, torch.float16)
    if table.dtype not in allowed:
        raise TypeError(
            f"hash_grid: table has dtype {table.dtype} with {points.dtype} points; expected "
            f"{' or '.join(str(dtype) for dtype in allowed)} (table.to({allowed[0]}) converts)"
        )
    if interpolation not in ("linear", "smoothstep"):
        raise ValueError(f"hash_grid: interpolation is {interpolation!r}; expected 'linear' or 'smoothstep'")
    check_same_device("hash_grid", points=points, table=table)
    if rounded is not None:
        if table.dtype != torch.float32 or rounded.dtype != torch.float16 or rounded.shape != table.shape:
            raise TypeError(
                f"hash_grid: rounded is {tuple(rounded.shape)} of {rounded.dtype} beside a table {tuple(table.shape)} "
                f"of {table.dtype}; expected table.detach().half() of a float32 table"
            )
        check_same_device("hash_grid", table=table, rounded=rounded)
    if points.dtype == torch.float64 and not dispatch.use_native(points):
        return reference.hash_grid(points, table, layout, interpolation)
    flat = points.reshape(-1, layout.dimensions)
    smoothstep = interpolation == "smoothstep"
    if rounded is None:
        features = torch.ops.headfields.hash_grid(flat, table, layout.key, smoothstep)
    else:
        features = torch.ops.headfields.hash_grid_rounded(flat, table, rounded, layout.key, smoothstep)
    return features.reshape(*points.shape[:-1], layout.width)


def _shape(op: str, key: Sequence[int], points: Tensor, table: Tensor, **rows: Tensor | None) -> HashGridLayout:
    """The layout of a call of a registered operation, whose arguments it checks: `rows` are (N, width)."""
    layout = _layout(*key)
    fits = points.ndim == 2 and points.shape[1] == layout.dimensions
    fits = fits and table.shape == (layout.entries, layout.features)
    fits = fits and all(tensor is None or tensor.shape == (len(points), layout.width) for tensor in rows.values())
    require_shapes(op, fits, points=points, table=table, **rows)
    return layout


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def _zero_table(like: Tensor, dtype: torch.dtype) -> Tensor:
    if like.device.type != "cpu":
        return like.new_zeros(like.shape, dtype=dtype)
    # NumPy asks the system for zeroed memory in large pages, which are cleared when the scatter first touches them.
    # torch.zeros would write the whole table, and fault on every small page of it.
    return torch.from_numpy(np.zeros(tuple(like.shape), np.float64 if dtype == torch.float64 else np.float32))


_LARGE = 1 << 22  # bytes from which NumPy asks for large pages


def _empty_rows(points: Tensor, width: int) -> Tensor:
    """(N, width) features to be written."""
    size = points.shape[0] * width
    if points.device.type != "cpu" or size * points.element_size() < _LARGE:
        return points.new_empty((points.shape[0], width))
    # In large pages, as above, and from a cache line on, so that the native kernel may write whole lines.
    line = 64 // points.element_size()
    memory = np.empty(size + line, np.float64 if points.dtype == torch.float64 else np.float32)
    first = -memory.ctypes.data % 64 // points.element_size()
    return torch.from_numpy(memory[first : first + size].reshape(points.shape[0], width))


def _or_empty(result: Tensor | None, like: Tensor) -> Tensor:
    """A custom operation must return tensors: an empty one stands for a gradient that is not needed."""
    return like.new_empty((0,)) if result is None else result.to(like.dtype)


def _native_arguments(layout: HashGridLayout, smoothstep: bool) -> tuple:
    return (layout.resolutions, layout.offsets, layout.log2_table_size, smoothstep, torch.get_num_threads())


@functools.lru_cache(maxsize=64)
def _warp_grid(layout: HashGridLayout, smoothstep: bool, device: torch.device) -> Any:
    wp = dispatch.warp()
    from headfields.ops.kernels import hash_grid as kernels

    if layout.entries >= 2**31:
        raise ValueError(f"hash_grid (Warp): the layout has {layout.entries} entries; at most 2**31 - 1 can be indexed")
    grid = kernels.GridLevels()
    hashed = [not dense for dense in layout.dense]
    # Made by torch, on the stream that the launches are on, and kept alive by the arrays.
    numbers = torch.tensor([layout.resolutions, layout.offsets[: len(hashed)], hashed], dtype=torch.int32).to(device)
    grid.resolution, grid.offset, grid.hashed = (wp.from_torch(row) for row in numbers)
    grid.mask = 2**layout.log2_table_size - 1
    grid.chunks, grid.smoothstep = layout.features // kernels.chunk(layout.features), int(smoothstep)
    return grid


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor flat, where loads of 16 bytes may read it: a view into the middle of another one is copied."""
    return (tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()).view(-1)


class _Warp:
    """The three kernels with the arguments that they share; tensors are contiguous and on one device."""

    def __init__(self, points: Tensor, direction: Tensor | None, layout: HashGridLayout, smoothstep: bool) -> None:
        self.layout, self.directional = layout, direction is not None
        grid = _warp_grid(layout, smoothstep, points.device)
        self.shared = (grid, points, points if direction is None else direction)
        self.points = len(points)

    def kernels(self, half: bool) -> Any:
        from headfields.ops.kernels import hash_grid as kernels

        width = kernels.chunk(self.layout.features)
        return kernels.specialized(self.layout.dimensions, width, half, self.directional)

    def gather(self, table: Tensor, plain: Tensor | None, at_undefined: float, out: Tensor) -> None:
        kernel = self.kernels(table.dtype == torch.float16).gather
        table, out = _aligned(table), out.view(-1)
        tables = (table, table if plain is None else _aligned(plain), int(plain is not None))
        launch(kernel, (self.layout.levels, self.points), *self.shared, *tables, at_undefined, out)

    def scatter(self, grad: Tensor, total: Tensor) -> None:
        kernel = self.kernels(half=False).scatter
        launch(kernel, (self.layout.levels, self.points), *self.shared, _aligned(grad), total.view(-1))

    def point_gradient(self, grad: Tensor, table: Tensor, plain: Tensor | None, out: Tensor) -> None:
        kernel = self.kernels(table.dtype == torch.float16).point_gradient
        table = _aligned(table)
        tables = (table, table if plain is None else _aligned(plain), int(plain is not None))
        launch(kernel, self.points, *self.shared, _aligned(grad), *tables, out)


@torch.library.custom_op("headfields::hash_grid", mutates_args=())
def _hash_grid(points: Tensor, table: Tensor, layout: Sequence[int], smoothstep: bool) -> Tensor:
    shape = _shape("hash_grid", layout, points, table)
    points, table = _contiguous(points), _contiguous(table)
    out = _empty_rows(points, shape.width)
    if dispatch.use_native(points):
        dispatch.native.hash_grid(points, table, out, *_native_arguments(shape, smoothstep))
    else:
        _Warp(points, None, shape, smoothstep).gather(table, None, math.nan, out)
    return out


@torch.library.custom_op("headfields::hash_grid_backward", mutates_args=())
def _hash_grid_backward(
    grad: Tensor, points: Tensor, table: Tensor, layout: Sequence[int], smoothstep: bool, needs: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    return _gradients("hash_grid_backward", grad, points, table, table.dtype, layout, smoothstep, needs)


def _gradients(
    op: str, grad: Tensor, points: Tensor, table: Tensor, dtype: torch.dtype, layout: Sequence[int], smoothstep: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients by points, and by the table in a dtype; those that are not needed are empty."""
    shape = _shape(op, layout, points, table, grad=grad)
    grad, points, table = _contiguous(grad), _contiguous(points), _contiguous(table)
    to_points = torch.empty_like(points) if needs[0] else None
    to_table = _zero_table(table, points.dtype) if needs[1] else None
    if dispatch.use_native(points):
        arguments = _native_arguments(shape, smoothstep)
        dispatch.native.hash_grid_backward(grad, points, table, to_points, to_table, *arguments)
    else:
        run = _Warp(points, None, shape, smoothstep)
        if to_points is not None:
            run.point_gradient(grad, table, None, to_points)
        if to_table is not None:
            run.scatter(grad, to_table)
    none = table.new_empty((0,), dtype=dtype)
    return _or_empty(to_points, points), none if to_table is None else to_table.to(dtype)


@torch.library.custom_op("headfields::hash_grid_backward_backward", mutates_args=())
def _hash_grid_backward_backward(
    grad: Tensor,
    points: Tensor,
    table: Tensor,
    gg_points: Tensor | None,
    gg_table: Tensor | None,
    layout: Sequence[int],
    smoothstep: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    op = "hash_grid_backward_backward"
    shape = _shape(op, layout, points, table, grad=grad)
    require_shapes(op, gg_points is None or gg_points.shape == points.shape, points=points, gg_points=gg_points)
    require_shapes(op, gg_table is None or gg_table.shape == table.shape, table=table, gg_table=gg_table)
    grad, points, table = _contiguous(grad), _contiguous(points), _contiguous(table)
    gg_points = None if gg_points is None else _contiguous(gg_points)
    gg_table = None if gg_table is None else _contiguous(gg_table)
    to_grad = _empty_rows(points, shape.width) if needs[0] else None
    to_points = torch.empty_like(points) if needs[1] else None
    to_table = _zero_table(table, points.dtype) if needs[2] else None
    if dispatch.use_native(points):
        dispatch.native.hash_grid_backward_backward(
            grad, points, table, gg_points, gg_table, to_grad, to_points, to_table,
            *_native_arguments(shape, smoothstep),
        )  # fmt: skip
    else:
        run = _Warp(points, gg_points, shape, smoothstep)
        # Without a second gradient of points only the undifferentiated term is left, on the other table.
        main, plain = (gg_table, None) if gg_points is None else (table, gg_table)
        assert main is not None  # without second gradients nothing is computed
        if to_grad is not None:
            run.gather(main, plain, 0.0, to_grad)
        if to_points is not None:
            run.point_gradient(grad, main, plain, to_points)
        if to_table is not None and gg_points is not None:
            run.scatter(grad, to_table)
    return _or_empty(to_grad, grad), _or_empty(to_points, points), _or_empty(to_table, table)


@torch.library.custom_op("headfields::hash_grid_rounded", mutates_args=())
def _hash_grid_rounded(
    points: Tensor, table: Tensor, rounded: Tensor, layout: Sequence[int], smoothstep: bool
) -> Tensor:
    require_shapes("hash_grid_rounded", table.shape == rounded.shape, table=table, rounded=rounded)
    return _hash_grid._init_fn(points, rounded, layout, smoothstep)


@torch.library.custom_op("headfields::hash_grid_rounded_backward", mutates_args=())
def _hash_grid_rounded_backward(
    grad: Tensor,
    points: Tensor,
    table: Tensor,
    rounded: Tensor,
    layout: Sequence[int],
    smoothstep: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    require_shapes("hash_grid_rounded_backward", table.shape == rounded.shape, table=table, rounded=rounded)
    return _gradients("hash_grid_rounded_backward", grad, points, rounded, table.dtype, layout, smoothstep, needs)


def _backward(ctx, grad):
    needs = needed_gradients(ctx, 2)
    grads = torch.ops.headfields.hash_grid_backward(grad, *ctx.saved_tensors, *ctx.rest, needs)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None


def _save_backward(ctx, inputs, output):
    *tensors, ctx.layout, ctx.smoothstep, ctx.had = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx, gg_points, gg_table):
    needs = needed_gradients(ctx, 3)
    gg_points, gg_table = (gg if had else None for gg, had in zip((gg_points, gg_table), ctx.had, strict=True))
    if gg_points is None and gg_table is None:
        return (None,) * 6
    grads = torch.ops.headfields.hash_grid_backward_backward(
        *ctx.saved_tensors, gg_points, gg_table, ctx.layout, ctx.smoothstep, needs
    )
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


def _rounded_backward(ctx, grad):
    points, table, rounded = ctx.saved_tensors
    needs = needed_gradients(ctx, 2)
    grads = torch.ops.headfields.hash_grid_rounded_backward(grad, points, table, rounded, *ctx.rest, needs)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


def _rounded_backward_backward(ctx, gg_points, gg_table):
    needs = needed_gradients(ctx, 3)
    gg_points, gg_table = (gg if had else None for gg, had in zip((gg_points, gg_table), ctx.had, strict=True))
    if gg_points is None and gg_table is None:
        return (None,) * 7
    grad, points, _, rounded = ctx.saved_tensors
    # In float32, as the tangent of the table is: kernels read both at once.
    grads = torch.ops.headfields.hash_grid_backward_backward(
        grad, points, rounded.float(), gg_points, gg_table, ctx.layout, ctx.smoothstep, needs
    )
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None, None


def _plain(points: Tensor, table: Tensor, layout: Sequence[int], smoothstep: bool) -> Tensor:
    return reference.hash_grid(points, table, _layout(*layout), "smoothstep" if smoothstep else "linear")


def _plain_backward(
    grad: Tensor, points: Tensor, table: Tensor, layout: Sequence[int], smoothstep: bool, needs: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    to_points, to_table = pullback(_plain, 2)(grad, points, table, layout, smoothstep)
    return to_points if needs[0] else points.new_empty((0,)), to_table if needs[1] else table.new_empty((0,))


register_op(
    _hash_grid, lambda points, table, layout, *_: points.new_empty((points.shape[0], layout[0] * layout[1])), _plain,
    derivative=_backward, rows=(0,),
)  # fmt: skip
register_op(
    _hash_grid_backward, where_needed(1, 2), _plain_backward, derivative=_backward_backward, setup=_save_backward
)
register_op(
    _hash_grid_backward_backward, where_needed(0, 1, 2), None, derivative=no_third_derivative("hash_grid"),
    remedy="compute the gradient with torch.func too, or take both in reverse mode",
)  # fmt: skip


def _plain_rounded(points: Tensor, table: Tensor, rounded: Tensor, layout: Sequence[int], smoothstep: bool) -> Tensor:
    return _plain(points, table + (rounded.to(table) - table).detach(), layout, smoothstep)


def _plain_rounded_backward(
    grad: Tensor, points: Tensor, table: Tensor, rounded: Tensor, layout: Sequence[int], smoothstep: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _plain_backward(grad, points, table + (rounded.to(table) - table).detach(), layout, smoothstep, needs)


register_op(
    _hash_grid_rounded,
    lambda points, table, rounded, layout, _: points.new_empty((points.shape[0], layout[0] * layout[1])),
    _plain_rounded, derivative=_rounded_backward, rows=(0,),
)  # fmt: skip
register_op(
    _hash_grid_rounded_backward, where_needed(1, 2), _plain_rounded_backward, derivative=_rounded_backward_backward,
    setup=_save_backward,
)  # fmt: skip
