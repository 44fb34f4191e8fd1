"""Frequency encoding of the canonical point (NeRF's positional encoding)."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.frequency import frequency_encoding
from headfields.parts import Encoder
from headfields.records import Canonical


class Frequency(Encoder):
    """Octaves of sines and cosines of the canonical point, scaled so that the longest side of the box is [-1, 1].

    Hyper-coordinates are encoded like the point, unscaled.

    Args:
        bands: number of octaves.
        include_input: put the scaled coordinates themselves in front.

    Differentiable to any order.

    Source: Mildenhall et al. 2020, "NeRF", equation 4.
    """

    center: Tensor
    half_side: Tensor

    def __init__(self, bands: int = 10, include_input: bool = True) -> None:
        super().__init__()
        self.bands = bands
        self.include_input = include_input

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        self.register_buffer("center", bounds.mean(dim=0))
        self.register_buffer("half_side", (bounds[1] - bounds[0]).max() / 2)
        self.width = (3 + ambient_width) * (2 * self.bands + int(self.include_input))

    def forward(self, canonical: Canonical, prepared: None) -> Float[Tensor, "m width"]:
        unit = (canonical.points - self.center) / self.half_side
        if canonical.ambient is not None:
            unit = torch.cat([unit, canonical.ambient], dim=-1)
        return frequency_encoding(unit, self.bands, self.include_input)
