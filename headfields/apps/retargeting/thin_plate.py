"""Thin-plate warp: the smoothest map of space that interpolates given displacements of points."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ThinPlateWarp"]


class ThinPlateWarp(nn.Module):
    """The smoothest map of space that takes source points to target points.

    φ(x) = x + A x + b + Σ wₖ |x − pₖ|, with weights orthogonal to affine maps: the biharmonic spline in three
    dimensions. It bends no more than the points require, so it extrapolates sensibly.

    Args:
        points: (N, 3) source points.
        places: (N, 3) target points. If they equal the source points, φ is exactly the identity.
        smoothing: meters by which points may miss their targets, for noisy ones; 0 interpolates.

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
                f"ThinPlateWarp: points have shape {tuple(points.shape)}, places {tuple(places.shape)}; pass four "
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
        """The warped points (..., 3), in the dtype of `points`."""
        x = points.double()
        distance = torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist")
        moved = x + x @ self.affine[:3] + self.affine[3] + distance @ self.weights
        return moved.to(points.dtype)
