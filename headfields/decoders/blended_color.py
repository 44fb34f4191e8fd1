"""Color blending: a decoder whose color is offset, in logits, by its last three features."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.parts import Decoder, check_part
from headfields.records import Canonical, Features, FieldValues, HeadState


class BlendedColor(Decoder):
    """Wraps a decoder and adds the last three features r to its color: rgb = sigmoid(logit(rgb₀) + r).

    The sum is of logits, so colors stay in [0, 1]. The three features come from `headfields.encoders.ColorFields`; the
    wrapped decoder reads the features before them, and its density or distance is unchanged.

    Args:
        decoder: decoder of the features before the last three.

    Differentiable as the wrapped decoder is, in the residual to any order.

    Raises:
        ValueError: when the avatar is built: there are fewer than three features.

    Source: our own choice, for 3VP Avatar's ablation of blending colors.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        check_part("BlendedColor", "decoder", decoder, Decoder)
        self.decoder = decoder
        self.gives = decoder.gives
        self.needs = decoder.needs
        self.color_needs_normals = decoder.color_needs_normals

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        if width < 3:
            raise ValueError(
                f"BlendedColor: the features are {width} wide; expected those of the decoder and three of a "
                "ColorFields, the last condition"
            )
        self.decoder.build(width - 3, bounds)

    def prepare(self, state: HeadState) -> Any:
        return self.decoder.prepare(state)

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        joined = features.joined()
        values = self.decoder(Features(joined[:, :-3].contiguous()), canonical, prepared, color)
        residual = joined[:, -3:]
        if values.geometry is not None:
            values = values.replace(geometry=torch.cat([values.geometry, residual.to(values.geometry.dtype)], dim=-1))
        return values if values.rgb is None else values.replace(rgb=_shifted(values.rgb, residual))

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        (geometry,) = values.require("geometry")
        own = values.replace(geometry=geometry[:, :-3].contiguous())
        return _shifted(self.decoder.color(own, canonical, prepared), geometry[:, -3:])


def _shifted(rgb: Float[Tensor, "m 3"], residual: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
    """sigmoid(logit(rgb) + residual), without the logarithms: c / (c + (1 − c) e^−r)."""
    return rgb / (rgb + (1 - rgb) * (-residual.clamp(-15.0, 15.0)).exp()).clamp_min(1e-12)
