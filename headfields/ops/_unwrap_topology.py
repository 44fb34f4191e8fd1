"""Topology of charts: connected components, cuts that make a disc, and boundary loops, in NumPy."""

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from headfields.ops.mesh_topology import edges_as_arrays

_Array = np.ndarray
_FRONT = 30.0  # cost of an edge at the very front, relative to one at the back


@dataclass(frozen=True)
class Corners:
    """A mesh whose faces are joined at some edges only.

    Attributes:
        faces: (F, 3) node of each corner; corners are one node where the faces around a vertex are joined.
        across: (F, 3) the face joined at each edge (a→b, b→c, c→a), or -1.
        vertex: (N,) the vertex that each node stands for.
    """

    faces: Int[_Array, "f 3"]
    across: Int[_Array, "f 3"]
    vertex: Int[_Array, " n"]


def joined_faces(faces: Int[_Array, "f 3"]) -> Int[_Array, "f 3"]:
    """The face across each edge, where exactly two faces share it and run along it in opposite directions; else -1."""
    count = len(faces)
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    edge = edges_as_arrays(faces)[1].reshape(-1)
    uses = np.bincount(edge)
    order = np.argsort(edge, kind="stable")
    begin = np.concatenate([[0], np.cumsum(uses)])[:-1][uses == 2]
    one, other = order[begin], order[begin + 1]
    whole = (faces != np.roll(faces, -1, axis=1)).all(1)  # no vertex twice
    apart = (start[one] == end[other]) & (one // 3 != other // 3) & whole[one // 3] & whole[other // 3]
    one, other = one[apart], other[apart]
    across = np.full(3 * count, -1, np.int64)
    across[one], across[other] = other // 3, one // 3
    return across.reshape(count, 3)


def split(faces: Int[_Array, "f 3"], across: Int[_Array, "f 3"]) -> Corners:
    """Merges corners into nodes where their faces are joined, so that the boundary consists of simple loops."""
    face, side = np.nonzero(across > np.arange(len(faces))[:, None])
    other = across[face, side]
    end = (side + 1) % 3
    pairs = []
    for corner in (side, end):
        match = faces[other] == faces[face, corner][:, None]
        pairs.append((3 * face + corner, 3 * other + match.argmax(1)))
    one, two = (np.concatenate([pair[k] for pair in pairs]) for k in range(2))
    graph = scipy.sparse.coo_matrix((np.ones(len(one)), (one, two)), shape=(faces.size, faces.size))
    count, node = (
        scipy.sparse.csgraph.connected_components(graph, directed=False) if faces.size else (0, np.zeros(0, np.int64))
    )
    vertex = np.zeros(count, np.int64)
    vertex[node] = faces.reshape(-1)
    return Corners(node.reshape(-1, 3).astype(np.int64), across, vertex)


def components(across: Int[_Array, "f 3"]) -> Int[_Array, " f"]:
    """The number of the component that each face is in; numbered by their first faces."""
    face, side = np.nonzero(across >= 0)
    count = len(across)
    graph = scipy.sparse.coo_matrix((np.ones(len(face)), (face, across[face, side])), shape=(count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1] if count else np.zeros(0, np.int64)


def loops(mesh: Corners) -> list[Int[_Array, " k"]]:
    """The boundary's loops of nodes, along the direction of the faces; each begins at its lowest node."""
    face, side = np.nonzero(mesh.across < 0)
    following = dict(zip(mesh.faces[face, side].tolist(), mesh.faces[face, (side + 1) % 3].tolist(), strict=True))
    boundary = []
    for begin in sorted(following):
        if begin not in following:
            continue
        loop, node = [], begin
        while node in following:
            loop.append(node)
            node = following.pop(node)
        boundary.append(np.array(loop, np.int64))
    return boundary


def cut_handles(mesh: Corners, positions: Float[_Array, "n 3"], seed: int) -> Bool[_Array, "f 3"]:
    """Edges to cut so that the mesh flattens onto a disc: none if there are no handles and at most one boundary.

    A tree over the faces, by distance from face `seed`, joins them all without a cycle; cutting every other edge
    leaves a disc. Cuts with a free end are closed again until there are none.

    Source: Gu, Gortler and Hoppe 2002, "Geometry images", section 3.
    """
    count = len(mesh.faces)
    center = positions[mesh.faces].mean(1)
    face, side = np.nonzero(mesh.across >= 0)
    other = mesh.across[face, side]
    length = np.linalg.norm(center[face] - center[other], axis=1) + 1e-12
    graph = scipy.sparse.csr_matrix((length, (face, other)), shape=(count, count))
    _, before = scipy.sparse.csgraph.dijkstra(graph, indices=seed, return_predecessors=True)
    tree = (before[mesh.across.clip(0)] == np.arange(count)[:, None]) | (before[:, None] == mesh.across)
    cut = ~tree | (mesh.across < 0)
    start, end = mesh.faces, np.roll(mesh.faces, -1, axis=1)
    while True:
        low, high = np.minimum(start, end)[cut], np.maximum(start, end)[cut]
        edges = np.unique(np.stack([low, high], 1), axis=0)
        degree = np.bincount(edges.reshape(-1), minlength=len(mesh.vertex))
        free = cut & ((degree[start] == 1) | (degree[end] == 1)) & (mesh.across >= 0)
        if not free.any():
            return cut & (mesh.across >= 0)
        cut &= ~free


def path_edges(mesh: Corners, path: Int[_Array, " k"]) -> Bool[_Array, "f 3"]:
    """The edges between consecutive nodes of a path."""
    steps = {tuple(sorted(pair)) for pair in zip(path[:-1].tolist(), path[1:].tolist(), strict=True)}
    start, end = mesh.faces, np.roll(mesh.faces, -1, axis=1)
    low, high = np.minimum(start, end).reshape(-1).tolist(), np.maximum(start, end).reshape(-1).tolist()
    on = np.array([pair in steps for pair in zip(low, high, strict=True)], bool)
    return on.reshape(mesh.faces.shape) & (mesh.across >= 0)


def cut(mesh: Corners, where: Bool[_Array, "f 3"], faces: Int[_Array, "f 3"]) -> Corners:
    """The mesh, cut along the edges `where`."""
    return split(faces, np.where(where, -1, mesh.across))


def edge_graph(mesh: Corners, positions: Float[_Array, "n 3"]) -> "scipy.sparse.csr_matrix":
    """Graph of the nodes along edges, weighted by length, which costs more toward the front."""
    edges = edges_as_arrays(mesh.faces)[0]
    length = np.linalg.norm(positions[edges[:, 0]] - positions[edges[:, 1]], axis=1) + 1e-12
    depth = positions[:, 2] - positions[:, 2].min()
    forward = depth[edges].mean(1) / max(float(depth.max()), 1e-12)
    weight = length * (1 + _FRONT * forward**2)
    return scipy.sparse.csr_matrix((weight, (edges[:, 0], edges[:, 1])), shape=(len(mesh.vertex),) * 2)
