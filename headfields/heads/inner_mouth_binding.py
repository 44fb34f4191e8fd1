"""What the inside of a mouth moves with: affine frames of the skull and the jaw, as weights of the mesh's vertices.

Our own choice. A frame is four rows of weights (F, V) whose products with any vertices (V, 3) are an origin and three
axes; least-squares rows over hundreds of vertices, so that no single one's expression shows in it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["affine_frame", "connected", "jaw_share", "skull_share", "vertex_areas"]

_FLAT = 0.03  # of the mouth's width: anchors thinner than this say nothing of what lies off their plane


def vertex_areas(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, " v"]:
    """(V,) a third of the area of the faces around each vertex, so that dense parts of a mesh count no more."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    area = torch.linalg.cross(b - a, c - a).norm(dim=1) / 6
    return vertices.new_zeros(len(vertices)).index_add_(0, faces.reshape(-1), area.repeat_interleave(3))


def connected(faces: Int[Tensor, "f 3"], start: Int[Tensor, " n"], count: int) -> Tensor:
    """(V,) which vertices hang together with those of `start`: the skin, and not eyeballs behind it."""
    label = torch.full((count,), count, dtype=torch.int64, device=faces.device)
    label[start] = 0
    while True:
        least = label[faces].amin(1)
        grown = label.scatter_reduce(0, faces.reshape(-1), least.repeat_interleave(3), "amin")
        if torch.equal(grown, label):
            return label == 0
        label = grown


def _smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def skull_share(local: Float[Tensor, "v 3"]) -> Float[Tensor, " v"]:
    """How far vertices serve as the skull's: all of the skin from the nostrils up.

    Args:
        local: (V, 3) places from the middle of the mouth in units of its width.
    """
    return _smoothstep(local[:, 1], 0.45, 0.85)


def jaw_share(local: Float[Tensor, "v 3"]) -> Float[Tensor, " v"]:
    """How far vertices serve as the jaw's: the chin, off the lips and off the neck.

    Args:
        local: (V, 3) places from the middle of the mouth in units of its width.
    """
    x, y, z = local.unbind(1)
    away = (x / 0.55) ** 2 + ((y + 0.82) / 0.4) ** 2 + ((z - 0.1) / 0.5) ** 2
    return (1 - away).clamp(min=0)


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
        width: the mouth's, metres.
        what: for the message.

    Raises:
        ValueError: the vertices with a share lie in a plane or are fewer than four.
    """
    share = share / share.sum().clamp_min(1e-30)
    places = torch.cat([(vertices - origin) / width, torch.ones_like(vertices[:, :1])], 1)
    mean = (share[:, None] * places[:, :3]).sum(0)
    spread = torch.linalg.eigvalsh((share[:, None] * (places[:, :3] - mean)).T @ (places[:, :3] - mean))
    if int((share > 0).sum()) < 4 or float(spread[0]) < _FLAT**2:
        raise ValueError(
            f"inner_mouth: {int((share > 0).sum())} vertices were found to follow the {what} by, and they are "
            f"{1e3 * width * float(spread[0].clamp_min(0)) ** 0.5:.2f} mm thick; pass {what}=, (V,) how far each vertex "
            f"of the mesh moves with the {what}"
        )
    weighted = share[:, None] * places
    rows = torch.linalg.solve(places.T @ weighted, weighted.T)
    return torch.cat([rows[3:], rows[:3] / width])
