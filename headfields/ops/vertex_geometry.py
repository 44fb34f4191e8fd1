"""Geometry of a triangle mesh at its vertices and faces: normals, areas, neighbors, and the uniform Laplacian."""

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import (
    MOST_VERTICES,
    check_faces,
    check_floating,
    check_index,
    check_integer,
    check_shape,
)
from headfields.ops.functorch_rules import array_of
from headfields.ops.vectors import unit_vectors

__all__ = [
    "cross_areas",
    "edge_neighbors",
    "face_crosses",
    "face_neighbors",
    "face_normals",
    "triangle_areas",
    "uniform_laplacian",
    "vertex_areas",
    "vertex_normals",
]


def face_crosses(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3"]:
    """(b − a) × (c − a) of every face: its normal, by the winding, times twice its area. Differentiable."""
    a, b, c = (vertices[..., faces[:, corner], :] for corner in range(3))
    return torch.linalg.cross(b - a, c - a)


def face_normals(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3"]:
    """Unit normals of faces that run counter-clockwise seen from outside.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F, 3); 0, with a gradient of 0, for a face without area (under 1e-18 m²). Differentiable to any order.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        IndexError: faces is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> hf.ops.face_normals(corners, torch.tensor([[0, 1, 2]])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    _check("face_normals", vertices, faces)
    return unit_vectors(face_crosses(vertices, faces))


def vertex_normals(
    vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"], unit: bool = True
) -> Float[Tensor, "*batch v 3"]:
    """Normals of vertices: the mean of the normals of the faces around each, weighted by area.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices, counter-clockwise seen from outside.
        unit: whether to normalize. If False, return the sum of the faces' normals, each times twice its area.

    Returns:
        (..., V, 3); 0, with a gradient of 0, where there is no face or the faces cancel. Differentiable to any order.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        IndexError: faces is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> corners, faces = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), torch.tensor([[0, 1, 2]])
    >>> hf.ops.vertex_normals(corners, faces).tolist()  # the last vertex belongs to no face
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    _check("vertex_normals", vertices, faces)
    crosses = face_crosses(vertices, faces)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(-2, faces[:, corner], crosses)
    return unit_vectors(total) if unit else total


def triangle_areas(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f"]:
    """Area of every triangle.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F), square meters. Differentiable to any order; the gradient at a triangle without area is zero.

    Raises:
        TypeError, ValueError, IndexError: as `face_normals`.
    """
    _check("triangle_areas", vertices, faces)
    return cross_areas(face_crosses(vertices, faces))


def cross_areas(crosses: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Areas of triangles with these `face_crosses`; the gradient at a triangle without area is zero."""
    squared = (crosses * crosses).sum(-1)
    flat = squared <= 0
    return torch.where(flat, 0.0, 0.5 * torch.where(flat, 1.0, squared).sqrt())


def vertex_areas(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, " v"]:
    """A third of the area of the faces around each vertex; the sum is the area of the mesh. Differentiable.

    Args:
        vertices: (V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (V,), square meters.

    Raises:
        TypeError, ValueError, IndexError: as `face_normals`.
    """
    check_shape("vertex_areas", "vertices", vertices, "V 3")
    _check("vertex_areas", vertices, faces)
    third = triangle_areas(vertices, faces) / 3
    return vertices.new_zeros(len(vertices)).index_add(0, faces.flatten(), third.repeat_interleave(3))


def edge_neighbors(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "f 3"]:
    """The face across each edge (a→b, b→c, c→a) of every face, −1 at a boundary.

    At a non-manifold edge, each face gets one of the others. A face is never its own neighbor: of a degenerate one that
    has an edge twice, the second counts as a boundary.

    Args:
        faces: (F, 3) vertex indices.

    Returns:
        (F, 3) int64. No gradient.

    Raises:
        TypeError: faces are not integers.
        ValueError: faces are not (F, 3).
        IndexError: faces holds a negative index, or one above 2^31 - 1 (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> hf.ops.edge_neighbors(torch.tensor([[0, 1, 2], [2, 1, 3]])).tolist()
    [[-1, 1, -1], [0, -1, -1]]
    """
    check_integer("edge_neighbors", "faces", faces)
    check_shape("edge_neighbors", "faces", faces, "f 3")
    check_index("edge_neighbors", "faces", faces, MOST_VERTICES)
    count = faces.shape[0]
    if count == 0:
        return faces.new_empty((0, 3), dtype=torch.long)
    edges = torch.stack([faces, faces.roll(-1, dims=1)], dim=-1).reshape(-1, 2).sort(dim=-1).values.long()
    key = edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1]
    own = key.view(count, 3)  # a second occurrence within a face gets a key that no other edge has
    second, third = own[:, 1] == own[:, 0], (own[:, 2] == own[:, 0]) | (own[:, 2] == own[:, 1])
    again = torch.stack([torch.zeros_like(second), second, third], dim=1)
    key = torch.where(again.view(-1), -1 - torch.arange(3 * count, device=key.device), key)
    order = torch.argsort(key, stable=True)
    face = torch.arange(count, device=faces.device).repeat_interleave(3)[order]
    key = key[order]
    following = torch.full_like(face, -1)
    same = key[1:] == key[:-1]
    following[:-1][same] = face[1:][same]
    preceding = torch.full_like(face, -1)
    preceding[1:][same] = face[:-1][same]
    other = torch.where(following >= 0, following, preceding)
    neighbors = torch.empty_like(other)
    neighbors[order] = other
    return neighbors.reshape(count, 3)


def face_neighbors(faces: Int[Tensor, "f 3"]) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Pairs of faces that share an edge, each in both orders.

    An edge of three faces links the first to the second and the second to the third; `edge_neighbors` keeps one
    neighbor per edge and misses some.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values
    owner = torch.arange(len(faces)).repeat_interleave(3)
    _, edge = edges.unique(dim=0, return_inverse=True)
    order = edge.argsort(stable=True)
    edge, owner = edge[order], owner[order]
    same = edge[1:] == edge[:-1]
    one, other = owner[:-1][same], owner[1:][same]
    return torch.cat([one, other]), torch.cat([other, one])


def uniform_laplacian(faces: Int[Tensor, "f 3"], count: int) -> scipy.sparse.csr_matrix:
    """Graph Laplacian D − A (V, V) of a mesh of `count` vertices, with edge weights of 1; positive semidefinite.

    Self-edges (from merged vertices) are skipped.
    """
    corners = array_of(faces)
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), 1)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    half = scipy.sparse.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    adjacency = (half + half.T).tocsr()
    return (scipy.sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency).tocsr()


def _check(op: str, vertices: Tensor, faces: Tensor) -> None:
    check_floating(op, "vertices", vertices)
    check_shape(op, "vertices", vertices, "... V 3")
    check_faces(op, vertices, faces)
