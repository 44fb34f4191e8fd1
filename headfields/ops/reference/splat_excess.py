"""How far vectors of Gaussians go beyond a threshold, mean over those in view, in plain PyTorch: any float dtype."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def splat_excess(
    vectors: Float[Tensor, "*b n 3"], visible: Bool[Tensor, "b n"], threshold: float, each: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The mean and the number that it is of; see `headfields.ops.splat_excess.splat_excess`."""
    if each:
        values = (vectors - threshold).clamp_min(0).square().sum(-1).add(1e-12).sqrt() - 1e-6
    else:
        values = (vectors.norm(dim=-1) - threshold).clamp_min(0)
    count = visible.sum().clamp_min(1)
    return torch.where(visible, values, 0.0).sum() / count, count.to(values.dtype)
