"""The surface of a head as retargeting needs it: neutral mesh, landmarks, eyeballs, and upper and lower lip."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.retargeting.deformation_gradients import flat_triangles
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.mesh_topology import boundary_loops, directed_edges, vertex_components
from headfields.ops.vertex_geometry import face_normals

__all__ = ["Eyeball", "HeadSurface"]

_STRETCH = 2.0  # factor by which an edge across the mouth grows when it opens
_OUTWARD = 0.35  # least cosine between the normal of a lid's outer side and the direction from the eyeball
_ROUND = 0.08  # an eyeball's largest deviation from a sphere, of its radius
_WIDE = 1.4  # an eyeball's least width and height in radii, which rounded patches fall short of
_EYE_SIZE = (0.015, 0.12)  # an eyeball's radius over the head's largest extent


@dataclass(frozen=True)
class Eyeball:
    """An eyeball: a connected part of a mesh that rotates about its center.

    Attributes:
        vertices: (N,) vertex indices.
        center: (3,) of the sphere fitted to them, meters.
        radius: radius of the sphere, meters.
    """

    vertices: Int[Tensor, " n"]
    center: Float[Tensor, "3"]
    radius: float


@dataclass(frozen=True)
class HeadSurface:
    """The surface of a head: what `bind` and `Retargeter` need of it. Tensors are kept on the CPU, detached.

    Attributes:
        neutral: (V, 3) at rest, lips closed, eyes open and straight ahead; meters, y up, face toward +z.
        faces: (F, 3), counter-clockwise from outside.
        opened: (V, 3) the same head with its lips apart, which separates the upper from the lower lip; None: unknown.
        landmarks: (68,) vertices in iBUG's order, −1 where unknown; None: no landmarks.
        closing: (F,) mask of the faces that span the open mouth. None: those that stretch between `neutral` and
            `opened`.
        sides: (V,) known values of `lip`; None: found from `opened`.
        closed: (V, 3) the same head with its eyes shut, which shows how near its lids come; None: they are assumed to
            touch.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, an index is out of range, or a neutral vertex of a face
            is not finite.

    Derived:
        eyeballs: parts of the mesh that lie on a sphere of an eyeball's size.
        cavity: (F,) mask of faces that span the open mouth.
        lip: (V,) 1 on the upper side of the mouth, −1 on the lower, 0 at its corners and away from it.
    """

    neutral: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    opened: Float[Tensor, "v 3"] | None = None
    landmarks: Int[Tensor, " l"] | None = None
    closing: Bool[Tensor, " f"] | None = None
    closed: Float[Tensor, "v 3"] | None = None
    sides: Int[Tensor, " v"] | None = None
    eyeballs: tuple[Eyeball, ...] = field(init=False)
    cavity: Bool[Tensor, " f"] = field(init=False)
    lip: Int[Tensor, " v"] = field(init=False)

    def __post_init__(self) -> None:
        check_floating("HeadSurface", "neutral", self.neutral)
        check_shape("HeadSurface", "neutral", self.neutral, "V 3")
        check_integer("HeadSurface", "faces", self.faces)
        check_shape("HeadSurface", "faces", self.faces, "F 3")
        count = len(self.neutral)
        for name, index, low in (("faces", self.faces, 0), ("landmarks", self.landmarks, -1)):
            if index is not None and index.numel() and not low <= int(index.min()) <= int(index.max()) < count:
                raise ValueError(
                    f"HeadSurface: {name} holds {int(index.min())} to {int(index.max())}; there are {count} vertices"
                )
        if self.landmarks is not None and self.landmarks.shape != (68,):
            raise ValueError(f"HeadSurface: landmarks has shape {tuple(self.landmarks.shape)}; expected (68,)")
        for name, mesh in (("opened", self.opened), ("closed", self.closed)):
            if mesh is not None and mesh.shape != self.neutral.shape:
                raise ValueError(
                    f"HeadSurface: {name} has shape {tuple(mesh.shape)} and neutral {tuple(self.neutral.shape)}; "
                    "they must be one topology"
                )
        if self.closing is not None and self.closing.shape != self.faces.shape[:1]:
            raise ValueError(
                f"HeadSurface: closing has shape {tuple(self.closing.shape)}; expected ({len(self.faces)},)"
            )
        if self.sides is not None and self.sides.shape != (count,):
            raise ValueError(f"HeadSurface: sides has shape {tuple(self.sides.shape)}; expected ({count},)")
        if not bool(self.neutral[self.faces.flatten()].isfinite().all()):
            raise ValueError("HeadSurface: neutral holds vertices that are not finite; mend the mesh or drop its faces")
        for name in ("neutral", "faces", "opened", "landmarks", "closing", "closed", "sides"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else value.detach().cpu())
        object.__setattr__(self, "eyeballs", _find_eyeballs(self.neutral, self.faces))
        cavity, lip = _find_lips(self)
        if self.sides is not None:
            lip = self.sides
        object.__setattr__(self, "cavity", cavity)
        object.__setattr__(self, "lip", lip)

    @property
    def skin(self) -> Bool[Tensor, " f"]:
        """(F,) mask of faces that belong to no eyeball, do not span the mouth, and are not degenerate."""
        eye = torch.zeros(len(self.neutral), dtype=torch.bool)
        for ball in self.eyeballs:
            eye[ball.vertices] = True
        return ~(eye[self.faces].any(dim=1) | self.cavity | flat_triangles(self.neutral, self.faces))

    @property
    def outer(self) -> Bool[Tensor, " f"]:
        """(F,) mask of outer skin: `skin` without the inner sides of the lids, which face an eyeball."""
        corners = self.neutral[self.faces]
        normal = face_normals(self.neutral, self.faces)
        keep = self.skin
        for ball in self.eyeballs:
            offset = corners.mean(dim=1) - ball.center
            distance = offset.norm(dim=-1)
            outward = (normal * offset).sum(-1) > _OUTWARD * distance
            keep &= outward | (distance > 1.6 * ball.radius)
        return keep

    @property
    def size(self) -> float:
        """Largest extent of the neutral mesh, meters."""
        used = self.neutral[self.faces.flatten().unique()]
        return float((used.amax(0) - used.amin(0)).amax()) if len(used) else 0.0


def _find_eyeballs(neutral: Tensor, faces: Tensor) -> tuple[Eyeball, ...]:
    """Components of the mesh that lie on a sphere of an eyeball's size, except the largest component."""
    used = faces.flatten().unique()
    if not len(used):
        return ()
    part = vertex_components(faces, len(neutral))
    numbers, sizes = part[used].unique(return_counts=True)
    extent = float((neutral[used].amax(0) - neutral[used].amin(0)).amax())
    eyeballs = []
    for number in numbers[sizes < sizes.amax()].tolist():
        vertices = used[part[used] == number]
        if len(vertices) < 12:
            continue
        points = neutral[vertices].double()
        middle = points.mean(0)
        system = torch.cat([2 * (points - middle), torch.ones_like(points[:, :1])], dim=1)
        solution = torch.linalg.lstsq(system, ((points - middle) ** 2).sum(1), driver="gelsd").solution
        center = solution[:3] + middle
        radius = float((solution[3] + (solution[:3] ** 2).sum()).clamp_min(0).sqrt())
        off = float(((points - center).norm(dim=1) - radius).square().mean().sqrt())
        wide = float((points.amax(0) - points.amin(0))[:2].amin()) > _WIDE * radius  # seen from the front
        if wide and off < _ROUND * radius and _EYE_SIZE[0] * extent < radius < _EYE_SIZE[1] * extent:
            eyeballs.append(Eyeball(vertices, center.to(neutral.dtype), radius))
    return tuple(eyeballs)


