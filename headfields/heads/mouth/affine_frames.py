"""What the inside of a mouth moves with: affine frames of the skull and the jaw, as weights of the mesh's vertices.

Our own choice. A frame is four rows of weights (F, V) whose products with any vertices (V, 3) are an origin and three
axes; least-squares rows over hundreds of vertices, so that no single one's expression shows in it.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["affine_frame", "connected", "is_thick", "jaw_share", "skull_share"]

_FLAT = 0.03  # of the mouth's width: anchors thinner than this say nothing of what lies off their plane


def connected(faces: Int[Tensor, "f 3"], vertex: int, count: int) -> Bool[Tensor, " v"]:
    """(V,) which vertices hang together with one: the skin, and not eyeballs behind it."""
    table = faces.numpy()
    pairs = np.stack([table[:, :2], table[:, 1:]], 1).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    return torch.from_numpy(label == label[vertex])


def _smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def skull_share(local: Float[Tensor, "v 3"], reach: float) -> Float[Tensor, " v"]:
    """How far vertices serve as the skull's: all of the skin from the nostrils up.

    Args:
        local: (V, 3) places from the middle of the mouth in units of its width.
        reach: 1, or more on meshes that have too few vertices there.
    """
    return _smoothstep(local[:, 1], 0.45 / reach, 0.85 / reach)


def jaw_share(local: Float[Tensor, "v 3"], reach: float) -> Float[Tensor, " v"]:
    """How far vertices serve as the jaw's: the chin, off the lips and off the neck.

    Args:
        local: (V, 3) places from the middle of the mouth in units of its width.
        reach: 1, or more on meshes that have too few vertices there.
    """
    x, y, z = local.unbind(1)
    away = (x / 0.55) ** 2 + ((y + 0.82) / 0.4) ** 2 + ((z - 0.1) / 0.5) ** 2
    return (1 - away / reach**2).clamp(min=0)


def is_thick(vertices: Float[Tensor, "v 3"], share: Float[Tensor, " v"], width: float) -> bool:
    """Whether the vertices with a share spread in all three directions, so that they say where others are."""
    return int((share > 0).sum()) >= 4 and _thickness(vertices, share) >= _FLAT * width


def _thickness(vertices: Tensor, share: Tensor) -> float:
    """The standard deviation across the plane that the vertices lie nearest to, meters."""
    share = share / share.sum().clamp_min(1e-30)
    away = vertices - (share[:, None] * vertices).sum(0)
    return float(torch.linalg.eigvalsh((share[:, None] * away).T @ away)[0].clamp_min(0)) ** 0.5


def affine_frame(
    vertices: Float[Tensor, "v 3"], share: Float[Tensor, " v"], origin: Float[Tensor, "3"], width: float, what: str
) -> Float[Tensor, "4 v"]:
    """Weights that give the origin and the axes x, y and z from the vertices, exactly at rest.

    The first row sums to 1 and the others to 0, so the frame follows every affine motion of the vertices exactly; among
    such weights these have the least sum of squares, each divided by its vertex's share.

    Args:
        vertices: (V, 3) float64 at rest.
        share: (V,) how much each may count, not negative.
        origin: (3,) where the frame sits at rest.
        width: the mouth's, meters.
        what: for the message.

    Raises:
        ValueError: the vertices with a share lie in a plane or are fewer than four.
    """
    if not is_thick(vertices, share, width):
        raise ValueError(
            f"inner_mouth: {int((share > 0).sum())} vertices were found to follow the {what} by, and they are "
            f"{1e3 * _thickness(vertices, share):.2f} mm thick; pass {what}=, (V,) how far each "
            f"vertex of the mesh moves with the {what}"
        )
    share = share / share.sum()
    places = torch.cat([(vertices - origin) / width, torch.ones_like(vertices[:, :1])], 1)
    weighted = share[:, None] * places
    rows = torch.linalg.solve(places.T @ weighted, weighted.T)
    return torch.cat([rows[3:], rows[:3] / width])
