"""Small fully connected networks in Triton, in 16-bit floats: a tile of rows passes through all layers in registers.

`headfields.ops.reference.mlp` defines them. Triton comes with PyTorch's wheels for CUDA; nothing imports this file
where it is missing. Products accumulate in float32; what a layer hands to the next one is rounded, as under autocast.
"""

from collections.abc import Sequence
from typing import Any, no_type_check  # type checkers do not know Triton's types

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _STEP = 64, 32  # rows of a tile; columns of the input that are read at a time
_FEW = 64  # rows of the first bias whose gradient is a product


@triton.jit
@no_type_check
def _linear(a, weight, bias, BEFORE: tl.constexpr, AFTER: tl.constexpr, BEFORE2: tl.constexpr, AFTER2: tl.constexpr,
            BIAS: tl.constexpr):  # fmt: skip
    """A layer of a tile; numbers that end in 2 are powers of two, where the rest is 0."""
    i, o = tl.arange(0, BEFORE2), tl.arange(0, AFTER2)
    there = (i[:, None] < BEFORE) & (o[None, :] < AFTER)
    sums = tl.dot(a, tl.load(weight + o[None, :] * BEFORE + i[:, None], mask=there, other=0.0))
    if BIAS:
        sums += tl.load(bias + o, mask=o < AFTER, other=0.0).to(tl.float32)[None, :]
    return sums


