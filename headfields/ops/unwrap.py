"""Mesh unwrapping: texture coordinates for a mesh that has none, one chart for each connected piece."""

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops import _unwrap_topology as topology
from headfields.ops._checks import check_floating, check_integer, check_same_device, check_shape
from headfields.ops._unwrap_flatten import flatten, pack, sizes, upright
from headfields.ops.functorch_rules import array_of
from headfields.ops.mesh_topology import edges_as_arrays

_SMALLEST = 0.04  # least radius of a chart, relative to the largest
_SHORT = 0.5  # a boundary shorter than this part of the circle of equal area is lengthened by a cut


def unwrap(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    margin: float | int = 1 / 64,
    detail: float | int = 0.5,
    weights: Float[Tensor, " f"] | None = None,
) -> tuple[Float[Tensor, "t 2"], Int[Tensor, "f 3"]]:
    """Texture coordinates without overlaps: one round chart for each connected piece of the mesh.

    Made for convolutions over the map, for which neighbors on the surface should be neighbors in the map: few charts
    rather than little distortion. A head's skin is one chart, cut from the neck up the back to the crown; so is each
    eyeball. Faces that close a mouth or an eye socket belong to the piece that they are connected to. No face folds
    over another, up to rounding of very small ones.

    Edges of three faces or more, and of two faces of opposite orientation, are left open. The same input gives the same
    output, up to rounding on other processors: save the result with the model that is trained on it. Our own choice,
    from published parts: cuts by Gu et al. 2002, a fold-free map by Tutte 1963 and Floater 2003, its stretch minimized
    by Yoshizawa et al. 2004, and relaxed by Rabinovich et al. 2017, which bounds how much faces shear.

    Args:
        vertices: (V, 3) meters, y up, the face toward +z, so that cuts run at the back.
        faces: (F, 3).
        margin: least distance between charts, and half of it to the border, in texture coordinates.
        detail: a triangle's share of the map is its area^(1 − detail): 0 in proportion, 1 the same for every triangle;
            between them, finely meshed features of a face get more than the scalp.
        weights: (F,) factors on the shares of the faces, above 0; None: all the same. A face gets its share as far as
            the outline and its neighbors let it: an inside of a mouth, deep in the chart, gets less.

    Returns:
        uv (T, 2) in [0, 1], v up, and uv_faces (F, 3), on the device of the vertices. No gradient.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, an index is out of range, vertices are not finite, margin is not in
            [0, 0.25], detail not in [0, 1], weights not finite and above 0, or there are more pieces than fit with
            the margin.

    >>> import torch, headfields as hf
    >>> faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    >>> uv, uv_faces = hf.ops.unwrap(corners, faces)
    >>> uv.shape, uv_faces.shape
    (torch.Size([4, 2]), torch.Size([2, 3]))
    """
    _check(vertices, faces, margin, detail, weights)
    positions, triangles = array_of(vertices.double()), array_of(faces.long())
    across = topology.joined_faces(triangles)
    piece = topology.components(across)
    shares = _target_shares(positions[triangles], float(detail))
    if weights is not None:
        shares = shares * array_of(weights.double())
    charts: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    for number in range(int(piece.max(initial=-1)) + 1):
        mine = np.nonzero(piece == number)[0]
        index = np.full(len(triangles), -1)
        index[mine] = np.arange(len(mine))
        own = triangles[mine]
        joined = np.where(across[mine] >= 0, index[across[mine].clip(0)], -1)
        mesh = _opened(own, joined, positions)
        local = positions[mesh.vertex]
        charts.append((mine, mesh.faces, upright(flatten(mesh, local, shares[mine]), local), float(shares[mine].sum())))
    uv, uv_faces, offset = [], np.zeros_like(triangles), 0
    if charts:
        radii = np.sqrt([max(area, 1e-30) for *_, area in charts])
        radii = np.maximum(radii, _SMALLEST * radii.max())
        centers, scale = pack(radii, float(margin))
        for (mine, nodes, flat, _), center, radius in zip(charts, centers, scale * radii, strict=True):
            uv.append(center + radius * flat)
            uv_faces[mine] = nodes + offset
            offset += len(flat)
    coordinates = torch.from_numpy(np.concatenate([np.zeros((0, 2)), *uv])).float().clamp(0, 1)
    return coordinates.to(vertices.device), torch.from_numpy(uv_faces).to(vertices.device)


