"""Rows of a small table for many points, as the codes of a few frames are, with a gradient that sorts nothing."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SUMS = 2048
"""Rows that the gradient of a table is first summed into: of two rows 1,024 copies each. Own choice."""


def few_rows(table: Float[Tensor, "k *width"], index: Int[Tensor, "*batch"]) -> Float[Tensor, "..."]:
    """`table[index]` for a table of few rows, exact in any dtype.

    The gradient of an index sorts all points by row on CUDA. The sum of one-hot products, which does not, is rounded
    where matrix products are (TF32, autocast). So the points take turns among copies of the table: the gradient adds up
    each copy, by atomics that seldom meet, and then the copies.

    Args:
        table: (K, ...) rows.
        index: (...) in [0, K).

    Differentiable to any order in the table.

    Raises:
        IndexError: an index is out of range (CPU; not checked on CUDA).
    """
    flat = index.reshape(-1)
    copies = _SUMS // max(len(table), 1)
    if not table.is_cpu and copies > 1 and table.requires_grad and torch.is_grad_enabled():
        table, flat = copied_rows(table, flat, copies)
    return table.index_select(0, flat).view(*index.shape, *table.shape[1:])


def copied_rows(
    table: Float[Tensor, "k *width"], index: Int[Tensor, " m"], copies: int
) -> tuple[Float[Tensor, "kc *width"], Int[Tensor, " m"]]:
    """`copies` copies of each row of a table one after the other, and the index (M,) of those that points take in
    turn."""
    turn = torch.arange(len(index), device=index.device) % copies
    many = table[:, None].expand(len(table), copies, *table.shape[1:]).flatten(0, 1)
    return many, torch.add(turn, index, alpha=copies)
