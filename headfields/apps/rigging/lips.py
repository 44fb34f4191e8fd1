"""The lips of a scan: detection of an open mouth, cutting a sealed one, and labels of the upper and lower side.

Our own choice throughout: the lip line is a height y(x) in the head's frame, and the cut is its level set.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.rigging.mesh_repair import close_pinholes
from headfields.mesh.mesh import Mesh
from headfields.ops.mesh_topology import edges_as_arrays
from headfields.ops.vertex_geometry import vertex_normals

__all__ = ["LipCut", "cut_lips", "lip_sides", "lips_parted"]

_ASIDE = 0.25  # over the mouth width: greatest distance beyond the corners of a vertex with a side
_DETOUR = 1.6  # geodesic over Euclidean distance between the lips above which the surface is open between them
_SNAP = 0.15  # over the edge length: a crossing nearer to an end moves that vertex onto the line


def _edge_graph(vertices: np.ndarray, faces: np.ndarray) -> scipy.sparse.csr_matrix:
    edges = edges_as_arrays(faces)[0]
    lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) + 1e-12
    shape = (len(vertices), len(vertices))
    graph = scipy.sparse.coo_matrix((lengths, (edges[:, 0], edges[:, 1])), shape=shape)
    return (graph + graph.T).tocsr()


class _LipLine:
    """The lip line as a height y(x), and positions relative to it."""

    def __init__(self, line: Float[Tensor, "n 3"]) -> None:
        points = line.detach().double().cpu().numpy()
        self.points = points[np.argsort(points[:, 0], kind="stable")]
        self.width = float(self.points[-1, 0] - self.points[0, 0])

    def above(self, points: np.ndarray) -> np.ndarray:
        """Signed height of points above the line, meters; the line is extended straight beyond its ends."""
        p = self.points
        height = np.interp(points[:, 0], p[:, 0], p[:, 1])
        for end, inner, beyond in (
            (0, min(3, len(p) - 1), points[:, 0] < p[0, 0]),
            (-1, -min(4, len(p)), points[:, 0] > p[-1, 0]),
        ):
            run = p[inner, 0] - p[end, 0]
            slope = (p[inner, 1] - p[end, 1]) / run if abs(run) > 1e-12 else 0.0
            height = np.where(beyond, p[end, 1] + slope * (points[:, 0] - p[end, 0]), height)
        return points[:, 1] - height

    def behind(self, points: np.ndarray) -> np.ndarray:
        """Signed depth of points behind the line, meters."""
        return np.interp(points[:, 0], self.points[:, 0], self.points[:, 2]) - points[:, 2]

    def within(self, points: np.ndarray) -> np.ndarray:
        return (points[:, 0] > self.points[0, 0]) & (points[:, 0] < self.points[-1, 0])


def _outer_lip_vertices(
    positions: np.ndarray, normal: np.ndarray, line: _LipLine, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the outer, forward-facing skin just above and just below the line."""
    above = line.above(positions)
    # Vertices in the slit itself lie on either side of the line by chance, so they are excluded.
    near = line.within(positions) & (line.behind(positions) < 0.12 * line.width) & (normal[:, 2] > 0.15)
    near &= (np.abs(above) < reach) & (np.abs(above) > 0.03 * line.width)
    return near & (above > 0), near & (above < 0)