def _find_lips(head: HeadSurface) -> tuple[Bool[Tensor, " f"], Int[Tensor, " v"]]:
    """The faces (F,) that span the open mouth, and the side (V,) of each vertex near it: upper 1, lower −1, neither 0.

    The border of the faces that close the mouth seeds both sides, from corner to corner; they alone span it then. Where
    none are known, edges across the mouth stretch as it opens, and their ends are the seeds; of a mouth that is not
    seen open, the landmarks of the inner lips are. A vertex belongs to the side that is nearer along the surface, which
    keeps closed lips apart although they touch. Vertices near the corners, and away from the mouth, belong to neither.
    """
    lip = torch.zeros(len(head.neutral), dtype=torch.long)
    cavity = torch.zeros(len(head.faces), dtype=torch.bool) if head.closing is None else head.closing.cpu().clone()
    neutral = head.neutral.double()
    border = _lips_of_border(head)
    upper, lower = border
    if not len(upper) and head.opened is not None:
        across, upper, lower = _lips_that_part(head, cavity)
        cavity |= across
    if not len(upper) and head.landmarks is not None:
        upper, lower = (head.landmarks[part] for part in (slice(61, 64), slice(65, 68)))
        upper, lower = upper[upper >= 0], lower[lower >= 0]
    if not len(upper) or not len(lower):
        return cavity, lip
    mouth = torch.cat([upper, lower])
    width = float(neutral[mouth, 0].amax() - neutral[mouth, 0].amin())
    near = [_distances(head.neutral, head.faces[~cavity], seeds, 1.2 * width) for seeds in (upper, lower)]
    nearer, farther = torch.minimum(*near), torch.maximum(*near)
    sure = (nearer <= 0.8 * width) & (farther - nearer > 0.15 * nearer)
    lip[sure & (near[0] < near[1])] = 1
    lip[sure & (near[0] > near[1])] = -1
    sides = lip[head.faces]
    both = (sides == 1).any(dim=1) & (sides == -1).any(dim=1)
    if len(border[0]):  # all other faces are skin: those with both sides are at a corner
        lip[head.faces[both & ~cavity].flatten()] = 0
        return cavity, lip
    return cavity | both, lip


