"""Lengths and directions of vectors whose derivatives are finite at a vector of zeros.

Where that does not matter, `torch.nn.functional.normalize` serves.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["safe_norm", "smooth_unit", "unit_rows", "unit_vectors"]

_TINY = 1e-18  # length, or square meters of a face's cross product, of a vector without a direction


def safe_norm(vectors: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Euclidean norm along the last axis whose derivatives, of any order, are zero at a vector of zeros, not NaN."""
    squared = vectors.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), squared.detach())  # 0, or NaN of NaN


def unit_vectors(
    vectors: Float[Tensor, "*batch n"], otherwise: Float[Tensor, "..."] | float = 0.0
) -> Float[Tensor, "*batch n"]:
    """Vectors of length 1 along the last axis; `otherwise`, without a gradient to `vectors`, where one is nearly zero.

    Args:
        vectors: (..., N).
        otherwise: (..., N) or a number, for vectors no longer than 1e-18.

    Differentiable to any order.
    """
    short = vectors.detach().norm(dim=-1, keepdim=True) <= _TINY
    safe = torch.where(short, 1.0, vectors)
    return torch.where(short, otherwise, safe / safe.norm(dim=-1, keepdim=True))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """`unit_vectors` of an array: length 1 along the last axis; those shorter than 1e-12 are divided by that."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def smooth_unit(vectors: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """v / √(‖v‖² + 1e-12) along the last axis: vectors of length 1, near 0 for those near 0, smooth everywhere."""
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + 1e-12).rsqrt()
