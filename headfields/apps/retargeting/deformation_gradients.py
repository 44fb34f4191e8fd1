"""Deformation gradients of triangles: the linear map from a neutral triangle to its posed shape."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_shape

_FLAT = 1e-6  # height over longest edge at which a triangle counts as degenerate


def flat_triangles(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """Degenerate triangles: lower than a millionth of their longest edge, or not finite."""
    corners = vertices.double()[faces.long()]
    edges = corners - corners.roll(1, dims=1)
    longest = (edges * edges).sum(-1).amax(-1)
    doubled = torch.linalg.vector_norm(torch.linalg.cross(edges[:, 0], edges[:, 1]), dim=-1)
    return ~(doubled > _FLAT * longest)


def triangle_spans(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3 3"]:
    """Columns b − a, c − a and n / sqrt|n| of every triangle (a, b, c), n = (b − a) × (c − a).

    The third column leads to the fourth vertex of Sumner and Popović (2004, section 3). It makes the map between two
    poses unique and scales like a length. It is zero for a triangle without area. Differentiable.
    """
    a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    squared = (normal * normal).sum(-1, keepdim=True)
    flat = squared <= 1e-60
    fourth = torch.where(flat, 0.0, normal / torch.where(flat, 1.0, squared) ** 0.25)
    return torch.stack([b - a, c - a, fourth], dim=-1)


def pose_gradients(
    posed: Float[Tensor, "*batch v 3"], neutral: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "*batch f 3 3"]:
    """The linear part of the map from each neutral triangle to its posed shape, S = P N⁻¹ of `triangle_spans`.

    S holds rotation, stretch and shear, but no translation. (`headfields.ops.triangle_frames.deformation_gradients`
    gives INSTA's map, which goes from posed to neutral and is rigid.) A triangle that is degenerate in the neutral mesh
    gets the identity.

    Args:
        posed: (..., V, 3), meters.
        neutral: (V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F, 3, 3). Differentiable in `posed`, to second order.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit.

    Example:
        >>> import torch, headfields as hf
        >>> neutral, faces = torch.eye(3), torch.tensor([[0, 1, 2]])
        >>> from headfields.apps.retargeting.deformation_gradients import pose_gradients
        >>> pose_gradients(2 * neutral[None], neutral, faces).diagonal(dim1=-2, dim2=-1)
        tensor([[[2., 2., 2.]]])

    Source: Sumner and Popović, Deformation Transfer for Triangle Meshes (2004), section 3, equation 4.
    """
    check_floating("pose_gradients", "posed", posed)
    check_shape("pose_gradients", "posed", posed, "... v 3")
    check_floating("pose_gradients", "neutral", neutral)
    check_integer("pose_gradients", "faces", faces)
    check_shape("pose_gradients", "faces", faces, "f 3")
    if posed.shape[-2:] != neutral.shape:
        raise ValueError(
            f"pose_gradients: posed has shape {tuple(posed.shape)} and neutral {tuple(neutral.shape)}; "
            "both must hold the same V vertices"
        )
    rest = triangle_spans(neutral.to(posed.dtype), faces)
    flat = flat_triangles(neutral, faces)[:, None, None]
    identity = torch.eye(3, dtype=posed.dtype, device=posed.device)
    inverse = torch.linalg.inv(torch.where(flat, identity, rest))
    return torch.where(flat, identity, triangle_spans(posed, faces) @ inverse)
