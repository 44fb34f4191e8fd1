"""The transfer function of sRGB (IEC 61966-2-1): between stored colors and linear light."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating

__all__ = ["linear_from_srgb", "srgb_from_linear"]

BRIGHTEST = 16.0
"""Colors are in [0, 1]; those of a field without a bound may leave that for a while, bytes are far beyond."""


def linear_from_srgb(color: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Linear light of sRGB values, both 1 at white. Differentiable.

    Args:
        color: (...) sRGB values; those outside [0, 1] are converted by the same formula.

    Raises:
        TypeError: color is not floating-point; bytes are to be divided by 255.

    >>> import torch, headfields as hf
    >>> hf.ops.linear_from_srgb(torch.tensor([0.0, 0.5, 1.0])).mul(1000).round().tolist()
    [0.0, 214.0, 1000.0]
    """
    check_floating("linear_from_srgb", "color", color)
    low = color / 12.92
    return torch.where(color <= 0.04045, low, ((color.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(light: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """sRGB values of linear light: the inverse of `linear_from_srgb`. Differentiable.

    Args:
        light: (...) linear values, 1 at white.

    Raises:
        TypeError: light is not floating-point.
    """
    check_floating("srgb_from_linear", "light", light)
    high = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, 12.92 * light, high)
