"""Affine frames of skull and jaw as weighted sums of a mesh's vertices; the inside of a mouth moves with them.

Our own design. A frame is four rows of weights (4, V) whose products with any vertices (V, 3) are an origin and three
axes. The rows are least-squares solutions over hundreds of vertices, so the expression of a few hardly changes them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.mesh_topology import vertex_components
from headfields.ops.smoothstep import smoothstep

__all__ = ["affine_frame", "connected", "is_thick", "jaw_share", "skull_share"]

_FLAT = 0.03  # fraction of the mouth's width; vertices in a thinner slab do not determine the axis across it


def connected(faces: Int[Tensor, "f 3"], vertex: int, count: int) -> Bool[Tensor, " v"]:
    """(V,) mask of the connected component of a vertex: the skin without the eyeballs."""
    component = vertex_components(faces, count)
    return component == component[vertex]


def skull_share(local: Float[Tensor, "v 3"], reach: float) -> Float[Tensor, " v"]:
    """(V,) weights in [0, 1] of the vertices that follow the skull: the skin from the nostrils up.

    Args:
        local: (V, 3) positions relative to the middle of the mouth, in units of its width.
        reach: scale of the region; above 1 for meshes with too few vertices in it.
    """
    return smoothstep(local[:, 1], 0.45 / reach, 0.85 / reach)


def jaw_share(local: Float[Tensor, "v 3"], reach: float) -> Float[Tensor, " v"]:
    """(V,) weights in [0, 1] of the vertices that follow the jaw: the chin, without lips and neck.

    Args:
        local: (V, 3) positions relative to the middle of the mouth, in units of its width.
        reach: scale of the region; above 1 for meshes with too few vertices in it.
    """
    x, y, z = local.unbind(1)
    away = (x / 0.55) ** 2 + ((y + 0.82) / 0.4) ** 2 + ((z - 0.1) / 0.5) ** 2
    return (1 - away / reach**2).clamp(min=0)


def is_thick(vertices: Float[Tensor, "v 3"], weight: Float[Tensor, " v"], width: float) -> bool:
    """Whether the vertices of positive weight extend in all three directions, so that they determine a frame."""
    return int((weight > 0).sum()) >= 4 and _thickness(vertices, weight) >= _FLAT * width


def _thickness(vertices: Tensor, weight: Tensor) -> float:
    """Weighted standard deviation of the vertices across their plane of best fit, meters."""
    weight = weight / weight.sum().clamp_min(1e-30)
    away = vertices - (weight[:, None] * vertices).sum(0)
    return float(torch.linalg.eigvalsh((weight[:, None] * away).T @ away)[0].clamp_min(0)) ** 0.5


def affine_frame(
    vertices: Float[Tensor, "v 3"], weight: Float[Tensor, " v"], origin: Float[Tensor, "3"], width: float, what: str
) -> Float[Tensor, "4 v"]:
    """Weights (4, V) whose products with the vertices are an origin and the axes x, y and z.

    The first row sums to 1 and the others to 0, so the frame follows every affine motion of the vertices exactly. Among
    such weights these minimize the sum of squares divided by the vertices' shares.

    Args:
        vertices: (V, 3) float64 at rest.
        weight: (V,) weight of each vertex in the fit, at least 0.
        origin: (3,) origin of the frame at rest.
        width: width of the mouth, meters.
        what: "skull" or "jaw", for the error.

    Raises:
        ValueError: fewer than four vertices have weight, or they lie in a plane.
    """
    if not is_thick(vertices, weight, width):
        raise ValueError(
            f"inner_mouth: {int((weight > 0).sum())} vertices follow the {what}, in a slab "
            f"{1e3 * _thickness(vertices, weight):.2f} mm thick, which does not determine its motion; pass {what}=, "
            f"(V,) the weight with which each vertex of the mesh moves with the {what}"
        )
    weight = weight / weight.sum()
    homogeneous = torch.cat([(vertices - origin) / width, torch.ones_like(vertices[:, :1])], 1)
    weighted = weight[:, None] * homogeneous
    rows = torch.linalg.solve(homogeneous.T @ weighted, weighted.T)
    return torch.cat([rows[3:], rows[:3] / width])
