"""Barycentric coordinates of points on given triangles."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TINY = 1e-20  # squared meters below which a triangle has no area


def barycentric_on(
    points: Float[Tensor, "*batch n 3"], vertices: Float[Tensor, "v 3"], corners: Int[Tensor, "n 3"]
) -> Float[Tensor, "*batch n 3"]:
    """Barycentric coordinates of the points' projections onto the planes of their triangles, moved into them.

    Outside a triangle negative coordinates become 0 and the others are scaled to a sum of 1: a point of its border, not
    always the nearest. A triangle without area gives its centroid.

    Args:
        points: (..., N, 3), meters.
        vertices: (V, 3).
        corners: (N, 3) the vertices of each point's triangle.

    Differentiable to second order inside the triangles.
    """
    inside = plane_barycentric(points, vertices, corners).clamp_min(0)
    return inside / inside.sum(-1, keepdim=True)


def plane_barycentric(
    points: Float[Tensor, "*batch n 3"], vertices: Float[Tensor, "v 3"], corners: Int[Tensor, "n 3"]
) -> Float[Tensor, "*batch n 3"]:
    """Barycentric coordinates of the points' projections onto the planes of their triangles; negative outside.

    Args:
        points: (..., N, 3), meters.
        vertices: (V, 3).
        corners: (N, 3) the vertices of each point's triangle.

    A triangle without area gives its centroid. Differentiable to any order.
    """
    a, b, c = vertices[corners].unbind(1)
    along = points - a
    first, second = (b - a).expand_as(along), (c - a).expand_as(along)
    normal = torch.linalg.cross(first, second)
    squared = normal.square().sum(-1, keepdim=True)
    flat = squared <= _TINY**2
    safe = torch.where(flat, 1.0, squared)
    v = (torch.linalg.cross(along, second) * normal).sum(-1, keepdim=True) / safe
    w = (torch.linalg.cross(first, along) * normal).sum(-1, keepdim=True) / safe
    return torch.where(flat, 1 / 3, torch.cat([1 - v - w, v, w], dim=-1))