def lips_parted(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], line: Float[Tensor, "n 3"]
) -> Bool[Tensor, " n"]:
    """Whether the surface is open between the lips at each point of the lip line, (N,).

    The lips are parted where the geodesic distance from upper to lower lip is long although they are close in space.
    Pinholes (`close_pinholes`) do not count.

    Args:
        vertices, faces: (V, 3) meters and (F, 3) of the mesh, lips closed.
        line: (N, 3) from the head's right corner to the left one.
    """
    closed = close_pinholes(Mesh(vertices.detach().cpu(), faces.cpu()), line.detach().cpu())
    vertices, faces = closed.vertices, closed.faces
    positions, triangles = vertices.detach().double().cpu().numpy(), faces.cpu().numpy()
    lip_line = _LipLine(line)
    normal = vertex_normals(vertices.detach().double().cpu(), faces.cpu().long()).numpy()
    upper, lower = _outer_lip_vertices(positions, normal, lip_line, 0.16 * lip_line.width)
    parted = np.zeros(len(lip_line.points), bool)
    if not upper.any() or not lower.any():
        return torch.from_numpy(parted)
    graph = _edge_graph(positions, triangles)
    limit = 0.4 * lip_line.width
    for k, point in enumerate(lip_line.points):
        beside = np.abs(positions[:, 0] - point[0]) < 0.1 * lip_line.width
        if (upper & beside).any() and (lower & beside).any():
            upper_near = np.nonzero(upper & beside)[0]
            geodesic = scipy.sparse.csgraph.dijkstra(
                graph, directed=False, indices=upper_near, limit=limit, min_only=True
            )
            lower_near = np.nonzero(lower & beside)[0]
            euclidean = np.linalg.norm(positions[lower_near][:, None] - positions[upper_near][None], axis=2).min(1)
            parted[k] = (geodesic[lower_near] > np.maximum(0.22 * lip_line.width, _DETOUR * euclidean)).all()
    order = np.argsort(line.detach().cpu().double().numpy()[:, 0], kind="stable")
    return torch.from_numpy(parted[np.argsort(order, kind="stable")])


def lip_sides(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], line: Float[Tensor, "n 3"]
) -> Int[Tensor, " v"]:
    """Labels of the upper (1) and lower (-1) side of the mouth, (V,).

    The label is 0 away from the mouth, at its corners, and where the geodesic distances to both lips are about equal.

    Args:
        vertices, faces: (V, 3) meters and (F, 3) of the mesh, lips parted or cut.
        line: (N, 3) where the lips meet.
    """
    positions, triangles = vertices.detach().double().cpu().numpy(), faces.cpu().numpy()
    lip_line = _LipLine(line)
    normal = vertex_normals(vertices.detach().double().cpu(), faces.cpu().long()).numpy()
    reach = 0.14 * lip_line.width
    upper, lower = _outer_lip_vertices(positions, normal, lip_line, reach)
    side = np.zeros(len(positions), np.int64)
    if upper.any() and lower.any():
        graph = _edge_graph(positions, triangles)
        limit = 1.2 * lip_line.width
        geodesics = [
            scipy.sparse.csgraph.dijkstra(graph, directed=False, indices=np.nonzero(lip)[0], limit=limit, min_only=True)
            for lip in (upper, lower)
        ]
        geodesics = [np.minimum(geodesic, 10 * limit) for geodesic in geodesics]
        nearer, farther = np.minimum(*geodesics), np.maximum(*geodesics)
        beside = np.abs(positions[:, 0] - lip_line.points[[0, -1], 0].mean()) < (0.5 + _ASIDE) * lip_line.width
        labeled = beside & (nearer <= 0.8 * lip_line.width) & (farther - nearer > 0.15 * nearer + 0.02 * lip_line.width)
        side[labeled & (geodesics[0] < geodesics[1])] = 1
        side[labeled & (geodesics[0] > geodesics[1])] = -1
    return torch.from_numpy(side)


@dataclass(frozen=True)
class LipCut:
    """A mesh with its lips cut apart.

    Attributes:
        mesh: each vertex on the line is duplicated, one copy per lip. Faces and texture coordinates are split where the
            line crosses them; both lips share the texture coordinates on the line.
        upper, lower: (N,) vertices of each lip on the line, from the right corner to the left one. The first and last
            are the corners, which the lips share.
        origin: (V,) index of each vertex in the input mesh; -1 for vertices that the cut created.
    """

    mesh: Mesh
    upper: Int[Tensor, " n"]
    lower: Int[Tensor, " n"]
    origin: Int[Tensor, " v"]


