"""Frames of triangles and deformation gradients in plain PyTorch: any float dtype, differentiable to any order."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.vertex_geometry import cross_areas, face_crosses

TINY = 1e-20  # squared meters (areas) below which a triangle has no direction of its own
_SHORT = 1e-10  # meters, so that a side without length has a finite ratio
_MOST = 10.0
"""Largest stretch and shear of `"affine"`: as with areas, a collapsed triangle would blow space up without bound."""


def triangle_frames(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3 4"]:
    """See `headfields.ops.triangle_frames`."""
    a, b, c = (vertices[..., faces[:, corner], :] for corner in range(3))
    edge = b - a
    axes = torch.eye(3, dtype=vertices.dtype, device=vertices.device)
    tangent = _direction(edge, axes[0])
    # The world axis with the smallest component along the tangent gives a perpendicular where the triangle has none.
    x, y, z = tangent.detach().abs().unbind(-1)
    flattest = axes[torch.where((x <= y) & (x <= z), 0, torch.where(y <= z, 1, 2))]
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
    """See `headfields.ops.triangle_frames.deformation_gradients`."""
    source = triangle_frames(posed, faces)
    target = triangle_frames(canonical, faces)
    onto = target[..., :3]
    if scaling == "affine":
        onto = onto @ _plane_map(posed, canonical, faces, source, target)
    linear = onto @ source[..., :3].transpose(-1, -2)
    if scaling in ("area", "length"):
        areas, canonical_areas = (cross_areas(face_crosses(mesh, faces)) for mesh in (posed, canonical))
        ratio = areas / canonical_areas.clamp_min(TINY)
        ratio = ratio.clamp(1e-2, 1e2)
        linear = linear / (ratio if scaling == "area" else ratio.sqrt())[..., None, None]
    offset = target[..., 3] - (linear @ source[..., 3:])[..., 0]
    return torch.cat([linear, offset[..., None]], dim=-1)


def _plane_map(posed: Tensor, canonical: Tensor, faces: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """(..., F, 3, 3) from coordinates in a posed triangle's frame to those in its canonical one, corner to corner.

    In its frame a triangle is (0, 0), (x, 0), (u, v), so the map of its plane is upper triangular.
    """

    def sides(vertices: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        edge, other = (vertices[..., faces[:, k], :] - vertices[..., faces[:, 0], :] for k in (1, 2))
        tangent, bitangent = frames[..., 0], frames[..., 1]
        return (edge * tangent).sum(-1), (other * tangent).sum(-1), (other * bitangent).sum(-1)

    (x, u, v), (to_x, to_u, to_v) = sides(posed, source), sides(canonical, target)
    along = (to_x / x.clamp_min(_SHORT)).clamp(1 / _MOST, _MOST)
    across = (to_v / v.clamp_min(_SHORT)).clamp(1 / _MOST, _MOST)
    shear = ((to_u - along * u) / v.clamp_min(_SHORT)).clamp(-_MOST, _MOST)
    zero, one = torch.zeros_like(along), torch.ones_like(along)
    rows = [along, shear, zero, zero, across, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _direction(vector: Tensor, otherwise: Tensor) -> Tensor:
    """The unit vector, or `otherwise` where there is no length."""
    squared = (vector * vector).sum(-1, keepdim=True)
    short = squared <= TINY
    return torch.where(short, otherwise, vector / torch.where(short, torch.ones_like(squared), squared).sqrt())
