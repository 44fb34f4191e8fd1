"""Full precision within `torch.autocast`: for geometry, which low precision would ruin."""

import contextlib

import torch
from torch import Tensor

__all__ = ["full_precision"]


def full_precision(like: Tensor) -> contextlib.AbstractContextManager[None]:
    """A block without autocast on the tensor's device: bfloat16 resolves a point of a head to half a millimeter."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