def cut_lips(mesh: Mesh, line: Float[Tensor, "n 3"]) -> LipCut:
    """Cuts a sealed mouth open along the lip line.

    Front faces that the height y(x) of the line crosses between its ends are split. A crossing near a vertex moves that
    vertex (by at most 15 % of the edge) instead of leaving a sliver. Nothing else changes.

    Args:
        mesh: lips sealed, y up, face toward +z, meters.
        line: (N, 3) from the head's right corner to the left one; x increases along it.

    Raises:
        ValueError: fewer than three connected vertices of the cut lie on the line; check that the line lies on the
        mesh.

    >>> import torch
    >>> from headfields.mesh import Mesh
    >>> from headfields.apps.rigging.lips import cut_lips
    >>> x, y = torch.meshgrid(torch.linspace(-0.05, 0.05, 11), torch.linspace(-0.05, 0.05, 11), indexing="xy")
    >>> vertices = torch.stack([x, y, 0 * x], -1).reshape(-1, 3)  # a plane that faces +z
    >>> a = torch.arange(121).reshape(11, 11)[:-1, :-1].reshape(-1, 1)
    >>> faces = torch.cat([a + torch.tensor([0, 1, 12]), a + torch.tensor([0, 12, 11])])
    >>> cut = cut_lips(Mesh(vertices, faces), torch.tensor([[-0.025, 0.004, 0.0], [0.025, 0.004, 0.0]]))
    >>> cut.upper.shape == cut.lower.shape, (cut.upper == cut.lower).nonzero()[:, 0].tolist() == [0, len(cut.upper) - 1]
    (True, True)
    """
    lip_line = _LipLine(line)
    positions = mesh.vertices.detach().double().cpu().numpy().copy()
    faces = mesh.faces.cpu().numpy().copy()
    uv = None if mesh.uv is None else mesh.uv.detach().double().cpu().numpy()
    corners = faces if mesh.uv_faces is None else mesh.uv_faces.cpu().numpy()
    height = lip_line.above(positions)
    normal = np.cross(positions[faces[:, 1]] - positions[faces[:, 0]], positions[faces[:, 2]] - positions[faces[:, 0]])
    centers = positions[faces].mean(1)
    near = (
        (normal[:, 2] > 0)
        & (lip_line.behind(centers) < 0.35 * lip_line.width)
        & (np.abs(lip_line.above(centers)) < 0.5 * lip_line.width)
    )
    near &= (centers[:, 0] > lip_line.points[0, 0] - 0.3 * lip_line.width) & (
        centers[:, 0] < lip_line.points[-1, 0] + 0.3 * lip_line.width
    )

    # Snap a vertex close to the line onto it, together with its texture coordinates.
    edges = edges_as_arrays(faces[near])[0]
    a, b = edges.T
    crossing = (height[a] > 0) != (height[b] > 0)
    t = np.where(crossing, height[a] / np.where(crossing, height[a] - height[b], 1.0), 0.5)
    for vertex, other, share in ((a, b, t), (b, a, 1 - t)):
        for k in np.nonzero(crossing & (share < _SNAP))[0]:
            v, w, s = int(vertex[k]), int(other[k]), float(share[k])
            if height[v] == 0 or not lip_line.within(positions[v : v + 1])[0]:
                continue
            if uv is not None:
                for f in np.nonzero((faces == v).any(1) & (faces == w).any(1))[0][:1]:
                    uv_from, uv_to = corners[f][faces[f] == v][0], corners[f][faces[f] == w][0]
                    uv[uv_from] = (1 - s) * uv[uv_from] + s * uv[uv_to]
            positions[v] = (1 - s) * positions[v] + s * positions[w]
            height[v] = 0.0

    crossing_vertex: dict[tuple[int, int], int] = {}
    crossing_uv: dict[tuple[int, int], int] = {}
    new_points, new_uv = [*positions], [] if uv is None else [*uv]
    on_line = {int(v) for v in np.unique(faces[near]) if height[v] == 0 and lip_line.within(positions[v : v + 1])[0]}

    def split(p: int, q: int, cp: int, cq: int) -> tuple[int, int] | None:
        """The vertex and texture coordinate where an edge crosses the line between its ends, or None."""
        if height[p] == 0 or height[q] == 0 or (height[p] > 0) == (height[q] > 0):
            return None
        s = height[p] / (height[p] - height[q])
        crossing_point = (1 - s) * positions[p] + s * positions[q]
        if not lip_line.within(crossing_point[None])[0]:
            return None
        key = (min(p, q), max(p, q))
        if key not in crossing_vertex:
            crossing_vertex[key] = len(new_points)
            new_points.append(crossing_point)
            on_line.add(crossing_vertex[key])
        if uv is None:
            return crossing_vertex[key], crossing_vertex[key]
        key = (min(cp, cq), max(cp, cq))
        if key not in crossing_uv:
            crossing_uv[key] = len(new_uv)
            new_uv.append((1 - s) * uv[cp] + s * uv[cq])
        return crossing_vertex[key_of(p, q)], crossing_uv[key]

    def key_of(p: int, q: int) -> tuple[int, int]:
        return min(p, q), max(p, q)

    new_faces: list[list[int]] = []
    new_uv_faces: list[list[int]] = []
    for f in range(len(faces)):
        corner, uv_corner = faces[f].tolist(), corners[f].tolist()
        if not near[f]:
            new_faces.append(corner)
            new_uv_faces.append(uv_corner)
            continue
        ring: list[tuple[int, int]] = []
        for side in range(3):
            ring.append((corner[side], uv_corner[side]))
            crossing_pair = split(corner[side], corner[(side + 1) % 3], uv_corner[side], uv_corner[(side + 1) % 3])
            if crossing_pair is not None:
                ring.append(crossing_pair)
        for polygon in _split_polygon(ring, {v for v, _ in ring if v in on_line}):
            for second, third in itertools.pairwise(polygon[1:]):
                triangle = (polygon[0], second, third)
                new_faces.append([v for v, _ in triangle])
                new_uv_faces.append([c for _, c in triangle])
    cut_points, cut_faces = np.array(new_points), np.array(new_faces)
    chain = _longest_chain(cut_faces, on_line, cut_points)
    if len(chain) < 3:
        raise ValueError(
            f"cut_lips: the line crosses {len(chain)} edges of the mesh at x from {lip_line.points[0, 0]:.4f} to "
            f"{lip_line.points[-1, 0]:.4f}; expected a line on the front of the mesh that crosses three or more"
        )
    # The lower lip gets new copies of the inner vertices of the chain; the corners stay shared.
    lower = np.arange(len(cut_points))
    inner = chain[1:-1]
    lower[inner] = len(cut_points) + np.arange(len(inner))
    level = np.concatenate([height, np.zeros(len(cut_points) - len(height))])
    touching = np.isin(cut_faces, inner).any(1)
    below = touching & (level[cut_faces].sum(1) < 0)
    cut_faces[below] = lower[cut_faces[below]]
    cut_points = np.concatenate([cut_points, cut_points[inner]])
    origin = np.full(len(cut_points), -1)
    origin[: len(positions)] = np.arange(len(positions))
    cut = Mesh(
        vertices=torch.from_numpy(cut_points).to(mesh.vertices.dtype),
        faces=torch.from_numpy(cut_faces),
        uv=None if uv is None else torch.from_numpy(np.array(new_uv)).float(),
        uv_faces=None if mesh.uv_faces is None else torch.from_numpy(np.array(new_uv_faces)),
        texture=mesh.texture,
    )
    return LipCut(cut, torch.from_numpy(chain), torch.from_numpy(lower[chain]), torch.from_numpy(origin))


