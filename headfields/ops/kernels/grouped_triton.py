"""Grouped linear layers in Triton: a tile of rows reads the weights of its group where they are, so none are copied.

`headfields.ops.grouped_linear` defines them. Triton comes with PyTorch's wheels for CUDA; nothing imports this file
where it is missing. Products accumulate in float32. Those of float32 run on tensor cores, in three products of TF32
that keep what one would round ("tf32x3"); in one where the program has chosen TF32 for products of matrices.
"""

from typing import Any, no_type_check  # type checkers do not know Triton's types

import torch
import triton
import triton.language as tl
from torch import Tensor

_SPLITS = 4
"""Partial sums of each group's gradient, so that large groups do not keep the others waiting. Own choice."""

WARPS = 8, 4
"""Warps of a tile of the layer, and of its gradient: with 4 the layer's sums do not fit into registers."""


@triton.jit
@no_type_check
def linear_kernel(
    x, weights, bias, group, out, block, of_group, of_in, of_out, I: tl.constexpr, O: tl.constexpr,
    BIAS: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out (rows, O): x (rows, I) times the weights of each tile's group, which are strided, plus its bias (G, O)."""
    across: tl.constexpr = (O + COLUMNS - 1) // COLUMNS
    tile = (tl.program_id(0) // across).to(tl.int64)
    o = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    r = tile * ROWS + tl.arange(0, ROWS)
    g = tl.load(group + tile * ROWS // block)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    if BIAS:
        sums += tl.load(bias + g * O + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
    for begin in range(0, I, STEP):
        i = begin + tl.arange(0, STEP)
        a = tl.load(x + r[:, None] * I + i[None, :], mask=i[None, :] < I, other=0.0)
        there = (i[:, None] < I) & (o[None, :] < O)
        w = tl.load(weights + g * of_group + i[:, None] * of_in + o[None, :] * of_out, mask=there, other=0.0)
        sums = tl.dot(a, w, sums, input_precision=PRECISION)
    tl.store(out + r[:, None] * O + o[None, :], sums.to(out.dtype.element_ty), mask=o[None, :] < O)


@triton.jit
@no_type_check
def outer_kernel(
    x, y, first, out, block, I: tl.constexpr, O: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    WIDE: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """out (SPLITS, G, I, O): parts of the sum of xᵀ y over the rows of each group, from block `first[g]` on."""
    across: tl.constexpr = (O + COLUMNS - 1) // COLUMNS
    i = (tl.program_id(0) // across) * WIDE + tl.arange(0, WIDE)
    o = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    g, part = tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(first + g) * block, tl.load(first + g + 1) * block
    sums = tl.zeros((WIDE, COLUMNS), tl.float32)
    for start in range(begin + part * ROWS, end, SPLITS * ROWS):
        r = start + tl.arange(0, ROWS)
        a = tl.load(x + r[:, None] * I + i[None, :], mask=i[None, :] < I, other=0.0)
        b = tl.load(y + r[:, None] * O + o[None, :], mask=o[None, :] < O, other=0.0)
        sums = tl.dot(tl.trans(a), b, sums, input_precision=PRECISION)
    place = out + (part * tl.num_programs(1) + g).to(tl.int64) * I * O
    tl.store(place + i[:, None] * O + o[None, :], sums, mask=(i[:, None] < I) & (o[None, :] < O))


def _power(width: int, most: int) -> int:
    """The power of two that holds a width, at least 16, which is the least of a product, and at most `most`."""
    return min(max(triton.next_power_of_2(width), 16), most)


def _tile(block: int, most: int) -> int:
    """The largest power of two up to `most` that divides the rows of a block."""
    return min(block & -block, most)


def constants_of(kernel: Any, block: int, into: int, out: int, kind: torch.dtype, bias: bool = False) -> dict[str, Any]:
    """What a kernel is compiled for: widths, sizes of tiles, precision."""
    constants = {
        "I": into, "O": out, "PRECISION": _precision(kind), "COLUMNS": _power(out, 64), "BIAS": bias,
        "ROWS": _tile(block, 128 if kernel is linear_kernel else 32), "STEP": _power(into, 32),
        "WIDE": _power(into, 64), "SPLITS": _SPLITS,
    }  # fmt: skip
    return {name: value for name, value in constants.items() if name in kernel.arg_names}


def _precision(kind: torch.dtype) -> str:
    if kind != torch.float32:
        return "ieee"  # 16-bit products are exact
    # PyTorch before 2.9 has the older flag alone, and raises AttributeError for a name that it does not know.
    matmul: Any = torch.backends.cuda.matmul
    chosen = getattr(matmul, "fp32_precision", None) or ("tf32" if matmul.allow_tf32 else "ieee")
    return "tf32" if chosen == "tf32" else "tf32x3"


def linear(x: Tensor, weights: Tensor, bias: Tensor, group: Tensor) -> Tensor:
    """`grouped_linear`, of blocks whose rows are a multiple of 16; bias (G, out), or (0, out) for none."""
    x, group, (count, block, into), out = x.contiguous(), group.contiguous(), x.shape, weights.shape[2]
    result = x.new_empty(count, block, out)
    constants = constants_of(linear_kernel, block, into, out, x.dtype, len(bias) > 0)
    tiles = count * block // constants["ROWS"] * triton.cdiv(out, constants["COLUMNS"])
    with torch.cuda.device_of(x):
        linear_kernel[(tiles,)](
            x, weights, bias.contiguous(), group, result, block, *weights.stride(), **constants, num_warps=WARPS[0]
        )
    return result


def outer(x: Tensor, y: Tensor, group: Tensor, groups: int) -> Tensor:
    """`grouped_outer`, likewise."""
    x, y, (_, block, into), out = x.contiguous(), y.contiguous(), x.shape, y.shape[2]
    constants = constants_of(outer_kernel, block, into, out, x.dtype)
    first = torch.searchsorted(group.contiguous(), torch.arange(groups + 1, device=x.device))
    parts = torch.empty(_SPLITS, groups, into, out, device=x.device)
    tiles = triton.cdiv(into, constants["WIDE"]) * triton.cdiv(out, constants["COLUMNS"])
    with torch.cuda.device_of(x):
        outer_kernel[(tiles, groups, _SPLITS)](x, y, first, parts, block, **constants, num_warps=WARPS[1])
    return parts.sum(0).to(x.dtype)
