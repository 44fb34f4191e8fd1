"""Frequency encoding: sines and cosines of coordinates at doubling frequencies."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape, check_whole


def frequency_encoding(
    x: Float[Tensor, "*batch d"],
    bands: int,
    include_input: bool = True,
    weights: Float[Tensor, " bands"] | None = None,
) -> Float[Tensor, "*batch width"]:
    """(x, sin 2⁰πx, cos 2⁰πx, sin 2¹πx, …): the positional encoding of NeRF (Mildenhall et al. 2020, eq. 4).

    Args:
        x: d coordinates, best within [−1, 1]: beyond that the lowest band repeats.
        bands: number of frequencies 2^k π, k < bands; 0 leaves x alone.
        include_input: whether x itself comes first.
        weights: a factor for each band, such as `frequency_window`, the coarse-to-fine window of Nerfies (Park et al.
            2021, eq. 8).

    Returns:
        d (2 bands + 1) values, or d · 2 bands without the input: x, then for each band the d sines and the d cosines.

    Differentiable any number of times to x and weights.

    Raises:
        TypeError: x or weights are not floating point.
        ValueError: bands is negative, the result would be empty, or there is not one weight a band.

    >>> import torch, headfields as hf
    >>> hf.ops.frequency_encoding(torch.tensor([[0.5, 0.0]]), bands=1).round().tolist()  # x, y, two sines, two cosines
    [[0.0, 0.0, 1.0, 0.0, -0.0, 1.0]]
    """
    check_floating("frequency_encoding", "x", x)
    check_shape("frequency_encoding", "x", x, "... d")
    check_whole("frequency_encoding", "bands", bands, 0 if include_input else 1)
    frequencies = math.pi * 2.0 ** torch.arange(bands, device=x.device, dtype=x.dtype)
    phase = x[..., None, :] * frequencies[:, None]
    waves = torch.stack((phase.sin(), phase.cos()), -2)  # (*batch, bands, 2, d)
    if weights is not None:
        check_floating("frequency_encoding", "weights", weights)
        check_shape("frequency_encoding", "weights", weights, f"{bands}")
        check_same_device("frequency_encoding", x=x, weights=weights)
        waves = waves * weights.to(x.dtype)[:, None, None]
    flat = waves.reshape(*x.shape[:-1], 2 * bands * x.shape[-1])
    return torch.cat((x, flat), -1) if include_input else flat


def frequency_window(
    bands: int,
    progress: float | Float[Tensor, ""],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, " bands"]:
    """Coarse-to-fine weights for `frequency_encoding`: (1 − cos(π clamp(progress · bands − k, 0, 1))) / 2 for band k.

    Park et al., *Nerfies* (2021), eq. 8, with α = progress · bands: at progress 0 no band counts, at 1 all do.

    Args:
        bands: number of bands.
        progress: the part of training that is done, in [0, 1]; a number, or a tensor on the device.
        dtype, device: dtype and device of the result.

    Returns:
        (bands,) in [0, 1]. No gradient.
    """
    opened = (progress * bands - torch.arange(bands, dtype=dtype, device=device)).clamp(0, 1)
    return (1 - torch.cos(math.pi * opened)) / 2
