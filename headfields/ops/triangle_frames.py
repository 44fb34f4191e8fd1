"""Orthonormal frames of triangles, and deformation gradients from posed triangles to their canonical ones (INSTA)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.vertex_geometry import triangle_areas

Scaling = Literal["none", "area", "length"]
_TINY = 1e-20  # squared meters (areas) below which a triangle has no direction of its own


def triangle_frames(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3 4"]:
    """The frame `[T B n | a]` of every triangle (a, b, c), as a 3×4 matrix from triangle to world coordinates.

    n is the unit normal of (b−a)×(c−a), T the direction of b−a, B = n×T; the origin is vertex a. INSTA's released
    code negates both T and B, a half turn about n, which cancels in every map between two frames of one triangle.
    A triangle without area keeps T and gets any n perpendicular to it; a triangle without extent gets the world's axes.
    So a frame is always a rotation, and its gradient is finite.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F, 3, 4). Differentiable in the vertices to any order.

    Raises:
        TypeError: vertices are not floating point, or faces not integers.
        ValueError: a shape does not fit.

    Source: INSTA (Zielonka et al. 2023), section 3.2, "deformation gradient".
    """
    check_floating("triangle_frames", "vertices", vertices)
    check_shape("triangle_frames", "vertices", vertices, "... v 3")
    check_integer("triangle_frames", "faces", faces)
    check_shape("triangle_frames", "faces", faces, "f 3")
    a, b, c = (vertices[..., faces[:, corner], :] for corner in range(3))
    edge = b - a
    axes = torch.eye(3, dtype=vertices.dtype, device=vertices.device)
    tangent = _direction(edge, axes[0])
    # The world axis with the smallest component along the tangent gives a perpendicular where the triangle has none.
    flattest = axes[tangent.detach().abs().argmin(dim=-1)]
    across = c - a - ((c - a) * tangent).sum(-1, keepdim=True) * tangent
    fallback = torch.nn.functional.normalize(torch.linalg.cross(tangent, flattest), dim=-1)
    bitangent = _direction(across, torch.linalg.cross(fallback, tangent))
    normal = torch.linalg.cross(tangent, bitangent)
    return torch.stack([tangent, bitangent, normal, a], dim=-1)


def deformation_gradients(
    posed: Float[Tensor, "*batch v 3"],
    canonical: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    scaling: Scaling = "none",
) -> Float[Tensor, "*batch f 3 4"]:
    """Each posed triangle's map to its canonical one: x_c = F [x, 1], F = L_canonical Λ L_posed⁻¹.

    Args:
        posed: (..., V, 3) posed vertices, meters.
        canonical: (V, 3) canonical vertices, meters.
        faces: (F, 3).
        scaling: Λ, an isotropic scale 1/s. `"none"`: s = 1. `"area"`: s is the ratio of the areas, posed over
            canonical, as in INSTA's released code (which applies it in the eye region only). `"length"`: s is the
            square root of that, a ratio of lengths; our own choice, as the paper leaves the exponent open. The ratio
            of areas is clamped to [0.01, 100], beyond which it has no gradient: a triangle that has collapsed (a shut
            eyelid) would blow space up without bound.

    Returns:
        (..., F, 3, 4). Differentiable in both meshes to second order.

    Raises:
        TypeError: a mesh is not floating point, or faces not integers.
        ValueError: the meshes differ in their number of vertices, or scaling is none of the three.

    Source: INSTA (Zielonka et al. 2023), section 3.2.

    >>> import torch, headfields as hf
    >>> canonical, faces = torch.eye(3), torch.tensor([[0, 1, 2]])
    >>> gradients = hf.ops.deformation_gradients(canonical + torch.tensor([0.0, 1.0, 0.0]), canonical, faces)
    >>> posed_point = torch.tensor([0.5, 1.5, 0.0, 1.0])  # homogeneous
    >>> (gradients[0] @ posed_point).round(decimals=4).tolist()
    [0.5, 0.5, 0.0]
    """
    if scaling not in ("none", "area", "length"):
        raise ValueError(f"deformation_gradients: scaling is {scaling!r}; expected 'none', 'area' or 'length'")
    if posed.shape[-2:] != canonical.shape:
        raise ValueError(
            f"deformation_gradients: posed has shape {tuple(posed.shape)} and canonical {tuple(canonical.shape)}; "
            "both must hold the same V vertices"
        )
    source = triangle_frames(posed, faces)
    target = triangle_frames(canonical, faces)
    linear = target[..., :3] @ source[..., :3].transpose(-1, -2)
    if scaling != "none":
        ratio = triangle_areas(posed, faces) / triangle_areas(canonical, faces).clamp_min(_TINY)
        ratio = ratio.clamp(1e-2, 1e2)
        linear = linear / (ratio if scaling == "area" else ratio.sqrt())[..., None, None]
    offset = target[..., 3] - (linear @ source[..., 3:])[..., 0]
    return torch.cat([linear, offset[..., None]], dim=-1)


def _direction(vector: Tensor, otherwise: Tensor) -> Tensor:
    """The unit vector, or `otherwise` (with no gradient) where there is no length."""
    squared = (vector * vector).sum(-1, keepdim=True)
    short = squared <= _TINY
    return torch.where(short, otherwise, vector / torch.where(short, torch.ones_like(squared), squared).sqrt())
