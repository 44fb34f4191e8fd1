"""The rigid motion that takes points nearest to their places, in the sense of least squares."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape

__all__ = ["fit_rigid", "nearest_rotation", "rigid_transform"]


def fit_rigid(
    source: Float[Tensor, "n 3"], posed: Float[Tensor, "b n 3"], weights: Float[Tensor, "b n"] | None = None
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """Rotations and translations, R x + t, that take N points nearest to their places in each of B poses.

    Args:
        source: (N, 3) points, metres; N ≥ 3 and not all on a line, or the rotation is any of those that fit.
        posed: (B, N, 3) where they are in each pose, metres; B = 0 is legal.
        weights: (B, N) how much each point counts, not negative and not all 0; evenly if left out.

    Returns:
        rotations (B, 3, 3) and translations (B, 3).

    Raises:
        TypeError, ValueError: a dtype or shape does not fit.

    Differentiable in all arguments, to first order, where no two singular values of the covariance are equal.

    Source: Kabsch 1976.
    """
    check_floating("fit_rigid", "source", source)
    check_shape("fit_rigid", "source", source, "N 3")
    check_floating("fit_rigid", "posed", posed)
    if posed.dim() != 3 or posed.shape[1:] != source.shape:
        raise ValueError(
            f"fit_rigid: posed has shape {tuple(posed.shape)}; expected (B, {len(source)}, 3), a place for each of "
            f"the {len(source)} points of source"
        )
    if weights is None:
        middle, middles = source.mean(0), posed.mean(1)
        covariance = (posed - middles[:, None]).transpose(1, 2) @ (source - middle)
        rotation, _ = nearest_rotation(covariance)
        return rotation, middles - rotation @ middle
    if weights.shape != posed.shape[:2]:
        raise ValueError(f"fit_rigid: weights has shape {tuple(weights.shape)}; expected {tuple(posed.shape[:2])}")
    share = (weights / weights.sum(1, keepdim=True))[..., None]
    centre, middles = (share * source).sum(1), (share * posed).sum(1)
    covariance = (share * (posed - middles[:, None])).transpose(1, 2) @ (source - centre[:, None])
    rotation, _ = nearest_rotation(covariance)
    return rotation, middles - (rotation @ centre[..., None])[..., 0]


def nearest_rotation(
    covariance: Float[Tensor, "*b 3 3"],
) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b"]]:
    """The rotations R (..., 3, 3), of determinant +1, of greatest trace(Rᵀ C) for a `covariance` C, and that trace.

    Differentiable to first order, where no two singular values are equal.
    """
    u, s, vh = torch.linalg.svd(covariance)
    sign = torch.ones_like(s)
    sign[..., 2] = torch.linalg.det(u @ vh).sign().detach()
    return (u * sign[..., None, :]) @ vh, (s * sign).sum(-1)


def rigid_transform(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """Homogeneous matrices (..., 4, 4) of x → R x + t: `rotation` (..., 3, 3), `translation` (..., 3).

    Differentiable to any order.
    """
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)
