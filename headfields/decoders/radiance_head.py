"""Radiance head of MonoAvatar: density by one linear layer, color by a network of features and direction."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.networks.mlp import mlp
from headfields.ops.frequency import frequency_encoding
from headfields.parts import Decoder
from headfields.records import Canonical, Features, FieldValues


class RadianceHead(Decoder):
    """MonoAvatar's decoder of features h: σ = exp(FC(h)), rgb = sigmoid(MLP([h, PE(direction)])).

    Unlike in `NeRFDecoder`, density is one linear layer of the features, and color depends on all of them.

    The paper states no output activations. Density is exp of the layer, as in `NeRFDecoder`, because in 1/m it spans
    orders of magnitude; color a sigmoid, as in NeRF. Both our own choice.

    Args:
        hidden: units of the color network's hidden layers.
        color_layers: hidden layers of the color network.
        direction_bands: octaves of the direction's encoding, after the direction itself; 0 makes color independent of
            it.
        density_bias: initial bias of the density layer; training starts at a density of about exp(density_bias) per
            meter.

    Differentiable to any order in features and directions (through `headfields.ops.mlp`: to second order).

    Raises:
        ValueError: direction_bands is negative, or a size is not positive.

    Source: MonoAvatar (Bai et al. 2023), section 3.1, and its supplement for the sizes; Mildenhall et al. 2020, "NeRF".
    """

    gives = "density"

    def __init__(
        self, hidden: int = 64, color_layers: int = 1, direction_bands: int = 4, density_bias: float = 0.0
    ) -> None:
        super().__init__()
        if hidden < 1 or color_layers < 0 or direction_bands < 0:
            raise ValueError(
                f"RadianceHead: hidden={hidden}, color_layers={color_layers}, direction_bands={direction_bands}; "
                "expected at least 1, 0, 0"
            )
        self.hidden = hidden
        self.color_layers = color_layers
        self.direction_bands = direction_bands
        self.density_bias = density_bias

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        self.density_layer = nn.Linear(width, 1)
        nn.init.kaiming_uniform_(self.density_layer.weight, nonlinearity="linear")
        nn.init.constant_(self.density_layer.bias, self.density_bias)
        direction_width = 3 * (2 * self.direction_bands + 1) if self.direction_bands else 0
        self.color_network = mlp(width + direction_width, self.hidden, self.color_layers, 3, bias=True)

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        joined = features.joined()
        exponent = self.density_layer(joined)[:, 0]
        if exponent.dtype in (torch.bfloat16, torch.float16):  # exp turns their absolute error into a relative one
            exponent = exponent.float()
        density = exponent.clamp_max(15.0).exp()  # beyond that everything is opaque, and exp stays finite
        values = FieldValues(density=density, geometry=joined)
        return values.replace(rgb=self.color(values, canonical, prepared)) if color else values

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        (features,) = values.require("geometry")
        if self.direction_bands:
            features = torch.cat([features, frequency_encoding(canonical.directions, self.direction_bands)], dim=-1)
        return self.color_network(features).sigmoid()
