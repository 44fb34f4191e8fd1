"""Inverses of 3×3 matrices in closed form: `torch.linalg.inv` waits for a GPU, to raise where a matrix has none."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["inverse_3x3", "inverse_intrinsics"]


def inverse_3x3(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverses by cofactors, in a few launches that a CUDA graph can capture; not finite where a matrix is singular.

    As accurate as elimination for what is well conditioned, as rotations, intrinsics and Jacobians of deformations are.
    Differentiable to any order.

    Args:
        matrices: (..., 3, 3), floating point.
    """
    a, b, c = matrices.unbind(-2)
    bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
    return torch.stack([bc, ca, ab], dim=-1) / (a * bc).sum(-1)[..., None, None]


def inverse_intrinsics(intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverses of a few cameras' intrinsics: by elimination on a CPU, where that takes less time than `inverse_3x3`."""
    return torch.linalg.inv(intrinsics) if intrinsics.is_cpu else inverse_3x3(intrinsics)
