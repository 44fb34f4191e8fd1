"""Rigid alignment of point sets by least squares (Kabsch), and the rotation nearest to a matrix."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape, promoted
from headfields.ops.eigen import symmetric_eigen
from headfields.ops.rotations import rotation_matrices

__all__ = ["fit_rigid", "nearest_rotation", "rigid_transform"]


def fit_rigid(
    source: Float[Tensor, "n 3"], posed: Float[Tensor, "b n 3"], weights: Float[Tensor, "b n"] | None = None
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """The rigid motions x → R x + t that best align N points with their positions in each of B poses, by least squares.

    Args:
        source: (N, 3) points, meters; N ≥ 3 and not all on a line, or the rotation is any of those that fit.
        posed: (B, N, 3) their positions in each pose, meters; B = 0 is legal.
        weights: (B, N) weights of the points, not negative and not all 0; None weighs all alike.

    Returns:
        rotations (B, 3, 3) and translations (B, 3).

    Raises:
        TypeError, ValueError: a dtype or shape does not fit.

    Differentiable in all arguments to second order (see `nearest_rotation`).

    Source: Kabsch 1976.

    >>> import torch, headfields as hf
    >>> points = torch.eye(3)
    >>> rotation, translation = hf.ops.fit_rigid(points, points[None] + torch.tensor([0.0, 0.0, 2.0]))
    >>> rotation.shape, torch.allclose(translation[0], torch.tensor([0.0, 0.0, 2.0]), atol=1e-5)
    (torch.Size([1, 3, 3]), True)
    """
    check_floating("fit_rigid", "source", source)
    check_shape("fit_rigid", "source", source, "N 3")
    check_floating("fit_rigid", "posed", posed)
    if posed.dim() != 3 or posed.shape[1:] != source.shape:
        raise ValueError(
            f"fit_rigid: posed has shape {tuple(posed.shape)}; expected (B, {len(source)}, 3), a position for each "
            f"of the {len(source)} points of source"
        )
    if weights is not None:
        check_shape("fit_rigid", "weights", weights, f"{len(posed)} {len(source)}")
        if weights.is_complex():
            raise TypeError(f"fit_rigid: weights is {weights.dtype}; expected real numbers")
    check_same_device("fit_rigid", source=source, posed=posed, weights=weights)
    if source.dtype in (torch.float16, torch.bfloat16) or posed.dtype in (torch.float16, torch.bfloat16):
        source, posed = source.float(), posed.float()
    source, posed = promoted(source, posed)
    with torch.autocast(source.device.type, enabled=False):
        return _fit_rigid(source, posed, weights)


def _fit_rigid(source: Tensor, posed: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    if weights is None:
        center, centers = source.mean(0), posed.mean(1)
        covariance = (posed - centers[:, None]).transpose(1, 2) @ (source - center)
        rotation, _ = nearest_rotation(covariance)
        return rotation, centers - rotation @ center
    normalized = (weights / weights.sum(1, keepdim=True)).to(posed.dtype)[..., None]
    center, centers = (normalized * source).sum(1), (normalized * posed).sum(1)
    covariance = (normalized * (posed - centers[:, None])).transpose(1, 2) @ (source - center[:, None])
    rotation, _ = nearest_rotation(covariance)
    return rotation, centers - (rotation @ center[..., None])[..., 0]


def nearest_rotation(
    covariance: Float[Tensor, "*b 3 3"],
) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b"]]:
    """The rotations R (..., 3, 3) of determinant +1 that maximize trace(Rᵀ C), and that trace (...).

    A matrix that is not finite has a rotation of NaN, and the others of the batch have theirs.

    Args:
        covariance: (..., 3, 3) C, for example the sum of target · sourceᵀ over centered points.

    Differentiable to second order, except where the maximum is not unique. R comes from a singular value decomposition
    (Umeyama 1991), whose derivative fails where two singular values meet, though that of the rotation does not. So R is
    taken as a constant, and two steps of Newton's method, which do not move it, give its derivatives.
    """
    if covariance.dtype in (torch.float16, torch.bfloat16):
        covariance = covariance.float()
    with torch.autocast(covariance.device.type, enabled=False):  # half precision has no decompositions
        return _nearest_rotation(covariance)


def _nearest_rotation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    # A decomposition fails for a whole batch: what is not finite is left out, and its rotation is NaN.
    finite = covariance.detach().isfinite().all(-1).all(-1)[..., None, None]
    covariance = torch.where(finite, covariance, torch.eye(3, dtype=covariance.dtype, device=covariance.device))
    scale = covariance.detach().abs().amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(covariance.dtype).tiny)
    moment = covariance / scale
    with torch.no_grad():  # no_grad alone would let tangents of forward mode pass
        decomposed = _by_singular_vectors if moment.is_cpu else _by_eigenvectors
        rotation = decomposed(moment.detach())
    identity = torch.eye(3, dtype=moment.dtype, device=moment.device)
    for _ in range(2):
        turned = rotation.transpose(-1, -2) @ moment  # symmetric, once the rotation is right
        symmetric = 0.5 * (turned + turned.transpose(-1, -2))
        skew = turned - turned.transpose(-1, -2)
        axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
        trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(dim=-1) + torch.finfo(moment.dtype).eps  # points on one line
        step = torch.linalg.solve_ex(trace[..., None, None] * identity - symmetric, axis[..., None])[0][..., 0]
        rotation = rotation @ rotation_matrices(step)
    rotation = torch.where(finite, rotation, torch.nan)
    return rotation, (rotation * covariance).sum(dim=(-2, -1))


def _by_singular_vectors(moment: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    u, _, vh = torch.linalg.svd(moment)
    flip = torch.ones_like(u[..., 0])
    flip[..., 2] = torch.linalg.det(u @ vh).sign()
    return (u * flip[..., None, :]) @ vh


def _by_eigenvectors(moment: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The same rotation without a wait for the device: the two largest singular vectors of each side, from the
    eigenvectors of MᵀM, and their cross products."""
    m = moment.double()
    vectors = symmetric_eigen((m.mT @ m).reshape(-1, 3, 3))[1].reshape(m.shape)
    first, second = vectors[..., 2], vectors[..., 1]
    tiny = torch.finfo(m.dtype).tiny
    images = (m @ vectors[..., [2, 1]]).unbind(-1)
    left = images[0] / images[0].norm(dim=-1, keepdim=True).clamp_min(tiny)
    left = torch.where((images[0] == 0).all(-1, keepdim=True), first, left)  # any rotation fits a matrix of zeros
    other = images[1] - (images[1] * left).sum(-1, keepdim=True) * left
    # Of points on one line: any direction across it, that of the axis along which it is shortest.
    axis = torch.nn.functional.one_hot(left.abs().argmin(-1), 3).to(m)
    across = torch.linalg.cross(left, axis)
    flat = other.norm(dim=-1, keepdim=True) <= 1e-12 * images[0].norm(dim=-1, keepdim=True)
    other = torch.where(flat, across, other)
    other = other / other.norm(dim=-1, keepdim=True)
    u = torch.stack([left, other, torch.linalg.cross(left, other)], dim=-1)
    v = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)
    return (u @ v.mT).to(moment.dtype)


def rigid_transform(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """(..., 4, 4) homogeneous matrices of x → R x + t. Differentiable to any order.

    Args:
        rotation: (..., 3, 3) R.
        translation: (..., 3) t, meters.
    """
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3].fill_(1.0)
    return torch.cat([top, bottom], dim=-2)
