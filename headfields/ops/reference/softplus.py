"""Softplus in plain PyTorch: the definition of `headfields.ops.softplus`."""

import torch
from jaxtyping import Float
from torch import Tensor


def softplus(x: Float[Tensor, "*batch"], beta: float | int) -> Float[Tensor, "*batch"]:
    """log(1 + exp(beta · x)) / beta, written so that nothing overflows; differentiable to any order but at exactly 0.

    Args:
        x: (...) of any floating dtype.
        beta: positive.
    """
    return x.clamp_min(0) + torch.log1p(torch.exp(-beta * x.abs())) / beta
