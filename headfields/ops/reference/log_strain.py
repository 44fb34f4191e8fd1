"""Squared logarithmic strain in plain PyTorch, by singular values."""

import torch
from jaxtyping import Float
from torch import Tensor


def log_strain(jacobians: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """See `headfields.ops.log_strain`. First derivatives everywhere, second ones where singular values differ."""
    return torch.linalg.svdvals(jacobians).log().square().sum(dim=-1)
