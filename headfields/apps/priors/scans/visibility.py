"""Visibility of the faces of a head mesh from outside, by ray casting.

Head meshes have surfaces that no scan has: the backs of eyeballs, a closed mouth's inside, the inside of an open neck.
A signed distance trained to be zero there gets sheets inside the head, and no consistent inside.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.mesh_topology import boundary_loops, folded_faces, unique_edges
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import face_normals

__all__ = ["is_visible", "rim_faces", "visible_share"]

_ROUNDS = 8
"""Parts of the directions that `is_visible` tries one after the other."""


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
    index = torch.arange(len(faces)) if which is None else which.nonzero()[:, 0]
    share = vertices.new_ones(len(vertices), len(faces))
    sphere = _sphere(directions).to(vertices)
    for row, (mesh, tree) in enumerate(_capped(vertices, faces)):
        share[row, index] = torch.nan_to_num(_escaping_share(mesh, faces[index], tree, sphere, lift))
    return share


def is_visible(
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    which: Bool[Tensor, " f"] | None = None,
    directions: int = 96,
    lift: float = 1e-4,
) -> Bool[Tensor, "b f"]:
    """Whether `visible_share` of a face is above 0, with a third of the rays: a face is done when one has escaped."""
    index = torch.arange(len(faces)) if which is None else which.nonzero()[:, 0]
    seen = torch.ones(len(vertices), len(faces), dtype=torch.bool)
    sphere = _sphere(directions).to(vertices)
    for row, (mesh, tree) in enumerate(_capped(vertices, faces)):
        hidden = index
        for first in range(_ROUNDS):  # every eighth direction: each part is spread over the sphere
            share = _escaping_share(mesh, faces[hidden], tree, sphere[first::_ROUNDS], lift)
            hidden = hidden[~(share > 0)]
        seen[row, hidden] = False
    return seen


def _capped(
    vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]
) -> Iterator[tuple[Float[Tensor, "v 3"], TriangleBVH]]:
    """The vertices of each mesh, and the search tree of the mesh with its neck closed."""
    count = vertices.shape[1]
    capped, closed = _close_neck(faces, vertices)
    if not len(vertices):
        return
    tree = TriangleBVH(capped, closed[:1])
    for mesh in closed:
        yield mesh[:count], tree.refit(mesh)


def _escaping_share(
    mesh: Float[Tensor, "v 3"], faces: Int[Tensor, "g 3"], tree: TriangleBVH, sphere: Float[Tensor, "n 3"], lift: float
) -> Float[Tensor, " g"]:
    """Share of the directions above each face that leave the head; NaN without one."""
    normal = face_normals(mesh, faces)
    face, ray = (normal @ sphere.T > 0.05).nonzero(as_tuple=True)
    origins = (mesh[faces].mean(1) + lift * normal)[face]
    escaped = (tree.raycast(origins, sphere[ray], max_distance=1.0).face < 0).to(mesh)
    tried = torch.zeros_like(normal[:, 0]).index_add_(0, face, torch.ones_like(escaped))
    return torch.zeros_like(tried).index_add_(0, face, escaped) / tried


def rim_faces(faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """(F,) mask of the faces with a vertex on an open border, beyond which the surface is unknown."""
    ends, edge = unique_edges(faces)
    border = ends[edge.flatten().bincount(minlength=len(ends)) == 1].unique()
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
