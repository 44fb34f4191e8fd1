"""Frames of triangles and deformation gradients in plain PyTorch: any float dtype, differentiable to any order."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.vertex_geometry import triangle_areas

TINY = 1e-20  # squared meters (areas) below which a triangle has no direction of its own


def triangle_frames(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3 4"]:
    """See `headfields.ops.triangle_frames`."""
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
    scaling: str = "none",
) -> Float[Tensor, "*batch f 3 4"]:
    """See `headfields.ops.deformation_gradients`."""
    source = triangle_frames(posed, faces)
    target = triangle_frames(canonical, faces)
    linear = target[..., :3] @ source[..., :3].transpose(-1, -2)
    if scaling != "none":
        ratio = triangle_areas(posed, faces) / triangle_areas(canonical, faces).clamp_min(TINY)
        ratio = ratio.clamp(1e-2, 1e2)
        linear = linear / (ratio if scaling == "area" else ratio.sqrt())[..., None, None]
    offset = target[..., 3] - (linear @ source[..., 3:])[..., 0]
    return torch.cat([linear, offset[..., None]], dim=-1)


def _direction(vector: Tensor, otherwise: Tensor) -> Tensor:
    """The unit vector, or `otherwise` where there is no length."""
    squared = (vector * vector).sum(-1, keepdim=True)
    short = squared <= TINY
    return torch.where(short, otherwise, vector / torch.where(short, torch.ones_like(squared), squared).sqrt())
