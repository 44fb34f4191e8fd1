"""Non-rigid registration: a mesh drawn onto a surface, as rigidly as possible, ever less stiffly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.sparse_system import SymmetricSystem
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import edge_neighbors, face_normals, uniform_laplacian, vertex_normals

__all__ = ["Registration", "Stage", "register", "trimmed_icp"]

_SLIDE = 0.5  # cosine between a vertex's way to its target and the target's normal, below which it ran off an edge
_SLIDES = 3  # rounds of rotations and positions for each search of closest points
_SAMPLES = 3000  # of the surface that look for the mesh
_CLOSE = 0.004  # of the target's size: nearer than this the direction of the way says nothing


@dataclass(frozen=True)
class Stage:
    """One step from coarse to fine.

    Attributes:
        stiffness: of an edge, against 1 for a vertex near the surface.
        reach: how far a vertex looks for the surface, as a part of the target's size.
        rounds: how often closest points are found anew.
        angle: largest angle between the normals of what meets, degrees.
    """

    stiffness: float
    reach: float
    rounds: int = 3
    angle: float = 60.0


DEFAULT_STAGES = (
    Stage(200.0, 0.12, 3, 75.0),
    Stage(60.0, 0.12, 4, 70.0),
    Stage(20.0, 0.10, 4, 65.0),
    Stage(6.0, 0.08, 4),
    Stage(2.0, 0.05),
    Stage(0.7, 0.025, 4),
)
"""Chosen by us: from nearly rigid to as soft as keeps a face's triangles from folding."""


@dataclass(frozen=True)
class Registration:
    """Where the vertices came to lie.

    Attributes:
        vertices: (V, 3) meters.
        matched: (V,) which of them lie by a part of the surface that looks the same way.
        distance: (V,) of each to its nearest point of the surface, meters.
        history: root mean square distance of the vertices that met it, after each round, meters.
    """

    vertices: Float[Tensor, "v 3"]
    matched: Bool[Tensor, " v"]
    distance: Float[Tensor, " v"]
    history: tuple[float, ...]


class _TargetSurface:
    """What vertices are drawn to: closest points, their normals, and whether they lie on an open border."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        self.vertices, self.faces = vertices, faces
        self.tree = TriangleBVH(faces, vertices.float())
        self.normals = face_normals(vertices, faces)
        self.border = (edge_neighbors(faces) < 0)[:, [1, 2, 0]]  # opposite each corner
        used = vertices[faces.flatten()]
        self.size = float((used.amax(0) - used.amin(0)).amax())

    def find(
        self, points: Tensor, normals: Tensor, reach: float, angle: float
    ) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v 3"], Bool[Tensor, " v"], Float[Tensor, " v"]]:
        """The nearest points, the surface's normals there, which of them count, and how far they are."""
        found = self.tree.closest(points.float())
        face, weights = found.face.clamp_min(0), found.barycentric.double()
        place = (weights[..., None] * self.vertices[self.faces[face]]).sum(1)
        way = place - points
        distance = way.norm(dim=-1)
        normal = self.normals[face]
        facing = (normal * normals).sum(-1) > float(np.cos(np.radians(angle)))
        straight = (way * normal).sum(-1).abs() > _SLIDE * distance
        edge_on = ((weights < 1e-4) & self.border[face]).any(dim=1)
        near = distance < reach * self.size
        return place, normal, near & facing & (straight | (distance < _CLOSE * self.size)) & ~edge_on, distance


