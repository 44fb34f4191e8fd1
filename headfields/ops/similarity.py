"""Similarity transforms (rotation, translation, scale), and the one that aligns two point sets."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import nearest_rotation
from headfields.records import Record
from headfields.records.precision import full_precision


@dataclass(frozen=True)
class Similarity(Record):
    """x → scale · rotation · x + translation.

    Attributes:
        rotation: (3, 3), determinant +1.
        translation: (3,) meters.
        scale: () > 0.
    """

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: Float[Tensor, ""]

    @staticmethod
    def identity(dtype: torch.dtype = torch.float64) -> "Similarity":
        """The identity."""
        return Similarity(torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype), torch.ones((), dtype=dtype))

    def inverse(self) -> "Similarity":
        """The inverse transform. Differentiable."""
        inverse = self.rotation.transpose(0, 1)
        with full_precision(inverse):
            return Similarity(inverse, -(inverse @ self.translation) / self.scale, 1 / self.scale)

    def apply(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Transforms points (..., 3), in their own dtype. Differentiable."""
        linear = (self.scale * self.rotation).to(points)
        with full_precision(points):
            return points @ linear.transpose(0, 1) + self.translation.to(points)


def fit_similarity(
    source: Float[Tensor, "n 3"],
    target: Float[Tensor, "n 3"],
    scaling: bool = True,
    weights: Float[Tensor, " n"] | None = None,
) -> Similarity:
    """The similarity that best aligns N points with their counterparts, by least squares.

    Args:
        source, target: (N, 3); N ≥ 3, not all on a line, or the rotation is any of those that fit.
        scaling: False keeps the scale at 1.
        weights: (N,), not negative and not all 0; None weighs all alike.

    Raises:
        TypeError, ValueError: dtype or shape does not fit, fewer than three points, or a value is not finite.

    Differentiable. Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns
    (1991).
    """
    for name, points in (("source", source), ("target", target)):
        check_floating("fit_similarity", name, points)
        check_shape("fit_similarity", name, points, "N 3")
        if not bool(points.isfinite().all()):
            raise ValueError(f"fit_similarity: {name} holds values that are not finite; leave those points out")
    if len(source) != len(target) or len(source) < 3:
        raise ValueError(
            f"fit_similarity: {len(source)} source and {len(target)} target points; pass three pairs or more"
        )
    x, y = source.double(), target.double()
    if weights is None:
        center_x, center_y, weight = x.mean(0), y.mean(0), x.new_ones(())
    else:
        weight = (weights.double() / weights.double().sum())[:, None]
        center_x, center_y = (weight * x).sum(0), (weight * y).sum(0)
    x, y = x - center_x, y - center_y
    rotation, stretch = nearest_rotation((weight * y).transpose(0, 1) @ x)
    scale = (stretch / (weight * x * x).sum().clamp_min(1e-30)) if scaling else stretch.new_ones(())
    return Similarity(rotation, center_y - scale * rotation @ center_x, scale)
