"""Vertices with one texture coordinate each, as glTF, trimesh and graphics cards have them, from a mesh with seams."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.records import Record

__all__ = ["SplitVertices", "split_at_seams"]


@dataclass(frozen=True)
class SplitVertices(Record):
    """N vertices that each have one texture coordinate; N is V and one more for every further coordinate of a vertex.

    Attributes:
        vertex: (N,) the mesh's vertex of each; the first V are the mesh's own, in order.
        uv: (N, 2) texture coordinates, v up; 0 for a vertex of no face.
        faces: (F, 3) indices of these vertices.
    """

    vertex: Int[Tensor, " n"]
    uv: Float[Tensor, "n 2"]
    faces: Int[Tensor, "f 3"]


def split_at_seams(mesh: Mesh) -> SplitVertices:
    """Copies the vertices that have several texture coordinates.

    Args:
        mesh: with texture coordinates.

    Returns:
        The vertices; `mesh.vertices[split.vertex]` are their positions. Not differentiable in `faces`.

    Raises:
        ValueError: the mesh has no texture coordinates, or too few for its faces.

    >>> import torch, headfields as hf
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    >>> mesh = hf.Mesh(corners, torch.tensor([[0, 1, 2], [2, 1, 3]]), uv=torch.rand(6, 2),
    ...                uv_faces=torch.tensor([[0, 1, 2], [3, 4, 5]]))
    >>> hf.mesh.split_at_seams(mesh).vertex.tolist()
    [0, 1, 2, 3, 1, 2]
    """
    if mesh.uv is None:
        raise ValueError("split_at_seams: the mesh has no texture coordinates (uv); headfields.ops.unwrap makes some")
    corner = mesh.faces.long().reshape(-1)
    row = corner if mesh.uv_faces is None else mesh.uv_faces.long().reshape(-1)
    if len(row) and not (int(row.min()) >= 0 and int(row.max()) < len(mesh.uv)):
        raise ValueError(
            f"split_at_seams: faces name texture coordinates {int(row.min())} to {int(row.max())}, but there are "
            f"{len(mesh.uv)}"
        )
    count, width = len(mesh.vertices), max(len(mesh.uv), 1)
    pair, which = (corner * width + row).unique(return_inverse=True)
    vertex, coordinate = pair // width, pair % width
    first = torch.ones_like(vertex, dtype=torch.bool)
    first[1:] = vertex[1:] != vertex[:-1]  # pairs are sorted by vertex
    place = torch.where(first, vertex, count - 1 + (~first).cumsum(0))
    total = count + int((~first).sum())
    source = torch.arange(total, device=corner.device)
    source[place] = vertex
    uv = mesh.uv.new_zeros(total, 2)
    uv[place] = mesh.uv[coordinate]
    return SplitVertices(source, uv, place[which].reshape(-1, 3))
