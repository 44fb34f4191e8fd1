"""Canonical points and hyper-coordinates as features, without an encoding."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.parts import Encoder
from headfields.records import Canonical


class Coordinates(Encoder):
    """The canonical point and its hyper-coordinates as features, for networks that take coordinates.

    Args:
        points: whether to include the point. `AnchoredDecoder` reads points itself, so it takes False.
        ambient: whether to include the hyper-coordinates, of which there are as many as the deformer gives.
        scale: factor of the points, for networks that compute in other units than meters; hyper-coordinates are
            dimensionless and are not scaled.

    Differentiable to any order.

    Raises:
        ValueError: scale is not a finite number other than 0.
    """

    def __init__(self, points: bool = True, ambient: bool = True, scale: float | int = 1.0) -> None:
        super().__init__()
        if scale == 0 or not abs(scale) < torch.inf:
            raise ValueError(f"Coordinates: scale is {scale}; expected a finite number other than 0")
        self.points = points
        self.ambient = ambient
        self.scale = scale

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        self.width = 3 * self.points + ambient_width * self.ambient

    def forward(self, canonical: Canonical, prepared: None) -> Float[Tensor, "m width"]:
        features = [canonical.points * self.scale] if self.points else [canonical.points[:, :0]]
        if self.ambient and canonical.ambient is not None:
            features.append(canonical.ambient)
        return torch.cat(features, dim=-1)
