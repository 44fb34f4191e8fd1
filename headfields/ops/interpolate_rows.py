"""Weighted sums of rows of a table: features at surface points, texels from vertices, vertices from texels.

The three registered operations (the sum, its transpose, and the inner products) are one another's derivatives, so they
differentiate to any order. The backward pass of PyTorch's indexing takes many times as long on a CPU.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import (
    check_floating,
    check_index,
    check_integer,
    check_same_device,
    check_shape,
    require_shapes,
)
from headfields.ops.dispatch import native, use_native, use_warp
from headfields.ops.needed_gradients import needed_gradients
from headfields.ops.reference import interpolate_rows as reference
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch


@torch.library.custom_op("headfields::interpolate_rows", mutates_args=())
def _gather(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    fits = table.ndim == index.ndim == 2 and weights.shape == index.shape
    require_shapes("interpolate_rows", fits, table=table, index=index, weights=weights)
    inputs = (table.contiguous(), index.contiguous(), weights.contiguous())
    if use_native(table) and table.dtype == torch.float32:
        out = table.new_empty(index.shape[0], table.shape[1])
        native.rows_gather(*inputs, out, torch.get_num_threads())
        return out
    check_index("interpolate_rows", "index", inputs[1], len(table), least=None)
    if table.dtype != torch.float32:
        return reference.interpolate_rows(*inputs)
    out = table.new_empty(index.shape[0], table.shape[1])
    launch("interpolate_rows.gather", tuple(out.shape), *inputs, out)
    return out


@torch.library.custom_op("headfields::scatter_rows", mutates_args=())
def _scatter(values: Tensor, index: Tensor, weights: Tensor, rows: int) -> Tensor:
    fits = values.ndim == index.ndim == 2 and weights.shape == index.shape and len(values) == len(index)
    require_shapes("scatter_rows", fits, values=values, index=index, weights=weights)
    inputs = (values.contiguous(), index.contiguous(), weights.contiguous())
    if use_native(values) and values.dtype == torch.float32:
        out = values.new_empty(rows, values.shape[1])
        native.rows_scatter(*inputs, out, torch.get_num_threads())
        return out
    check_index("scatter_rows", "index", inputs[1], rows, least=None)
    if not use_warp(values):
        return reference.scatter_rows(*inputs, rows)
    out = values.new_zeros(rows, values.shape[1])
    launch("interpolate_rows.scatter", tuple(values.shape), *inputs, out)
    return out


@torch.library.custom_op("headfields::dot_rows", mutates_args=())
def _dot(table: Tensor, index: Tensor, values: Tensor) -> Tensor:
    fits = table.ndim == index.ndim == 2 and values.shape == (len(index), table.shape[1])
    require_shapes("dot_rows", fits, table=table, index=index, values=values)
    inputs = (table.contiguous(), index.contiguous(), values.contiguous())
    if table.dtype != torch.float32:
        return reference.dot_rows(*inputs)
    out = table.new_empty(index.shape)
    if use_native(table):
        native.rows_dot(*inputs, out, torch.get_num_threads())
    else:
        check_index("dot_rows", "index", inputs[1], len(table), least=None)
        launch("interpolate_rows.dot", tuple(out.shape), *inputs, out)
    return out


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    table, index, weights = ctx.saved_tensors
    needs_table, _, needs_weights = needed_gradients(ctx, 3)
    to_table = _scatter(grad, index, weights, table.shape[0]) if needs_table else None
    to_weights = _dot(table, index, grad) if needs_weights else None
    return to_table, None, to_weights


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, index, weights = ctx.saved_tensors
    needs_values, _, needs_weights = needed_gradients(ctx, 3)
    to_values = _gather(grad, index, weights) if needs_values else None
    to_weights = _dot(grad, index, values) if needs_weights else None
    return to_values, None, to_weights, None


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    table, index, values = ctx.saved_tensors
    needs_table, _, needs_values = needed_gradients(ctx, 3)
    to_table = _scatter(values, index, grad, table.shape[0]) if needs_table else None
    to_values = _gather(table, index, grad) if needs_values else None
    return to_table, None, to_values


register_op(
    _gather, lambda table, index, *_: table.new_empty(index.shape[0], table.shape[1]), reference.interpolate_rows,
    derivative=_gather_backward, rows=(1, 2),
)  # fmt: skip
register_op(
    _scatter, lambda values, index, weights, rows: values.new_empty(rows, values.shape[1]), reference.scatter_rows,
    derivative=_scatter_backward,
)  # fmt: skip
register_op(
    _dot, lambda table, index, *_: table.new_empty(index.shape), reference.dot_rows, derivative=_dot_backward,
    rows=(1, 2),
)  # fmt: skip


def interpolate_rows(
    table: Float[Tensor, "r c"], index: Int[Tensor, "n k"], weights: Float[Tensor, "n k"]
) -> Float[Tensor, "n c"]:
    """out[n] = Σ_k weights[n, k] table[index[n, k]]: for example attributes of vertices at points inside faces.

    Args:
        table: (R, C) rows.
        index: (N, K) which rows, in [0, R); a negative one is left out.
        weights: (N, K), barycentric coordinates for instance.

    Returns:
        (N, C), in the dtype of the table (float32 if that is a half precision), differentiable to any order in table
        and weights. N, R, C or K = 0 is legal.

    Raises:
        TypeError: table or weights are not floating point, or index not integers.
        ValueError: a shape does not fit, or devices differ.
        IndexError: index is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> table = torch.tensor([[1.0], [2.0], [4.0]])
    >>> hf.ops.interpolate_rows(table, torch.tensor([[0, 2], [1, -1]]), torch.tensor([[0.5, 0.5], [1.0, 1.0]])).tolist()
    [[2.5], [2.0]]
    """
    index, weights, table = _checked("interpolate_rows", "table", table, index, weights)
    out: Tensor = _gather(table, index, weights)
    return out


def extend_vertices(
    vertices: Float[Tensor, "b v c"], index: Int[Tensor, "e k"], weights: Float[Tensor, "e k"]
) -> Float[Tensor, "b w c"]:
    """Attributes (B, V, C) of vertices, followed by E weighted sums of them: (B, V + E, C).

    Args:
        vertices: (B, V, C).
        index, weights: (E, K) as in `interpolate_rows`.

    Raises:
        TypeError, ValueError, IndexError: as `interpolate_rows`.
    """
    frames, count, channels = vertices.shape
    rows = interpolate_rows(vertices.movedim(0, 1).reshape(count, frames * channels), index, weights)
    return torch.cat([vertices, rows.unflatten(1, (frames, channels)).movedim(1, 0)], dim=1)


def scatter_rows(
    values: Float[Tensor, "n c"], index: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: int
) -> Float[Tensor, "rows c"]:
    """out[r] = Σ weights[n, k] values[n] over all (n, k) with index r: the transpose of `interpolate_rows`.

    On CPU the order of the sum is that of n, whatever the number of threads; on CUDA it varies from run to run.

    Args:
        values: (N, C).
        index: (N, K) which row of the result, in [0, `rows`); a negative one is left out.
        weights: (N, K).
        rows: number of rows of the result.

    Returns:
        (rows, C), in the dtype of the values (float32 if that is a half precision), differentiable to any order in
        values and weights.

    Raises:
        TypeError: values or weights are not floating point, or index not integers.
        ValueError: a shape does not fit, devices differ, or rows is negative.
        IndexError: index is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> values, index = torch.tensor([[1.0], [10.0]]), torch.tensor([[0, 2], [0, -1]])
    >>> from headfields.ops.interpolate_rows import scatter_rows
    >>> scatter_rows(values, index, torch.tensor([[0.5, 0.5], [1.0, 1.0]]), rows=3).tolist()
    [[10.5], [0.0], [0.5]]
    """
    index, weights, values = _checked("scatter_rows", "values", values, index, weights)
    if values.shape[0] != index.shape[0]:
        raise ValueError(
            f"scatter_rows: values has shape {tuple(values.shape)} and index {tuple(index.shape)}; "
            "expected as many rows of the one as of the other"
        )
    if rows < 0:
        raise ValueError(f"scatter_rows: rows is {rows}; expected 0 or more")
    out: Tensor = _scatter(values, index, weights, rows)
    return out


def _checked(op: str, name: str, rows: Tensor, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check_floating(op, name, rows)
    check_integer(op, "index", index)
    check_floating(op, "weights", weights)
    check_shape(op, name, rows, "n c")
    check_shape(op, "index", index, "n k")
    if weights.shape != index.shape:
        raise ValueError(
            f"{op}: weights has shape {tuple(weights.shape)} and index {tuple(index.shape)}; they must be the same"
        )
    check_same_device(op, **{name: rows, "index": index, "weights": weights})
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    return index.long(), weights.to(rows.dtype), rows