def _lips_that_part(head: HeadSurface, cavity: Tensor) -> tuple[Bool[Tensor, " f"], Tensor, Tensor]:
    """Faces (F,) across the mouth, and the upper and lower ends of their edges, by how they stretch as it opens."""
    neutral, none = head.neutral.double(), torch.zeros(0, dtype=torch.long)
    assert head.opened is not None
    opened = head.opened.double()
    edges = directed_edges(head.faces)  # (F, 3, 2)
    before = (neutral[edges[..., 0]] - neutral[edges[..., 1]]).norm(dim=-1)
    vector = opened[edges[..., 0]] - opened[edges[..., 1]]
    after = vector.norm(dim=-1)
    grown = (after - before) / head.size if len(edges) else after  # 0.008 is 2 mm on a head of 25 cm
    across = (after > _STRETCH * before) & (grown > 0.008) | (after > 1.5 * _STRETCH * before) & (grown > 0.003)
    eye = torch.zeros(len(neutral), dtype=torch.bool)
    for ball in head.eyeballs:
        eye[ball.vertices] = True
    # Eyelids may stretch as well; only edges below the eyeballs count.
    height = min((float(ball.center[1]) - 1.3 * ball.radius for ball in head.eyeballs), default=float("inf"))
    across &= (neutral[edges[..., 0], 1] < height) & ~eye[edges[..., 0]]
    spans = cavity | (across.sum(dim=1) >= 2)
    crossing = edges[across & spans[:, None]]
    if not len(crossing):
        return spans, none, none
    up = (opened[crossing[:, 0], 1] > opened[crossing[:, 1], 1]).long()
    upper = crossing.gather(1, 1 - up[:, None])[:, 0].unique()
    lower = crossing.gather(1, up[:, None])[:, 0].unique()
    return spans, upper[~torch.isin(upper, lower)], lower[~torch.isin(lower, upper)]


def _lips_of_border(head: HeadSurface) -> tuple[Tensor, Tensor]:
    """Vertices of the upper and of the lower lip along the border of the faces that close the mouth, without its
    corners; none if there are no such faces, or they have several borders."""
    none = torch.zeros(0, dtype=torch.long)
    if head.closing is None or not bool(head.closing.any()):
        return none, none
    loops = boundary_loops(head.faces[head.closing])
    if len(loops) != 1:
        return none, none
    ring = loops[0].roll(-int(head.neutral[loops[0], 0].argmin()))
    end = int(head.neutral[ring, 0].argmax())
    one, other = ring[1:end], ring[end + 1 :]
    if not len(one) or not len(other):
        return none, none
    return (one, other) if head.neutral[one, 1].mean() > head.neutral[other, 1].mean() else (other, one)


def _distances(vertices: Tensor, faces: Tensor, seeds: Tensor, limit: float) -> Float[Tensor, " v"]:
    """Shortest distance (V,) along edges from the nearest seed, meters; infinite beyond the limit."""
    f, x = faces.cpu().numpy(), vertices.double().cpu().numpy()
    rows, columns = f[:, [0, 1, 2]].ravel(), f[:, [1, 2, 0]].ravel()
    lengths = np.linalg.norm(x[rows] - x[columns], axis=1) + 1e-12
    graph = scipy.sparse.csr_matrix((len(x), len(x)))
    if len(rows):
        order = np.unique(np.stack([np.minimum(rows, columns), np.maximum(rows, columns)]), axis=1, return_index=True)[
            1
        ]
        graph = scipy.sparse.coo_matrix((lengths[order], (rows[order], columns[order])), shape=graph.shape).tocsr()
    distance = scipy.sparse.csgraph.dijkstra(
        graph, directed=False, indices=seeds.cpu().numpy(), limit=limit, min_only=True
    )
    return torch.from_numpy(distance)
