"""Sparse symmetric linear systems, factorized once and solved for many right-hand sides, differentiably."""

import itertools
import weakref
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import require_shapes
from headfields.ops.registration import like, register_op

_alive: "weakref.WeakValueDictionary[int, SymmetricSystem]" = weakref.WeakValueDictionary()
_keys = itertools.count()


class SymmetricSystem:
    """A x = b for one positive definite A, in double precision on the CPU.

    Tensors of other dtypes and devices are moved there and back. Differentiable in b to any order: A is symmetric,
    so the gradient of the solution is the solution for the gradient.

    Args:
        matrix: (V, V) scipy sparse, symmetric and positive definite.

    Raises:
        ValueError: it cannot be factorized.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = scipy.sparse.csc_matrix(matrix, dtype=np.float64)
        self.key = next(_keys)
        self.factor = None
        if self.matrix.shape[0]:
            try:
                self.factor = scipy.sparse.linalg.splu(
                    self.matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
                )
            except RuntimeError as error:
                raise ValueError(
                    f"SymmetricSystem: the {self.matrix.shape[0]} equations do not determine the unknowns ({error}); "
                    "use a positive weight for every unknown"
                ) from error
        _alive[self.key] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return SymmetricSystem, (self.matrix,)  # a factorization can be neither pickled nor copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "SymmetricSystem":
        return self  # it is immutable

    def solve(self, right: Float[Tensor, "v *batch"]) -> Float[Tensor, "v *batch"]:
        """The solutions for right-hand sides of shape (V, ...); same shape, dtype and device."""
        flat = right.reshape(right.shape[0], -1)
        return _solve(flat, self.key).reshape(right.shape)


@torch.library.custom_op("headfields::symmetric_solve", mutates_args=())
def _solve(right: Tensor, key: int) -> Tensor:
    if key not in _alive:
        raise KeyError(f"torch.ops.headfields.symmetric_solve: no SymmetricSystem has key {key}; call its solve()")
    system = _alive[key]
    size = system.matrix.shape[0]
    require_shapes("symmetric_solve", right.ndim == 2 and len(right) == size, right=right)
    if system.factor is None or not right.numel():
        return torch.zeros_like(right)
    values = right.detach().cpu().double().numpy()
    return torch.from_numpy(np.ascontiguousarray(system.factor.solve(values))).to(right)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.key = inputs[1]
    ctx.system = _alive.get(inputs[1])  # the graph may outlive the creator of the system


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return _solve(gradient, ctx.key), None


register_op(_solve, like(0), None, derivative=_backward, setup=_keep, remedy="use reverse mode (torch.autograd.grad)")
