"""Laying one head over another: a similarity, and a smooth warp of space."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import nearest_rotation
from headfields.records import Record

__all__ = ["Similarity", "ThinPlateWarp", "fit_similarity"]


@dataclass(frozen=True)
class Similarity(Record):
    """x → scale · rotation · x + translation.

    Attributes:
        rotation: (3, 3), determinant +1.
        translation: (3,) metres.
        scale: () > 0.
    """

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: Float[Tensor, ""]

    @staticmethod
    def identity(dtype: torch.dtype = torch.float64) -> "Similarity":
        """The one that leaves everything in its place."""
        return Similarity(torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype), torch.ones((), dtype=dtype))

    def inverse(self) -> "Similarity":
        """The one that takes everything back. Differentiable."""
        back = self.rotation.transpose(0, 1)
        return Similarity(back, -(back @ self.translation) / self.scale, 1 / self.scale)

    def apply(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """(..., 3) points, taken along; in their own dtype. Differentiable."""
        linear = (self.scale * self.rotation).to(points)
        return points @ linear.transpose(0, 1) + self.translation.to(points)


def fit_similarity(source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], scaling: bool = True) -> Similarity:
    """The similarity that takes points nearest to their partners, in the sense of least squares.

    Args:
        source, target: (N, 3); N ≥ 3, not all on a line, or the rotation is any of those that fit.
        scaling: False keeps the scale at 1.

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
            f"fit_similarity: {len(source)} source and {len(target)} target points; give three pairs or more"
        )
    x, y = source.double(), target.double()
    middle_x, middle_y = x.mean(0), y.mean(0)
    x, y = x - middle_x, y - middle_y
    rotation, stretch = nearest_rotation(y.transpose(0, 1) @ x)
    scale = (stretch / (x * x).sum().clamp_min(1e-30)) if scaling else stretch.new_ones(())
    return Similarity(rotation, middle_y - scale * rotation @ middle_x, scale)


class ThinPlateWarp(nn.Module):
    """The smoothest map of space that takes given points to given places.

    φ(x) = x + A x + b + Σ wₖ |x − pₖ|, with weights orthogonal to affine maps: the biharmonic spline in three
    dimensions. Without curvature anywhere that the points do not ask for, so it goes on sensibly off them.

    Args:
        points: (N, 3) where.
        places: (N, 3) whereto; with places equal to points, φ is exactly the identity.
        smoothing: metres; 0 interpolates, more lets points miss their places by about so much, for noisy ones.

    Raises:
        ValueError: shapes do not fit, or fewer than four points.

    Differentiable to first order (to second away from the points). Source: Duchon, Splines minimizing
    rotation-invariant semi-norms in Sobolev spaces (1977).
    """

    points: Tensor
    weights: Tensor
    affine: Tensor

    def __init__(self, points: Float[Tensor, "n 3"], places: Float[Tensor, "n 3"], smoothing: float = 0.0) -> None:
        super().__init__()
        if points.shape != places.shape or len(points) < 4:
            raise ValueError(
                f"ThinPlateWarp: points have shape {tuple(points.shape)}, places {tuple(places.shape)}; give four "
                "pairs or more"
            )
        x, moves = points.detach().double(), (places - points).detach().double()
        count = len(x)
        linear = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        # -|r| is conditionally positive definite, so smoothing is subtracted from the diagonal of |r|.
        kernel = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        kernel = kernel - smoothing * torch.eye(count, dtype=x.dtype, device=x.device)
        system = torch.cat([torch.cat([kernel, linear], 1), torch.cat([linear.T, x.new_zeros(4, 4)], 1)])
        solution = torch.linalg.lstsq(
            system.cpu(), torch.cat([moves, x.new_zeros(4, 3)]).cpu(), driver="gelsd"
        ).solution
        self.register_buffer("points", x, persistent=False)
        self.register_buffer("weights", solution[:count].to(x.device), persistent=False)
        self.register_buffer("affine", solution[count:].to(x.device), persistent=False)

    def forward(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """(..., 3) points, taken along; in their own dtype."""
        x = points.double()
        distance = torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist")
        moved = x + x @ self.affine[:3] + self.affine[3] + distance @ self.weights
        return moved.to(points.dtype)