class _ReverseMatches:
    """Points of the surface that look for the mesh."""

    def __init__(self, surface: _TargetSurface, faces: Tensor, rest: Tensor, active: Tensor) -> None:
        self.table = faces[active[faces].all(1)]
        used = surface.faces.flatten().unique()
        self.index = used[:: max(len(used) // _SAMPLES, 1)]
        self.points = surface.vertices[self.index]
        self.normals = vertex_normals(surface.vertices, surface.faces)[self.index]
        self.size = surface.size
        self.tree = TriangleBVH(self.table, rest.float()) if len(self.table) else None
        self.border = (edge_neighbors(self.table) < 0)[:, [1, 2, 0]]

    def find(self, now: Tensor, stage: Stage) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
        """Rows (K, V) that give the mesh's points nearest to those that count, and these (K, 3)."""
        if self.tree is None:
            return scipy.sparse.csr_matrix((0, len(now))), np.zeros((0, 3))
        found = self.tree.refit(now.float()).closest(self.points.float())
        face, weights = found.face.clamp_min(0), found.barycentric.double()
        normal = face_normals(now, self.table[face])
        good = (normal * self.normals).sum(-1) > float(np.cos(np.radians(stage.angle)))
        good &= (found.distance < stage.reach * self.size) & ~((weights < 1e-4) & self.border[face]).any(1)
        kept = self.table[face[good]].numpy()
        count = len(kept)
        where = (weights[good].numpy().ravel(), (np.repeat(np.arange(count), 3), kept.ravel()))
        return scipy.sparse.csr_matrix(where, shape=(count, len(now))), self.points[good].numpy()


def trimmed_icp(
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    target: Float[Tensor, "w 3"],
    target_faces: Int[Tensor, "g 3"],
    start: Similarity,
    rounds: int = 20,
    trim: float = 0.25,
    angle: float = 45.0,
) -> Similarity:
    """A similarity refined by iterated closest points: the farthest `trim` of the pairs is left out each time.

    Args:
        points, normals: (N, 3) on the moving surface, before `start`.
        target, target_faces: the surface that stays.
        start: where to begin.
        rounds: how many times closest points are found.
        trim: the part that may have no counterpart.
        angle: largest angle between normals of pairs, degrees.

    Source: Besl and McKay 1992, trimmed as Chetverikov et al. 2002 have it.
    """
    surface = _TargetSurface(target.detach().double().cpu(), target_faces.cpu().long())
    x, n, now = points.double(), normals.double(), start
    for _ in range(rounds):
        moved = now.apply(x)
        place, _, good, distance = surface.find(moved, n @ now.rotation.to(n).T, 0.2, angle)
        if int(good.sum()) < 12:
            break
        limit = distance[good].quantile(1 - trim)
        good &= distance <= limit
        following = fit_similarity(x[good], place[good])
        shift = float((following.apply(x) - moved).norm(dim=-1).max())
        now = following
        if shift < 1e-5 * surface.size:
            break
    return now


def register(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    target: Float[Tensor, "w 3"],
    target_faces: Int[Tensor, "g 3"],
    anchors: Float[Tensor, "l v"] | None = None,
    anchor_positions: Float[Tensor, "l 3"] | None = None,
    active: Bool[Tensor, " v"] | None = None,
    reverse_weight: float | int = 0.5,
    stages: Sequence[Stage] = DEFAULT_STAGES,
    anchor_weight: float | int = 30.0,
    stretch: float | int = 1.25,
    progress: bool = True,
) -> Registration:
    """Draws a mesh onto a surface: nearest points that look the same way pull, and every edge resists being bent.

    The resistance is that of as-rigid-as-possible deformation: each vertex has a rotation, the best for its edges, and
    an edge wants to be as at rest but for that rotation. With `stretch` above 1 a vertex may scale its edges too, by
    at most so much, since two people's faces are not isometric. Rotations and positions are solved for in turn; the
    sparse systems are factorized by SuperLU.

    Args:
        vertices, faces: (V, 3) meters and (F, 3) of the mesh, laid over the target by a similarity.
        target, target_faces: (W, 3) and (G, 3) of the surface.
        anchors: (L, V) dense or sparse rows that give points of the mesh from its vertices.
        anchor_positions: (L, 3) where these points belong.
        active: (V,) the vertices that look for the surface (not those of eyeballs or of the mouth's inside).
        reverse_weight: weight of the other direction: some thousand points of the surface that look for the mesh, which
            frees what is caught on the wrong side of a bulge; against 1 for a vertex near the surface. 0 for none.
        stages: from coarse to fine.
        anchor_weight: of an anchor, against 1 for a vertex near the surface.
        stretch: largest factor by which a vertex scales its edges, or shrinks them; 1 for rigid ones.
        progress: whether to show a bar.

    Returns:
        Registration, in float64 on the CPU.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, one of anchors and anchor_positions is missing, or there
            is no target face.

    Source: Sorkine and Alexa, As-Rigid-As-Possible Surface Modeling (2007), with uniform weights; coarse to fine as in
    Amberg, Romdhani and Vetter, Optimal Step Nonrigid ICP (2007). Scales, trimming and the schedule are our own choice.
    """
    for name, points, table in (("vertices", vertices, faces), ("target", target, target_faces)):
        check_floating("register", name, points)
        check_shape("register", name, points, "V 3")
        check_integer("register", "faces", table)
        check_shape("register", "faces", table, "F 3")
    if not len(target_faces) or not len(faces):
        raise ValueError(
            f"register: the mesh has {len(faces)} faces and the target {len(target_faces)}; both need some"
        )
    if (anchors is None) != (anchor_positions is None):
        raise ValueError("register: give anchors and anchor_positions, or neither")
    if stretch < 1:
        raise ValueError(f"register: stretch is {stretch}; expected 1 (rigid edges) or more")
    rest = vertices.detach().double().cpu()
    table, count = faces.cpu().long(), len(rest)
    surface = _TargetSurface(target.detach().double().cpu(), target_faces.cpu().long())
    used = torch.zeros(count, dtype=torch.bool)
    used[table.flatten()] = True
    active = used if active is None else active.cpu() & used
    edges = torch.cat([table[:, [0, 1]], table[:, [1, 2]], table[:, [2, 0]]]).sort(dim=1).values.unique(dim=0)
    directed = torch.cat([edges, edges.flip(1)]).numpy()
    one, other = directed.T
    around = scipy.sparse.coo_matrix((np.ones(len(one)), (one, np.arange(len(one)))), shape=(count, len(one))).tocsr()
    laplacian = uniform_laplacian(table, count)
    start = rest.numpy()
    at_rest = start[one] - start[other]
    squared = around @ (at_rest**2).sum(1)
    pins = scipy.sparse.csr_matrix((0, count)) if anchors is None else scipy.sparse.csr_matrix(anchors.double().numpy())
    wish = np.zeros((0, 3)) if anchor_positions is None else anchor_positions.detach().double().cpu().numpy()
    pull = anchor_weight * (pins.T @ pins)
    pulling = _ReverseMatches(surface, table, rest, active) if reverse_weight > 0 else None
    now, history = rest.clone(), []
    matched = torch.zeros(count, dtype=torch.bool)
    distance = torch.full((count,), torch.inf, dtype=torch.float64)
    bar = tqdm(total=sum(stage.rounds for stage in stages), desc="registering", unit="round", disable=not progress)
    for stage in stages:
        for _ in range(stage.rounds):
            place, across, good, distance = surface.find(now, vertex_normals(now, table), stage.reach, stage.angle)
            matched = good & active
            data = matched.double().numpy()
            matrix = stage.stiffness * laplacian + pull + scipy.sparse.diags(data + 1e-9)
            fixed = anchor_weight * (pins.T @ wish) + 1e-9 * start
            if pulling is not None:
                rows, goals = pulling.find(now, stage)
                matrix, fixed = matrix + reverse_weight * (rows.T @ rows), fixed + reverse_weight * (rows.T @ goals)
            system = SymmetricSystem(matrix)
            for _ in range(_SLIDES):
                # Where the surface's tangent plane is nearest now: a vertex may slide along it at no cost.
                flat = now + ((place - now) * across).sum(1, keepdim=True) * across
                turns = _vertex_rotations(now.numpy(), one, other, at_rest, around, squared, stretch)
                wanted = 0.5 * np.einsum("eij,ej->ei", turns[one] + turns[other], at_rest)
                now = system.solve(
                    torch.from_numpy(stage.stiffness * (around @ wanted) + data[:, None] * flat.numpy() + fixed)
                )
            pulled = distance[matched].square().mean().sqrt() if bool(matched.any()) else torch.tensor(torch.nan)
            history.append(float(pulled))
            bar.update()
            bar.set_postfix_str(f"{1e3 * history[-1]:.2f} mm over {int(matched.sum())} vertices")
    bar.close()
    last = stages[-1] if stages else Stage(1.0, 0.02)
    _, _, good, distance = surface.find(now, vertex_normals(now, table), last.reach, last.angle)
    return Registration(now, good & active, distance, tuple(history))


def _vertex_rotations(
    now: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    at_rest: np.ndarray,
    around: scipy.sparse.csr_matrix,
    squared: np.ndarray,
    stretch: float,
) -> Float[np.ndarray, "v 3 3"]:
    """Of each vertex, the rotation (times a scale within bounds) that takes its edges at rest nearest to where they
    are."""
    edge = now[one] - now[other]
    spread = (around @ (edge[:, :, None] * at_rest[:, None, :]).reshape(-1, 9)).reshape(-1, 3, 3)
    u, values, v = np.linalg.svd(spread)
    flipped = np.linalg.det(u @ v) < 0
    u[flipped, :, 2] *= -1
    values[flipped, 2] *= -1
    scale = np.clip(values.sum(1) / np.maximum(squared, 1e-30), 1 / stretch, stretch)
    return scale[:, None, None] * (u @ v)
