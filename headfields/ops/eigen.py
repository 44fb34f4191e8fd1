"""Eigenvectors of symmetric 3 × 3 matrices, for operations that have derivatives of their own.

PyTorch's decomposition on CUDA makes the host wait, to check that it has converged, and so cannot be part of a CUDA
graph; Jacobi's method on 3 × 3 always converges.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import require_shapes
from headfields.ops.dispatch import use_native
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch


def symmetric_eigen(matrices: Float[Tensor, "n 3 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 3"]]:
    """Eigenvalues in ascending order and unit eigenvectors, as columns, of symmetric matrices.

    LAPACK on the CPU, Jacobi's rotations in Warp elsewhere. In float64 whatever the dtype.

    Args:
        matrices: (N, 3, 3), finite; the lower triangle is read. N = 0 is legal.

    Returns:
        values (N, 3) and vectors (N, 3, 3), of the dtype of the matrices. No derivative: a vector's is not finite where
        two values are equal, and who calls this has a formula without it.

    Source: Golub and Van Loan 2013, "Matrix Computations", section 8.5.
    """
    values, vectors = _symmetric_eigen(matrices.detach().double())
    return values.to(matrices.dtype), vectors.to(matrices.dtype)


@torch.library.custom_op("headfields::symmetric_eigen", mutates_args=())
def _symmetric_eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    require_shapes("symmetric_eigen", matrices.ndim == 3 and matrices.shape[1:] == (3, 3), matrices=matrices)
    if matrices.dtype != torch.float64:
        raise TypeError(f"symmetric_eigen: matrices has dtype {matrices.dtype}; expected float64 (.double() converts)")
    if use_native(matrices):
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors.contiguous()
    matrices = matrices.contiguous()
    values, vectors = matrices.new_empty(len(matrices), 3), torch.empty_like(matrices)
    launch("eigen.symmetric", len(matrices), matrices, values, vectors)
    return values, vectors


register_op(
    _symmetric_eigen, lambda matrices: (matrices.new_empty(matrices.shape[:-1]), matrices.new_empty(matrices.shape)),
    None, rows=(0,), remedy="it has no derivative; detach the matrices",
)  # fmt: skip
