"""Topology of a triangle mesh: its edges, the faces across them, its open borders, its components, and the uniform
Laplacian."""

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headfields.ops._checks import MOST_VERTICES, check_index, check_integer, check_shape
from headfields.ops.functorch_rules import array_of

__all__ = [
    "boundary_loops",
    "directed_edges",
    "edge_neighbors",
    "edges_as_arrays",
    "face_neighbors",
    "folded_faces",
    "open_edges",
    "uniform_laplacian",
    "unique_edges",
    "vertex_components",
]


def directed_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "f 3 2"]:
    """The edges a→b, b→c and c→a of each face: the vertices (F, 3, 2) at their ends."""
    return torch.stack([faces, faces.roll(-1, dims=1)], dim=-1)


def unique_edges(faces: Int[Tensor, "f 3"]) -> tuple[Int[Tensor, "e 2"], Int[Tensor, "f 3"]]:
    """The edges of a mesh, each once whatever its direction, and where the faces have them.

    Args:
        faces: (F, 3) vertex indices.

    Returns:
        (E, 2) int64 vertices, the lower first, in ascending order; and (F, 3) int64 rows of it, those of a→b, b→c and
        c→a. No gradient.

    >>> import torch
    >>> from headfields.ops.mesh_topology import unique_edges
    >>> ends, edge = unique_edges(torch.tensor([[0, 1, 2], [2, 1, 3]]))
    >>> ends.tolist(), edge.tolist()
    ([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]], [[0, 2, 1], [2, 3, 4]])
    """
    low, high = directed_edges(faces.long()).sort(dim=-1).values.unbind(-1)
    count = int(faces.max()) + 1 if faces.numel() else 1
    key, edge = (low * count + high).unique(return_inverse=True)  # many times faster than of pairs
    return torch.stack([key // count, key % count], dim=-1), edge


def edges_as_arrays(faces: Int[np.ndarray, "f 3"]) -> tuple[Int[np.ndarray, "e 2"], Int[np.ndarray, "f 3"]]:
    """`unique_edges` of an array."""
    ends, edge = unique_edges(torch.from_numpy(np.ascontiguousarray(faces, np.int64)))
    return array_of(ends), array_of(edge)


def vertex_components(faces: Int[Tensor, "f 3"], count: int) -> Int[Tensor, " v"]:
    """The connected component (V,), int64, of each of `count` vertices, numbered by the lowest vertex in each."""
    corners = array_of(faces)
    rows, columns = corners[:, :2].ravel(), corners[:, 1:].ravel()
    graph = scipy.sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    label = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    return torch.from_numpy(label.astype(np.int64)).to(faces.device)


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
    >>> hf.ops.mesh_topology.edge_neighbors(torch.tensor([[0, 1, 2], [2, 1, 3]])).tolist()
    [[-1, 1, -1], [0, -1, -1]]
    """
    check_integer("edge_neighbors", "faces", faces)
    check_shape("edge_neighbors", "faces", faces, "f 3")
    check_index("edge_neighbors", "faces", faces, MOST_VERTICES)
    count = faces.shape[0]
    if count == 0:
        return faces.new_empty((0, 3), dtype=torch.long)
    edges = directed_edges(faces).reshape(-1, 2).sort(dim=-1).values.long()
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


def open_edges(faces: Int[Tensor, "f 3"]) -> Bool[Tensor, "f 3"]:
    """Whether the edge opposite each corner of each face is a border: a point with a barycentric coordinate of 0 at
    such a corner lies on the border."""
    return (edge_neighbors(faces) < 0).roll(-1, 1)


def folded_faces(faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """(F,) mask of faces that share all three vertices with another face, as decimation sometimes leaves them.

    Their edges are used once in each direction, which hides borders: remove them before `boundary_loops`.

    Args:
        faces: (F, 3) vertex indices.
    """
    _, inverse, count = faces.sort(dim=1).values.unique(dim=0, return_inverse=True, return_counts=True)
    return count[inverse] > 1


def _unmatched_edges(faces: Int[np.ndarray, "f 3"]) -> list[list[int]]:
    """Directed edges that faces use more often than their reverse: start, end and how much more often, sorted."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    lowest = faces.min(initial=0)
    count = faces.max(initial=0) - lowest + 1
    edge, uses = np.unique((start - lowest) * count + end - lowest, return_counts=True)
    start, end = edge // count, edge % count
    reverse = end * count + start
    place = np.searchsorted(edge, reverse).clip(max=max(len(edge) - 1, 0))
    unmatched = uses - np.where(edge[place] == reverse, uses[place], 0) if len(edge) else uses
    rows = np.stack([start + lowest, end + lowest, unmatched], axis=1)[unmatched > 0]
    return rows.tolist()


def boundary_loops(faces: Int[Tensor, "f 3"]) -> list[Int[Tensor, " l"]]:
    """The open borders of a triangle mesh, longest first.

    Args:
        faces: (F, 3) vertex indices, consistently oriented.

    Returns:
        One tensor of vertex indices per border, each vertex once, in the direction in which the faces run along it,
        starting at its smallest index; borders of equal length are ordered by that index. Empty for a closed mesh.
        Borders that touch in a vertex are borders of their own.

    Raises:
        TypeError: `faces` is not an integer tensor.
        ValueError: its shape is not (F, 3), or the faces are not consistently oriented. (Edges with four faces, as
            decimation leaves them, are no border and are accepted.)

    >>> import torch, headfields as hf
    >>> [loop.tolist() for loop in hf.ops.mesh_topology.boundary_loops(torch.tensor([[0, 1, 2], [2, 1, 3]]))]
    [[0, 1, 3, 2]]
    """
    check_integer("boundary_loops", "faces", faces)
    check_shape("boundary_loops", "faces", faces, "F 3")
    after: dict[int, list[int]] = {}
    for a, b, unmatched in _unmatched_edges(faces.detach().cpu().numpy().astype(np.int64, copy=False)):
        if unmatched > 1:
            raise ValueError(
                f"boundary_loops: faces use the directed edge ({a}, {b}) {unmatched} times more than its reverse; "
                "orient the faces consistently"
            )
        after.setdefault(a, []).append(b)
    loops: list[list[int]] = []
    while after:
        path = [min(after)]
        place = {path[0]: 0}
        while path[-1] in after:
            following = after[path[-1]]
            vertex = following.pop(0)
            if not following:
                del after[path[-1]]
            if vertex in place:  # a loop is closed; as many edges arrive at each vertex as leave it
                loop = path[place[vertex] :]
                loops.append(loop)
                del path[place[vertex] + 1 :]
                for other in loop[1:]:
                    del place[other]
            else:
                place[vertex] = len(path)
                path.append(vertex)
    loops = [loop[loop.index(min(loop)) :] + loop[: loop.index(min(loop))] for loop in loops]
    loops.sort(key=lambda loop: (-len(loop), loop[0]))
    return [torch.tensor(loop, dtype=torch.int64, device=faces.device) for loop in loops]


def face_neighbors(faces: Int[Tensor, "f 3"]) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Pairs of faces that share an edge, each in both orders.

    An edge of three faces links the first to the second and the second to the third; `edge_neighbors` keeps one
    neighbor per edge and misses some.
    """
    edge = unique_edges(faces)[1].reshape(-1)
    owner = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    order = edge.argsort(stable=True)
    edge, owner = edge[order], owner[order]
    same = edge[1:] == edge[:-1]
    one, other = owner[:-1][same], owner[1:][same]
    return torch.cat([one, other]), torch.cat([other, one])


def uniform_laplacian(faces: Int[Tensor, "f 3"], count: int) -> "scipy.sparse.csr_matrix":
    """Graph Laplacian D − A (V, V) of a mesh of `count` vertices, with edge weights of 1; positive semidefinite.

    Self-edges (from merged vertices) are skipped.
    """
    edges = edges_as_arrays(array_of(faces))[0]
    edges = edges[edges[:, 0] != edges[:, 1]]
    half = scipy.sparse.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    adjacency = (half + half.T).tocsr()
    return (scipy.sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency).tocsr()
