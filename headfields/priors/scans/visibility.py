"""Which parts of a head mesh a scanner would have seen: those from which a ray gets out.

Head meshes hold surfaces that no scan has: the backs of eyeballs, the mouth while it is closed, the inside of an open
neck. A signed distance that is told to be zero there has sheets within the head, and no side that is inside.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.heads.mouth.closing import boundary_loops, folded_faces
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import face_normals

__all__ = ["rim_faces", "visible_share"]


def visible_share(
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    which: Bool[Tensor, " f"] | None = None,
    directions: int = 96,
    lift: float = 1e-4,
) -> Float[Tensor, "b f"]:
    """The share of rays from the front of each face, in all directions before it, that leave the head.

    The neck (the largest open border) is closed by a cap first, so that nothing is seen through it. Eye sockets stay
    open: their eyeballs are behind them.

    Args:
        vertices: (B, V, 3) meters.
        faces: (F, 3) counter-clockwise seen from outside.
        which: (F,) the faces that are asked about; the others get 1. All if None.
        directions: how many directions are tried, spread evenly over the sphere; half of them lie before a face.
        lift: how far above the face its rays begin, meters.
    """
    count = vertices.shape[1]
    capped, vertices = _close_neck(faces, vertices)
    index = torch.arange(len(faces)) if which is None else which.nonzero()[:, 0]
    share = vertices.new_ones(len(vertices), len(faces))
    sphere = _sphere(directions).to(vertices)
    tree = TriangleBVH(capped, vertices[:1]) if len(vertices) else None
    for row, mesh in enumerate(vertices):
        assert tree is not None
        corners = mesh[:count][faces[index]]
        normal = face_normals(mesh[:count], faces[index])
        face, ray = (normal @ sphere.T > 0.05).nonzero(as_tuple=True)
        origins = (corners.mean(1) + lift * normal)[face]
        free = (tree.refit(mesh).raycast(origins, sphere[ray], max_distance=1.0).face < 0).to(mesh)
        tried = torch.zeros_like(normal[:, 0]).index_add_(0, face, torch.ones_like(free))
        got_out = torch.zeros_like(tried).index_add_(0, face, free)
        share[row, index] = got_out / tried.clamp_min(1)
    return share


def rim_faces(faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """Faces with a vertex on an open border; beyond them nobody knows how the surface goes on."""
    edges = torch.stack([faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]], -1).reshape(-1, 2)
    _, inverse, uses = edges.sort(-1).values.unique(dim=0, return_inverse=True, return_counts=True)
    border = edges[uses[inverse] == 1].unique()
    return torch.isin(faces, border).any(1)


def _sphere(count: int) -> Float[Tensor, "n 3"]:
    """Unit directions spread evenly: a spiral of the golden angle."""
    place = torch.arange(count) + 0.5
    z = 1 - 2 * place / count
    turn = place * math.pi * (3 - 5**0.5)
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1)


def _close_neck(faces: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Faces with a fan over the border of the greatest extent, and vertices with the fan's middle."""
    loops = boundary_loops(faces[~folded_faces(faces)])
    if not loops or not len(vertices):
        return faces, vertices

    def extent(loop: Tensor) -> float:
        points = vertices[0, loop]
        return float((points.amax(0) - points.amin(0)).norm())

    loop = max(loops, key=extent)
    middle = vertices[:, loop].mean(1, keepdim=True)
    tip = torch.full_like(loop, vertices.shape[1])
    return torch.cat([faces, torch.stack([loop.roll(-1), loop, tip], -1)]), torch.cat([vertices, middle], 1)
