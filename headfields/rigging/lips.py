"""The lips of a scan: whether they are parted already, cutting them where they are not, and which side is which."""

import itertools
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.vertex_geometry import vertex_normals
from headfields.rigging.mesh_repair import close_pinholes

__all__ = ["LipCut", "cut_lips", "lip_sides", "lips_parted"]

_ASIDE = 0.25  # of the mouth's width: how far beyond its corners a vertex may have a side
_DETOUR = 1.6  # the way from lip to lip over that straight across, above which it does not lead straight across
_SNAP = 0.15  # of an edge: a crossing nearer to its end moves the end onto the line


def _edge_graph(vertices: np.ndarray, faces: np.ndarray) -> scipy.sparse.csr_matrix:
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) + 1e-12
    shape = (len(vertices), len(vertices))
    graph = scipy.sparse.coo_matrix((lengths, (edges[:, 0], edges[:, 1])), shape=shape)
    return (graph + graph.T).tocsr()


class _LipLine:
    """The lips' line as a height over x; and of points, how far above it they are and whether they are by it."""

    def __init__(self, line: Float[Tensor, "n 3"]) -> None:
        points = line.detach().double().cpu().numpy()
        self.points = points[np.argsort(points[:, 0], kind="stable")]
        self.width = float(self.points[-1, 0] - self.points[0, 0])

    def above(self, at: np.ndarray) -> np.ndarray:
        """Meters by which points are above the line, which goes on straight beyond its ends."""
        p = self.points
        height = np.interp(at[:, 0], p[:, 0], p[:, 1])
        for end, inner, beyond in (
            (0, min(3, len(p) - 1), at[:, 0] < p[0, 0]),
            (-1, -min(4, len(p)), at[:, 0] > p[-1, 0]),
        ):
            run = p[inner, 0] - p[end, 0]
            slope = (p[inner, 1] - p[end, 1]) / run if abs(run) > 1e-12 else 0.0
            height = np.where(beyond, p[end, 1] + slope * (at[:, 0] - p[end, 0]), height)
        return at[:, 1] - height

    def behind(self, at: np.ndarray) -> np.ndarray:
        """Meters by which points lie behind the line."""
        return np.interp(at[:, 0], self.points[:, 0], self.points[:, 2]) - at[:, 2]

    def within(self, at: np.ndarray) -> np.ndarray:
        return (at[:, 0] > self.points[0, 0]) & (at[:, 0] < self.points[-1, 0])


