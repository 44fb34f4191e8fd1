"""Visibility of the faces of a head mesh from outside, by ray casting.

Head meshes have surfaces that no scan has: the backs of eyeballs, a closed mouth's inside, the inside of an open neck.
A signed distance trained to be zero there gets sheets inside the head, and no consistent inside.
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
    """Share (B, F) of the rays into the hemisphere above each face that escape from the head.

    A cap closes the neck (the open border of greatest extent) first. Eye sockets stay open: the eyeballs are behind
    them.

    Args:
        vertices: (B, V, 3) meters.
        faces: (F, 3) counter-clockwise seen from outside.
        which: (F,) mask of the faces to test; the others get 1. All if None.
        directions: number of directions, uniform over the sphere; half of them are in a face's hemisphere.
        lift: height of the ray origins above the face, meters.
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
        escaped = (tree.refit(mesh).raycast(origins, sphere[ray], max_distance=1.0).face < 0).to(mesh)
        tried = torch.zeros_like(normal[:, 0]).index_add_(0, face, torch.ones_like(escaped))
        escapes = torch.zeros_like(tried).index_add_(0, face, escaped)
        share[row, index] = escapes / tried.clamp_min(1)
    return share


def rim_faces(faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """(F,) mask of the faces with a vertex on an open border, beyond which the surface is unknown."""
    edges = torch.stack([faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]], -1).reshape(-1, 2)
    _, inverse, uses = edges.sort(-1).values.unique(dim=0, return_inverse=True, return_counts=True)
    border = edges[uses[inverse] == 1].unique()
    return torch.isin(faces, border).any(1)


def _sphere(count: int) -> Float[Tensor, "n 3"]:
    """(N, 3) near-uniform unit directions: a spiral of the golden angle."""
    place = torch.arange(count) + 0.5
    z = 1 - 2 * place / count
    turn = place * math.pi * (3 - 5**0.5)
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1)


def _close_neck(faces: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Faces and vertices with a fan over the open border of greatest extent."""
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
