"""Value noise: deterministic random fields from hashed lattice values, interpolated."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.smoothstep import cubic

__all__ = ["fractal_noise", "value_noise"]


# Rotates the lattice against the head's axes.
_TURN = torch.linalg.qr(torch.tensor([[0.82, 0.31, -0.47], [-0.43, 0.88, -0.17], [0.36, 0.35, 0.86]]))[0]


def _hash(cell: Int[Tensor, "n 3"], seed: int) -> Float[Tensor, " n"]:
    """(N,) values in [-1, 1) of lattice points; 32-bit integer mixing in int64, which cannot overflow."""
    mask = 0xFFFFFFFF
    x = (cell[:, 0] * 0x8DA6B343 + cell[:, 1] * 0xD8163841 + cell[:, 2] * 0xCB1AB31F + seed * 0x165667B1) & mask
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & mask
    x = ((x ^ (x >> 12)) * 0x297A2D39) & mask
    return (x ^ (x >> 15)).float() / 2**31 - 1


def value_noise(points: Float[Tensor, "n 3"], wavelength: float, seed: int = 0) -> Float[Tensor, " n"]:
    """(N,) smooth noise in [-1, 1].

    Args:
        points: (N, 3) meters.
        wavelength: spacing of the lattice, meters.
        seed: seed of the field.
    """
    scaled = points @ _TURN / wavelength
    low = scaled.floor()
    fraction = scaled - low
    weight = cubic(fraction)
    cell = low.long()
    total = torch.zeros_like(scaled[:, 0])
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        share = torch.where(bits.bool(), weight, 1 - weight).prod(1)
        total = total + share * _hash(cell + bits, seed)
    return total


def fractal_noise(
    points: Float[Tensor, "n 3"], wavelength: float, octaves: int = 3, seed: int = 0
) -> Float[Tensor, " n"]:
    """(N,) sum of `octaves` of noise, each of half the wavelength and amplitude of the previous one."""
    total = torch.zeros_like(points[:, 0])
    for octave in range(octaves):
        total = total + 0.5**octave * value_noise(points, wavelength * 0.5**octave, seed + octave)
    return total
