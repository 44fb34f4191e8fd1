"""Decoder of Gaussians: features at their canonical positions to what is added to their parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.networks.gaussians import WIDTHS, offsets_of
from headfields.networks.mlp import MLP, hidden_layers
from headfields.parts import Decoder
from headfields.records import Canonical, Features

_OUTPUT_SPREAD = 1e-2
"""Standard deviation of the last layer's weights relative to He's: offsets start near zero, and every layer learns."""


class SplatDecoder(Decoder):
    """Turns features of each Gaussian into offsets of its parameters, by one small network: neural Gaussians.

    With any encoder (hash grid, frequencies, UV maps, vertex features) and conditions (expression, codes) in a
    `headfields.SplatAvatar`. Offsets are added to the parameters before they become rotations, scales, opacities and
    colors, and start near zero.

    Args:
        attributes: the parameters of `headfields.networks.Gaussians` that it changes.
        hidden, layers: width and number of hidden layers.
        gains: factors on the offsets of some attributes, 1 for the others: smaller ones make them learn more slowly.
        zero_inputs: number of the last features, those of a condition, whose weights in the first layer start at zero.
            An expression that is zero in all of training then has no effect, instead of a random one.
        bounded: whether offsets are tanh of the network's outputs, times their gains, and the network starts with
            PyTorch's initial values, as in FlashAvatar's released code (src/deform_model.py).

    Differentiable as `headfields.ops.mlp`.

    Raises:
        ValueError: there is no such attribute, or a size or gain is not positive.

    Source: FlashAvatar (Xiang et al. 2024), section 3.3, has such a network for position, rotation and scale. Initial
    values and gains are our own choice.
    """

    gives = "offsets"

    def __init__(
        self,
        attributes: Sequence[str] = tuple(WIDTHS),
        hidden: int = 64,
        layers: int = 2,
        gains: Mapping[str, float | int] | None = None,
        zero_inputs: int = 0,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        gains = dict(gains or {})
        unknown = [name for name in (*attributes, *gains) if name not in WIDTHS]
        if unknown or not attributes or len(set(attributes)) < len(attributes):
            raise ValueError(
                f"SplatDecoder: attributes is {list(attributes)} and gains {gains}; expected some of "
                f"{', '.join(WIDTHS)}, each once"
            )
        if hidden < 1 or layers < 0 or zero_inputs < 0 or any(not gain > 0 for gain in gains.values()):
            raise ValueError(
                f"SplatDecoder: hidden={hidden}, layers={layers}, zero_inputs={zero_inputs}, gains={gains}; expected "
                "at least 1, 0, 0, and positive factors"
            )
        self.attributes = tuple(attributes)
        self.hidden, self.layers = hidden, layers
        self.gains = gains
        self.zero_inputs, self.bounded = zero_inputs, bounded

    def extra_repr(self) -> str:
        return f"{', '.join(self.attributes)}; hidden={self.hidden}, layers={self.layers}"

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        if self.zero_inputs > width:
            raise ValueError(f"SplatDecoder: zero_inputs is {self.zero_inputs}, and there are {width} features")
        numbers = sum(max(sum(WIDTHS[name]), 1) for name in self.attributes)
        self.network = MLP(width, *hidden_layers(self.hidden, self.layers), numbers, bias=True)
        if self.bounded:
            linear: Any
            for linear in list(self.network)[::2]:
                linear.reset_parameters()
            return
        with torch.no_grad():
            self.network[-1].weight.mul_(_OUTPUT_SPREAD)  # type: ignore[operator]
            first: Any = self.network[0]
            first.weight[:, width - self.zero_inputs :] = 0

    def forward(  # type: ignore[override]
        self, features: Features, canonical: Canonical, prepared: Any, color: bool = True
    ) -> dict[str, Float[Tensor, "..."]]:
        """Offsets (M, ...) by the names of the parameters."""
        rows = self.network(features.own, features.shared, features.index)
        rows = rows.tanh() if self.bounded else rows
        offsets = offsets_of(rows, self.attributes)
        return offsets | {name: self.gains[name] * offsets[name] for name in self.gains if name in offsets}
