"""NeRF decoder: density and view-dependent color from features, by Instant-NGP's pair of networks (INSTA)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.networks.mlp import mlp
from headfields.ops.spherical_harmonics import spherical_harmonics
from headfields.parts import Decoder
from headfields.records import Canonical, Features, FieldValues


class NeRFDecoder(Decoder):
    """Features → density network → (density, geometry features), and these with the direction → color network → rgb.

    Density is exp of the first output, color a sigmoid. INSTA's sizes are the defaults: a density network with two
    hidden layers of 64, a color network with three, directions as spherical harmonics of degree 4.

    Args:
        hidden: units of the hidden layers.
        density_layers, color_layers: hidden layers of the two networks.
        geometry_width: outputs of the density network, all of them inputs of the color network.
        direction_degree: degree of the spherical harmonics of the direction, 1 to 8; 0 makes color independent of it.
        density_bias: added before exp, so that training starts at a density of exp(density_bias) per meter.

    Differentiable to any order in features, first and second in directions.

    Raises:
        ValueError: direction_degree is out of range, or a size is not positive.

    Source: INSTA (Zielonka et al. 2023), section 3.3; sizes and activations as in its released configuration.
    """

    gives = "density"

    def __init__(
        self,
        hidden: int = 64,
        density_layers: int = 2,
        color_layers: int = 3,
        geometry_width: int = 16,
        direction_degree: int = 4,
        density_bias: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= direction_degree <= 8:
            raise ValueError(f"NeRFDecoder: direction_degree is {direction_degree}; expected 0 to 8")
        self.hidden = hidden
        self.density_layers = density_layers
        self.geometry_width = geometry_width
        self.direction_degree = direction_degree
        self.density_bias = density_bias
        self.color_network = mlp(geometry_width + direction_degree**2, hidden, color_layers, 3)

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        self.density_network = mlp(width, self.hidden, self.density_layers, self.geometry_width)

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        geometry = self.density_network(features.own, features.shared, features.index)
        # Beyond exp(15) per meter everything is opaque; the bound keeps exp finite and leaves the gradient below it.
        # In float32 under autocast too: exp turns the absolute error of bfloat16 into a relative one.
        exponent = geometry[:, 0].float() if geometry.dtype in (torch.bfloat16, torch.float16) else geometry[:, 0]
        density = (exponent + self.density_bias).clamp_max(15.0).exp()
        values = FieldValues(density=density, geometry=geometry)
        return values.replace(rgb=self.color(values, canonical, prepared)) if color else values

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        (features,) = values.require("geometry")
        if self.direction_degree:
            features = torch.cat([spherical_harmonics(canonical.directions, self.direction_degree), features], dim=-1)
        return self.color_network(features).sigmoid()