def _split_polygon(ring: list[tuple[int, int]], on_line: set[int]) -> list[list[tuple[int, int]]]:
    """The polygon of a face, cut between its two points on the line, or rotated to start a fan at its only one."""
    line_corners = [k for k, (v, _) in enumerate(ring) if v in on_line]
    if len(ring) == 3:
        return [ring]
    if len(line_corners) == 2 and line_corners[1] - line_corners[0] not in (1, len(ring) - 1):
        i, j = line_corners
        return [ring[i : j + 1], ring[j:] + ring[: i + 1]]
    first = line_corners[0]
    return [ring[first:] + ring[:first]]


def _longest_chain(faces: np.ndarray, on_line: set[int], points: np.ndarray) -> Int[np.ndarray, " n"]:
    """The longest edge path between vertices on the line, in order of increasing x."""
    edges = edges_as_arrays(faces)[0]
    on_line_edges = np.isin(edges, sorted(on_line)).all(1)
    neighbors: dict[int, list[int]] = {}
    for a, b in edges[on_line_edges].tolist():
        neighbors.setdefault(a, []).append(b)
        neighbors.setdefault(b, []).append(a)
    best: list[int] = []
    visited: set[int] = set()
    for start in sorted(neighbors, key=lambda v: points[v, 0]):
        if start in visited:
            continue
        path = [start]
        visited.add(start)
        while True:
            candidates = [v for v in neighbors[path[-1]] if v not in visited]
            if not candidates:
                break
            successor = min(candidates, key=lambda v: points[v, 0])
            path.append(successor)
            visited.add(successor)
        if len(path) > len(best):
            best = path
    return np.array(best, np.int64)
