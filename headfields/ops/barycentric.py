"""Barycentric coordinates of points on given triangles."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TINY = 1e-20  # squared meters below which a triangle has no area


def barycentric_on(
    points: Float[Tensor, "n 3"], vertices: Float[Tensor, "v 3"], corners: Int[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Barycentric coordinates of the points' projections onto the planes of their triangles, moved into them.

    Outside a triangle negative coordinates become 0 and the others are scaled to a sum of 1: a point of its border, not
    always the nearest. A triangle without area gives its centroid.

    Args:
        points: (N, 3), meters.
        vertices: (V, 3).
        corners: (N, 3) the vertices of each point's triangle.

    Differentiable to second order inside the triangles.
    """
    a, b, c = vertices[corners].unbind(1)
    first, second, along = b - a, c - a, points - a
    normal = torch.linalg.cross(first, second)
    squared = normal.square().sum(-1, keepdim=True)
    flat = squared <= _TINY**2
    safe = torch.where(flat, 1.0, squared)
    v = (torch.linalg.cross(along, second) * normal).sum(-1, keepdim=True) / safe
    w = (torch.linalg.cross(first, along) * normal).sum(-1, keepdim=True) / safe
    inside = torch.cat([1 - v - w, v, w], dim=-1).clamp_min(0)
    return torch.where(flat, 1 / 3, inside / inside.sum(-1, keepdim=True))