@triton.jit
@no_type_check
def _first(x, index, start, weight, r, there, K: tl.constexpr, H: tl.constexpr, H2: tl.constexpr, START: tl.constexpr,
           ROWS: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """The first layer of a tile. START: 0 no bias, 1 one row of it, 2 the row that `index` tells."""
    h = tl.arange(0, H2)
    sums = tl.zeros((ROWS, H2), tl.float32)
    if START == 1:
        sums += tl.load(start + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    if START == 2:
        row = tl.load(index + r, mask=there, other=0)
        mask = there[:, None] & (h[None, :] < H)
        sums += tl.load(start + row[:, None] * H + h[None, :], mask=mask, other=0.0).to(tl.float32)
    for begin in range(0, K, STEP):
        k = begin + tl.arange(0, STEP)
        a = tl.load(x + r[:, None] * K + k[None, :], mask=there[:, None] & (k[None, :] < K), other=0.0)
        w = tl.load(weight + h[None, :] * K + k[:, None], mask=(h[None, :] < H) & (k[:, None] < K), other=0.0)
        sums = tl.dot(a, w, sums)
    return sums


@triton.jit
@no_type_check
def _relu(sums):
    return tl.where(sums < 0, 0.0, sums)  # a NaN passes


@triton.jit
@no_type_check
def _back(g, activation, weight, BEFORE: tl.constexpr, AFTER: tl.constexpr, BEFORE2: tl.constexpr,
          AFTER2: tl.constexpr):  # fmt: skip
    """The gradient before a layer's activation, from that of its output; a NaN of the activation passes it."""
    i, o = tl.arange(0, BEFORE2), tl.arange(0, AFTER2)
    there = (o[:, None] < AFTER) & (i[None, :] < BEFORE)
    sums = tl.dot(g, tl.load(weight + o[:, None] * BEFORE + i[None, :], mask=there, other=0.0))
    return tl.where(activation <= 0, 0.0, sums).to(g.dtype)


@triton.jit
@no_type_check
def forward_kernel(
    x, index, w0, w1, w2, w3, b0, b1, b2, b3, out, rows, K: tl.constexpr, H: tl.constexpr, O: tl.constexpr,
    H2: tl.constexpr, O2: tl.constexpr, START: tl.constexpr, BIAS: tl.constexpr, LAYERS: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out: the network of x. The last of the weights is `w3`, the others begin at `w0`; the biases likewise."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = r < rows
    kind: tl.constexpr = x.dtype.element_ty
    a = _relu(_first(x, index, b0, w0, r, there, K, H, H2, START, ROWS, STEP)).to(kind)
    if LAYERS > 2:
        a = _relu(_linear(a, w1, b1, H, H, H2, H2, BIAS)).to(kind)
    if LAYERS > 3:
        a = _relu(_linear(a, w2, b2, H, H, H2, H2, BIAS)).to(kind)
    o = tl.arange(0, O2)
    y = _linear(a, w3, b3, H, O, H2, O2, BIAS)
    tl.store(out + r[:, None] * O + o[None, :], y.to(kind), mask=there[:, None] & (o[None, :] < O))


@triton.jit
@no_type_check
def backward_kernel(
    grad, x, index, w0, w1, w2, w3, b0, b1, b2, b3, hidden, gradients, to_x, rows, K: tl.constexpr, H: tl.constexpr,
    O: tl.constexpr, H2: tl.constexpr, O2: tl.constexpr, START: tl.constexpr, BIAS: tl.constexpr,
    LAYERS: tl.constexpr, TO_X: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """hidden, gradients: (LAYERS - 1, rows, H) activations of the hidden layers and gradients before them, of which the
    weights' gradients are products; to_x: the input's."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = r < rows
    kind: tl.constexpr = x.dtype.element_ty
    h, o = tl.arange(0, H2), tl.arange(0, O2)
    at = r[:, None] * H + h[None, :]
    mask = there[:, None] & (h[None, :] < H)
    size = rows.to(tl.int64) * H
    a0 = _relu(_first(x, index, b0, w0, r, there, K, H, H2, START, ROWS, STEP)).to(kind)
    tl.store(hidden + at, a0, mask=mask)
    last = a0
    if LAYERS > 2:
        a1 = _relu(_linear(a0, w1, b1, H, H, H2, H2, BIAS)).to(kind)
        tl.store(hidden + size + at, a1, mask=mask)
        last = a1
    if LAYERS > 3:
        a2 = _relu(_linear(a1, w2, b2, H, H, H2, H2, BIAS)).to(kind)
        tl.store(hidden + 2 * size + at, a2, mask=mask)
        last = a2
    g = tl.load(grad + r[:, None] * O + o[None, :], mask=there[:, None] & (o[None, :] < O), other=0.0)
    g = _back(g, last, w3, H, O, H2, O2)
    tl.store(gradients + (LAYERS - 2) * size + at, g, mask=mask)
    if LAYERS > 3:
        g = _back(g, a1, w2, H, H, H2, H2)
        tl.store(gradients + size + at, g, mask=mask)
    if LAYERS > 2:
        g = _back(g, a0, w1, H, H, H2, H2)
        tl.store(gradients + at, g, mask=mask)
    if TO_X:
        for begin in range(0, K, STEP):
            k = begin + tl.arange(0, STEP)
            w = tl.load(w0 + h[:, None] * K + k[None, :], mask=(h[:, None] < H) & (k[None, :] < K), other=0.0)
            columns = there[:, None] & (k[None, :] < K)
            tl.store(to_x + r[:, None] * K + k[None, :], tl.dot(g, w).to(kind), mask=columns)


def constants_of(
    width: int, hidden: int, out: int, layers: int, first_bias: bool, indexed: bool, bias: bool
) -> dict[str, Any]:
    """What the kernels are compiled for: widths, number of layers, and which biases there are."""
    return {
        "K": width, "H": hidden, "O": out, "H2": max(triton.next_power_of_2(hidden), 16),
        "O2": max(triton.next_power_of_2(out), 16), "START": int(first_bias) + int(first_bias and indexed),
        "BIAS": bias, "LAYERS": layers, "ROWS": _ROWS, "STEP": _STEP,
    }  # fmt: skip


def _arguments(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], index: Tensor | None
) -> tuple[list[Tensor], list[Tensor], dict[str, Any]]:
    """The tensors of the layers as the kernels take them, in four places each, and the constants."""
    constants = constants_of(
        x.shape[1], len(weights[0]), len(weights[-1]), len(weights), len(biases[0]) > 0, index is not None,
        len(biases[-1]) > 0,
    )  # fmt: skip
    places = []
    for tensors in (weights, biases):
        tensors = [tensor.contiguous() for tensor in tensors]
        middle = [tensors[layer] if layer < len(tensors) - 1 else tensors[0] for layer in (1, 2)]
        places.append([tensors[0], *middle, tensors[-1]])
    return places[0], places[1], constants


def forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], index: Tensor | None) -> Tensor:
    """The output of `reference.layers`, for two to four layers of one dtype, hidden ones of one width."""
    x = x.contiguous()
    out = x.new_empty(len(x), len(weights[-1]))
    if len(x):
        of_weights, of_biases, constants = _arguments(x, weights, biases, index)
        rows = x if index is None else index.contiguous()
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(len(x), _ROWS),)](x, rows, *of_weights, *of_biases, out, len(x), **constants)
    return out


def backward(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], index: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """`reference.backward`: gradients by x, weights and biases; None where `needs` is False."""
    x, grad, layers, count = x.contiguous(), grad.contiguous(), len(weights), len(x)
    shape = (layers - 1, count, len(weights[0]))
    hidden, gradients = x.new_empty(shape), x.new_empty(shape)
    to_x = torch.empty_like(x) if needs[0] else None
    if count:
        of_weights, of_biases, constants = _arguments(x, weights, biases, index)
        rows = x if index is None else index.contiguous()
        with torch.cuda.device_of(x):
            backward_kernel[(triton.cdiv(count, _ROWS),)](
                grad, x, rows, *of_weights, *of_biases, hidden, gradients, x if to_x is None else to_x, count,
                TO_X=to_x is not None, **constants,
            )  # fmt: skip
    before = [x, *hidden]
    after = [*gradients, grad]
    results: list[Tensor | None] = [to_x]
    for layer, need in enumerate(needs[1 : layers + 1]):
        results.append(after[layer].T @ before[layer] if need else None)
    for layer, need in enumerate(needs[layers + 1 :]):
        if not need:
            results.append(None)
        elif layer == 0 and index is not None:
            results.append(_sum_rows(after[0], index, len(biases[0])))
        else:
            results.append(after[layer].sum(0, keepdim=True)[: len(biases[layer])])
    return results


def _sum_rows(values: Tensor, index: Tensor, count: int) -> Tensor:
    """The sum of the rows of each index: of few of them a product, as additions to one row wait for each other."""
    if count > _FEW:
        return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)
    return (index == torch.arange(count, device=index.device)[:, None]).to(values.dtype) @ values
