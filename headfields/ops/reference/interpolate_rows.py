"""Weighted sums of rows of a table, and their transpose, in plain PyTorch: any float dtype, any order of derivative."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def interpolate_rows(
    table: Float[Tensor, "r c"], index: Int[Tensor, "n k"], weights: Float[Tensor, "n k"]
) -> Float[Tensor, "n c"]:
    """out[n] = Σ_k weights[n, k] table[index[n, k]], over the k whose index is not negative."""
    rows, valid = _gathered(table, index)
    return (torch.where(valid, weights, 0.0)[..., None] * rows).sum(dim=1)


def scatter_rows(
    values: Float[Tensor, "n c"], index: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: int
) -> Float[Tensor, "rows c"]:
    """out[r] = Σ weights[n, k] values[n] over the (n, k) whose index is r."""
    products = torch.where((index >= 0)[..., None], weights[..., None] * values[:, None], 0.0).flatten(0, 1)
    if not rows:
        return products.sum() * 0 + values.new_zeros(0, values.shape[1])
    return values.new_zeros(rows, values.shape[1]).index_add(0, index.reshape(-1).long().clamp(min=0), products)


def dot_rows(
    table: Float[Tensor, "r c"], index: Int[Tensor, "n k"], values: Float[Tensor, "n c"]
) -> Float[Tensor, "n k"]:
    """out[n, k] = table[index[n, k]] · values[n], and 0 where the index is negative."""
    rows, valid = _gathered(table, index)
    return torch.where(valid, (rows * values[:, None]).sum(dim=-1), 0.0)


def _gathered(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    valid = index >= 0
    if not table.shape[0]:
        return table.sum() + table.new_zeros(*index.shape, table.shape[1]), valid
    rows = torch.nn.functional.embedding(index.long().clamp(min=0), table)
    return rows, valid