def _outer_lip_vertices(
    place: np.ndarray, normal: np.ndarray, line: _LipLine, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the outer skin just above the line, and just below it; each with what looks forward or along it."""
    above = line.above(place)
    # What touches in the slit itself may be on either side of the line by a hair, so it is not looked at.
    near = line.within(place) & (line.behind(place) < 0.12 * line.width) & (normal[:, 2] > 0.15)
    near &= (np.abs(above) < reach) & (np.abs(above) > 0.03 * line.width)
    return near & (above > 0), near & (above < 0)


def lips_parted(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], line: Float[Tensor, "n 3"]
) -> Bool[Tensor, " n"]:
    """Whether the surface is open between the lips at each point of their line, as where an inside of the mouth is.

    It is where the way over the surface from the upper lip to the lower one is long although they are near. Pinholes
    (`close_pinholes`) are not counted.

    Args:
        vertices, faces: the mesh, lips closed.
        line: (N, 3) from the head's right corner to the left one.
    """
    whole = close_pinholes(Mesh(vertices.detach().cpu(), faces.cpu()), line.detach().cpu())
    vertices, faces = whole.vertices, whole.faces
    place, table = vertices.detach().double().cpu().numpy(), faces.cpu().numpy()
    here = _LipLine(line)
    normal = vertex_normals(vertices.detach().double().cpu(), faces.cpu().long()).numpy()
    upper, lower = _outer_lip_vertices(place, normal, here, 0.16 * here.width)
    out = np.zeros(len(here.points), bool)
    if not upper.any() or not lower.any():
        return torch.from_numpy(out)
    graph = _edge_graph(place, table)
    limit = 0.4 * here.width
    for k, at in enumerate(here.points):
        beside = np.abs(place[:, 0] - at[0]) < 0.1 * here.width
        if (upper & beside).any() and (lower & beside).any():
            ups = np.nonzero(upper & beside)[0]
            way = scipy.sparse.csgraph.dijkstra(graph, directed=False, indices=ups, limit=limit, min_only=True)
            downs = np.nonzero(lower & beside)[0]
            straight = np.linalg.norm(place[downs][:, None] - place[ups][None], axis=2).min(1)
            out[k] = (way[downs] > np.maximum(0.22 * here.width, _DETOUR * straight)).all()
    order = np.argsort(line.detach().cpu().double().numpy()[:, 0], kind="stable")
    return torch.from_numpy(out[np.argsort(order, kind="stable")])


def lip_sides(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], line: Float[Tensor, "n 3"]
) -> Int[Tensor, " v"]:
    """(V,) 1 on the upper side of parted lips, -1 on the lower, 0 away from the mouth, at its corners and where a
    vertex is about as far from both over the surface.

    Args:
        vertices, faces: the mesh, its lips parted or cut.
        line: (N, 3) where they meet.
    """
    place, table = vertices.detach().double().cpu().numpy(), faces.cpu().numpy()
    here = _LipLine(line)
    normal = vertex_normals(vertices.detach().double().cpu(), faces.cpu().long()).numpy()
    reach = 0.14 * here.width
    upper, lower = _outer_lip_vertices(place, normal, here, reach)
    side = np.zeros(len(place), np.int64)
    if upper.any() and lower.any():
        graph = _edge_graph(place, table)
        limit = 1.2 * here.width
        ways = [
            scipy.sparse.csgraph.dijkstra(graph, directed=False, indices=np.nonzero(s)[0], limit=limit, min_only=True)
            for s in (upper, lower)
        ]
        ways = [np.minimum(way, 10 * limit) for way in ways]
        nearer, farther = np.minimum(*ways), np.maximum(*ways)
        beside = np.abs(place[:, 0] - here.points[[0, -1], 0].mean()) < (0.5 + _ASIDE) * here.width
        sure = beside & (nearer <= 0.8 * here.width) & (farther - nearer > 0.15 * nearer + 0.02 * here.width)
        side[sure & (ways[0] < ways[1])] = 1
        side[sure & (ways[0] > ways[1])] = -1
    return torch.from_numpy(side)


@dataclass(frozen=True)
class LipCut:
    """A mesh with its lips cut apart.

    Attributes:
        mesh: vertices on the line are there twice, once for each lip; faces and texture coordinates are split where
            the line crosses them, and a texture coordinate on the line is shared by both lips.
        upper, lower: (N,) the two lips' vertices on the line, from the right corner to the left one; the first and the
            last are the corners, which both share.
        origin: (V,) which vertex of the mesh before each is, -1 for those that the cut made.
    """

    mesh: Mesh
    upper: Int[Tensor, " n"]
    lower: Int[Tensor, " n"]
    origin: Int[Tensor, " v"]


def cut_lips(mesh: Mesh, line: Float[Tensor, "n 3"]) -> LipCut:
    """Cuts a sealed mouth open along a line.

    The faces of the front that the line's height y(x) crosses between its ends are split; a crossing near a vertex
    moves that vertex (by at most 15 % of an edge) rather than leave a sliver. Nothing else changes.

    Args:
        mesh: lips sealed, face toward +z.
        line: (N, 3) from the right corner to the left one; x grows along it.

    Raises:
        ValueError: the line crosses fewer than two edges, or not in one piece; look whether it lies on the mesh.

    Our own choice: a level set, since closed lips are a graph over x in the head's frame.
    """
    here = _LipLine(line)
    place = mesh.vertices.detach().double().cpu().numpy().copy()
    faces = mesh.faces.cpu().numpy().copy()
    uv = None if mesh.uv is None else mesh.uv.detach().double().cpu().numpy()
    corners = faces if mesh.uv_faces is None else mesh.uv_faces.cpu().numpy()
    height = here.above(place)
    normal = np.cross(place[faces[:, 1]] - place[faces[:, 0]], place[faces[:, 2]] - place[faces[:, 0]])
    middle = place[faces].mean(1)
    near = (
        (normal[:, 2] > 0) & (here.behind(middle) < 0.35 * here.width) & (np.abs(here.above(middle)) < 0.5 * here.width)
    )
    near &= (middle[:, 0] > here.points[0, 0] - 0.3 * here.width) & (
        middle[:, 0] < here.points[-1, 0] + 0.3 * here.width
    )

    # Snap: a vertex close to the line goes onto it, together with its texture coordinates.
    edges = np.unique(np.sort(np.concatenate([faces[near][:, [i, j]] for i, j in ((0, 1), (1, 2), (2, 0))]), 1), axis=0)
    a, b = edges.T
    crossing = (height[a] > 0) != (height[b] > 0)
    t = np.where(crossing, height[a] / np.where(crossing, height[a] - height[b], 1.0), 0.5)
    for vertex, other, share in ((a, b, t), (b, a, 1 - t)):
        for k in np.nonzero(crossing & (share < _SNAP))[0]:
            v, w, s = int(vertex[k]), int(other[k]), float(share[k])
            if height[v] == 0 or not here.within(place[v : v + 1])[0]:
                continue
            if uv is not None:
                for f in np.nonzero((faces == v).any(1) & (faces == w).any(1))[0][:1]:
                    one, two = corners[f][faces[f] == v][0], corners[f][faces[f] == w][0]
                    uv[one] = (1 - s) * uv[one] + s * uv[two]
            place[v] = (1 - s) * place[v] + s * place[w]
            height[v] = 0.0

    made: dict[tuple[int, int], int] = {}
    made_uv: dict[tuple[int, int], int] = {}
    points, coordinates = [*place], [] if uv is None else [*uv]
    on_line = {int(v) for v in np.unique(faces[near]) if height[v] == 0 and here.within(place[v : v + 1])[0]}

    def split(p: int, q: int, cp: int, cq: int) -> tuple[int, int] | None:
        """The vertex and texture coordinate where an edge crosses the line within its ends, if it does."""
        if height[p] == 0 or height[q] == 0 or (height[p] > 0) == (height[q] > 0):
            return None
        s = height[p] / (height[p] - height[q])
        at = (1 - s) * place[p] + s * place[q]
        if not here.within(at[None])[0]:
            return None
        key = (min(p, q), max(p, q))
        if key not in made:
            made[key] = len(points)
            points.append(at)
            on_line.add(made[key])
        if uv is None:
            return made[key], made[key]
        key = (min(cp, cq), max(cp, cq))
        if key not in made_uv:
            made_uv[key] = len(coordinates)
            coordinates.append((1 - s) * uv[cp] + s * uv[cq])
        return made[key_of(p, q)], made_uv[key]

    def key_of(p: int, q: int) -> tuple[int, int]:
        return min(p, q), max(p, q)

    table: list[list[int]] = []
    table_uv: list[list[int]] = []
    for f in range(len(faces)):
        corner, chart = faces[f].tolist(), corners[f].tolist()
        if not near[f]:
            table.append(corner)
            table_uv.append(chart)
            continue
        ring: list[tuple[int, int]] = []
        for side in range(3):
            ring.append((corner[side], chart[side]))
            found = split(corner[side], corner[(side + 1) % 3], chart[side], chart[(side + 1) % 3])
            if found is not None:
                ring.append(found)
        for polygon in _split_polygon(ring, {v for v, _ in ring if v in on_line}):
            for second, third in itertools.pairwise(polygon[1:]):
                triangle = (polygon[0], second, third)
                table.append([v for v, _ in triangle])
                table_uv.append([c for _, c in triangle])
    points_, faces_ = np.array(points), np.array(table)
    chain = _longest_chain(faces_, on_line, points_)
    if len(chain) < 3:
        raise ValueError(
            f"cut_lips: the line crosses {len(chain)} edges of the mesh; it must lie on the front of the mesh, within "
            f"x from {here.points[0, 0]:.4f} to {here.points[-1, 0]:.4f}"
        )
    # Below the line the chain's inner vertices are new ones; the corners stay one.
    lower = np.arange(len(points_))
    inner = chain[1:-1]
    lower[inner] = len(points_) + np.arange(len(inner))
    level = np.concatenate([height, np.zeros(len(points_) - len(height))])
    touching = np.isin(faces_, inner).any(1)
    under = touching & (level[faces_].sum(1) < 0)
    faces_[under] = lower[faces_[under]]
    points_ = np.concatenate([points_, points_[inner]])
    origin = np.full(len(points_), -1)
    origin[: len(place)] = np.arange(len(place))
    cut = Mesh(
        vertices=torch.from_numpy(points_).to(mesh.vertices.dtype),
        faces=torch.from_numpy(faces_),
        uv=None if uv is None else torch.from_numpy(np.array(coordinates)).float(),
        uv_faces=None if mesh.uv_faces is None else torch.from_numpy(np.array(table_uv)),
        texture=mesh.texture,
    )
    return LipCut(cut, torch.from_numpy(chain), torch.from_numpy(lower[chain]), torch.from_numpy(origin))


def _split_polygon(ring: list[tuple[int, int]], on_line: set[int]) -> list[list[tuple[int, int]]]:
    """A face's polygon cut between its two points on the line, or as a fan from its one."""
    spots = [k for k, (v, _) in enumerate(ring) if v in on_line]
    if len(ring) == 3:
        return [ring]
    if len(spots) == 2 and spots[1] - spots[0] not in (1, len(ring) - 1):
        i, j = spots
        return [ring[i : j + 1], ring[j:] + ring[: i + 1]]
    first = spots[0]
    return [ring[first:] + ring[:first]]


def _longest_chain(faces: np.ndarray, on_line: set[int], points: np.ndarray) -> Int[np.ndarray, " n"]:
    """The longest path of edges between vertices of the line, from least to greatest x."""
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    member = np.isin(edges, sorted(on_line)).all(1)
    beside: dict[int, list[int]] = {}
    for a, b in edges[member].tolist():
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    best: list[int] = []
    seen: set[int] = set()
    for start in sorted(beside, key=lambda v: points[v, 0]):
        if start in seen:
            continue
        path = [start]
        seen.add(start)
        while True:
            ahead = [v for v in beside[path[-1]] if v not in seen]
            if not ahead:
                break
            following = min(ahead, key=lambda v: points[v, 0])
            path.append(following)
            seen.add(following)
        if len(path) > len(best):
            best = path
    return np.array(best, np.int64)