def _target_shares(corners: np.ndarray, detail: float) -> np.ndarray:
    """The target share of the map of each face, of a sum near 1."""
    area = sizes(corners)
    mean = max(float(area.mean()), 1e-300) if len(area) else 1.0
    share: np.ndarray = np.maximum(area / mean, 1e-2) ** (1 - detail) / max(len(area), 1)
    return share


def _opened(faces: np.ndarray, joined: np.ndarray, positions: np.ndarray) -> topology.Corners:
    """One connected piece, cut so that it flattens onto a disc with little stretch."""
    mesh = topology.split(faces, joined)
    front = int(positions[faces].mean(1)[:, 2].argmax())
    edges = len(edges_as_arrays(mesh.faces)[0])
    holes = len(topology.loops(mesh))
    if len(mesh.vertex) - edges + len(faces) + holes < 2:  # it has handles
        mesh = topology.cut(mesh, topology.cut_handles(mesh, positions[mesh.vertex], front), faces)
    local = positions[mesh.vertex]
    rims = topology.loops(mesh)
    corners = local[mesh.faces]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    length = [float(np.linalg.norm(np.roll(local[r], -1, 0) - local[r], axis=1).sum()) for r in rims]
    longest = int(np.argmax(length)) if rims else -1
    # Two nodes are no outline: two faces on each other, joined along two edges, have such a one.
    if not rims or len(rims[longest]) < 3 or length[longest] < _SHORT * 2 * np.sqrt(np.pi * area):
        where = np.zeros(mesh.faces.shape, bool)
        for path in _seams(mesh, local, rims):
            where |= topology.path_edges(mesh, path)
        mesh = topology.cut(mesh, where, faces)
    return mesh


def _seams(mesh: topology.Corners, positions: np.ndarray, rims: list[np.ndarray]) -> list[np.ndarray]:
    """Paths of nodes to cut along: from the longest boundary up the back; on a closed piece, up and down from there."""
    graph = topology.edge_graph(mesh, positions)
    depth, height = positions[:, 2], positions[:, 1]
    if rims:
        rim = max(rims, key=lambda r: np.linalg.norm(np.roll(positions[r], -1, 0) - positions[r], axis=1).sum())
        begin = int(rim[depth[rim].argmin()])
    else:
        begin = int(depth.argmin())
    away, before = scipy.sparse.csgraph.dijkstra(graph, directed=False, indices=begin, return_predecessors=True)
    free = np.isfinite(away)
    free[begin] = False
    if rims:
        inner = free.copy()
        inner[np.concatenate(rims)] = False
        ends = _highest(height, inner if inner.any() else free)
    else:
        # At least two of them, so that the cut has ends apart and its outline three corners.
        free &= away <= max(0.4 * away[free].max(initial=0), np.sort(away[free])[:2].max(initial=0))
        ends = _highest(height, free)
        free[ends] = False
        ends += _highest(-height, free)
    paths = []
    for end in ends:
        path = [end]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        paths.append(np.array(path))
    return paths


def _highest(height: np.ndarray, among: np.ndarray) -> list[int]:
    return [int(np.where(among, height, -np.inf).argmax())] if among.any() else []


def _check(vertices: Tensor, faces: Tensor, margin: float, detail: float, weights: Tensor | None) -> None:
    op = "unwrap"
    check_floating(op, "vertices", vertices)
    check_integer(op, "faces", faces)
    check_shape(op, "vertices", vertices, "V 3")
    check_shape(op, "faces", faces, "F 3")
    check_same_device(op, vertices=vertices, faces=faces, weights=weights)
    if not 0 <= margin <= 0.25:
        raise ValueError(f"{op}: margin is {margin}; expected a part of the map in [0, 0.25]")
    if not 0 <= detail <= 1:
        raise ValueError(f"{op}: detail is {detail}; expected a number in [0, 1]")
    if faces.numel() and (int(faces.min()) < 0 or int(faces.max()) >= len(vertices)):
        raise ValueError(
            f"{op}: faces holds indices from {int(faces.min())} to {int(faces.max())}, but vertices has "
            f"{len(vertices)}; indices must lie in [0, {len(vertices)})"
        )
    if not bool(vertices.isfinite().all()):
        raise ValueError(f"{op}: vertices holds values that are not finite; remove those vertices and their faces")
    if weights is not None:
        check_floating(op, "weights", weights)
        check_shape(op, "weights", weights, f"{len(faces)}")
        if not bool((weights.isfinite() & (weights > 0)).all()):
            raise ValueError(f"{op}: weights holds values that are not finite or not above 0; a face needs some room")
