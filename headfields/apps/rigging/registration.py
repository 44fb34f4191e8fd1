"""Non-rigid registration of a mesh to a surface, as rigid as possible and with decreasing stiffness.

Our own choice: the scale per vertex, the trimming and the schedule of stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.mesh_topology import open_edges, uniform_laplacian, unique_edges
from headfields.ops.sparse_system import SymmetricSystem
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import face_normals, vertex_normals

__all__ = ["Registration", "Stage", "register"]

_SLIDE = 0.5  # least cosine between a vertex's offset to its match and the normal there; less means beyond an edge
_SLIDES = 3  # alternations of rotations and positions per closest-point search
_SAMPLES = 3000  # surface points matched to the mesh in the reverse direction
_CLOSE = 0.004  # over the target's size: at smaller distances the direction of the offset is ignored


@dataclass(frozen=True)
class Stage:
    """One stage of a coarse-to-fine registration.

    Attributes:
        stiffness: weight of an edge, relative to 1 for a matched vertex.
        reach: greatest distance of a match, as a fraction of the target's size.
        rounds: number of closest-point searches.
        angle: greatest angle between the normals of a match, degrees.
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
"""From nearly rigid to as soft as keeps the triangles of a face from folding."""


@dataclass(frozen=True)
class Registration:
    """Result of a registration.

    Attributes:
        vertices: (V, 3) registered vertices, meters.
        matched: (V,) whether a vertex is active and has a match on the surface.
        distance: (V,) distance of each vertex to the nearest surface point, meters.
        history: root mean square distance of the matched vertices in each round, meters.
    """

    vertices: Float[Tensor, "v 3"]
    matched: Bool[Tensor, " v"]
    distance: Float[Tensor, " v"]
    history: tuple[float, ...]


class _TargetSurface:
    """The target surface: closest points, their normals, and whether they lie on an open border."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        self.vertices, self.faces = vertices, faces
        self.tree = TriangleBVH(faces, vertices.float())
        self.normals = face_normals(vertices, faces)
        self.border = open_edges(faces)
        used = vertices[faces.flatten()]
        self.size = float((used.amax(0) - used.amin(0)).amax())

    def find(
        self, points: Tensor, normals: Tensor, reach: float, angle: float
    ) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v 3"], Bool[Tensor, " v"], Float[Tensor, " v"]]:
        """Nearest points, surface normals there, mask of valid matches, and distances."""
        nearest = self.tree.closest(points.float())
        face, weights = nearest.face.clamp_min(0), nearest.barycentric.double()
        closest = (weights[..., None] * self.vertices[self.faces[face]]).sum(1)
        offset = closest - points
        distance = offset.norm(dim=-1)
        normal = self.normals[face]
        facing = (normal * normals).sum(-1) > float(np.cos(np.radians(angle)))
        along_normal = (offset * normal).sum(-1).abs() > _SLIDE * distance
        on_border = ((weights < 1e-4) & self.border[face]).any(dim=1)
        near = distance < reach * self.size
        return closest, normal, near & facing & (along_normal | (distance < _CLOSE * self.size)) & ~on_border, distance


class _ReverseMatches:
    """Matches from sampled points of the surface to the mesh."""

    def __init__(self, surface: _TargetSurface, faces: Tensor, rest: Tensor, active: Tensor) -> None:
        self.table = faces[active[faces].all(1)]
        surface_vertices = surface.faces.flatten().unique()
        self.index = surface_vertices[:: max(len(surface_vertices) // _SAMPLES, 1)]
        self.points = surface.vertices[self.index]
        self.normals = vertex_normals(surface.vertices, surface.faces)[self.index]
        self.size = surface.size
        self.tree = TriangleBVH(self.table, rest.float()) if len(self.table) else None
        self.border = open_edges(self.table)

    def find(self, current: Tensor, stage: Stage) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
        """Sparse rows (K, V) that interpolate the matched points on the mesh, and their K targets (K, 3)."""
        if self.tree is None:
            return scipy.sparse.csr_matrix((0, len(current))), np.zeros((0, 3))
        nearest = self.tree.refit(current.float()).closest(self.points.float())
        face, weights = nearest.face.clamp_min(0), nearest.barycentric.double()
        normal = face_normals(current, self.table[face])
        valid = (normal * self.normals).sum(-1) > float(np.cos(np.radians(stage.angle)))
        valid &= (nearest.distance < stage.reach * self.size) & ~((weights < 1e-4) & self.border[face]).any(1)
        corners = self.table[face[valid]].numpy()
        count = len(corners)
        entries = (weights[valid].numpy().ravel(), (np.repeat(np.arange(count), 3), corners.ravel()))
        return scipy.sparse.csr_matrix(entries, shape=(count, len(current))), self.points[valid].numpy()


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
    """Registers a mesh non-rigidly to a surface: closest points with similar normals attract, edges resist deformation.

    The regularizer is as-rigid-as-possible deformation: each vertex has the rotation that fits its edges best, and each
    edge is pulled to its rest vector rotated by its ends' mean rotation. With `stretch` above 1 each vertex may also
    scale its edges by at most that factor, because faces of different people are not isometric. Rotations and positions
    are solved alternately; the sparse systems are factorized by SuperLU.

    Args:
        vertices, faces: (V, 3) meters and (F, 3) of the mesh, aligned with the target by a similarity.
        target, target_faces: (W, 3) and (G, 3) of the surface.
        anchors: (L, V) dense or sparse rows that interpolate points on the mesh from its vertices.
        anchor_positions: (L, 3) target positions of these points.
        active: (V,) vertices that are matched to the surface; exclude eyeballs and the inside of the mouth. None: all.
        reverse_weight: weight of matches from about 3,000 surface points to the mesh, relative to 1 for a matched
            vertex. They free vertices caught on the wrong side of a bulge. 0 for none.
        stages: registration stages, coarse to fine.
        anchor_weight: weight of an anchor, relative to 1 for a matched vertex.
        stretch: greatest factor by which a vertex scales or shrinks its edges; 1 for rigid edges.
        progress: whether to show a progress bar.

    Returns:
        Registration, in float64 on the CPU. Not differentiable.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, only one of anchors and anchor_positions is present, or
            mesh or target has no faces.

    Source: Sorkine and Alexa, As-Rigid-As-Possible Surface Modeling (2007), with uniform weights; coarse to fine as in
    Amberg, Romdhani and Vetter, Optimal Step Nonrigid ICP (2007).

    >>> from headfields.apps.rigging.registration import Stage, register
    >>> from headfields.synthetic import procedural_head
    >>> head = procedural_head()
    >>> target = 1.02 * head.template_vertices
    >>> result = register(head.template_vertices, head.faces, target, head.faces, stages=[Stage(5.0, 0.05, 2)],
    ...                   progress=False)
    >>> tuple(result.vertices.shape) == tuple(target.shape), tuple(result.matched.shape) == (len(target),)
    (True, True)
    >>> len(result.history)
    2
    """
    for name, points, triangles in (("vertices", vertices, faces), ("target", target, target_faces)):
        check_floating("register", name, points)
        check_shape("register", name, points, "V 3")
        check_integer("register", "faces", triangles)
        check_shape("register", "faces", triangles, "F 3")
    if not len(target_faces) or not len(faces):
        raise ValueError(
            f"register: the mesh has {len(faces)} faces and the target {len(target_faces)}; both need at least one"
        )
    if (anchors is None) != (anchor_positions is None):
        raise ValueError("register: only one of anchors and anchor_positions is present; pass both or neither")
    if stretch < 1:
        raise ValueError(f"register: stretch is {stretch}; expected 1 (rigid edges) or more")
    rest = vertices.detach().double().cpu()
    triangles, count = faces.cpu().long(), len(rest)
    surface = _TargetSurface(target.detach().double().cpu(), target_faces.cpu().long())
    used = torch.zeros(count, dtype=torch.bool)
    used[triangles.flatten()] = True
    active = used if active is None else active.cpu() & used
    edges, _ = unique_edges(triangles)
    directed = torch.cat([edges, edges.flip(1)]).numpy()
    tails, heads = directed.T
    incidence = scipy.sparse.coo_matrix(
        (np.ones(len(tails)), (tails, np.arange(len(tails)))), shape=(count, len(tails))
    ).tocsr()
    laplacian = uniform_laplacian(triangles, count)
    start = rest.numpy()
    rest_edges = start[tails] - start[heads]
    rest_squared = incidence @ (rest_edges**2).sum(1)
    anchor_rows = (
        scipy.sparse.csr_matrix((0, count)) if anchors is None else scipy.sparse.csr_matrix(anchors.double().numpy())
    )
    anchor_targets = np.zeros((0, 3)) if anchor_positions is None else anchor_positions.detach().double().cpu().numpy()
    anchor_matrix = anchor_weight * (anchor_rows.T @ anchor_rows)
    reverse = _ReverseMatches(surface, triangles, rest, active) if reverse_weight > 0 else None
    current, history = rest.clone(), []
    matched = torch.zeros(count, dtype=torch.bool)
    distance = torch.full((count,), torch.inf, dtype=torch.float64)
    bar = tqdm(total=sum(stage.rounds for stage in stages), desc="registering", unit="round", disable=not progress)
    for stage in stages:
        for _ in range(stage.rounds):
            closest, normals, valid, distance = surface.find(
                current, vertex_normals(current, triangles), stage.reach, stage.angle
            )
            matched = valid & active
            weights = matched.double().numpy()
            matrix = stage.stiffness * laplacian + anchor_matrix + scipy.sparse.diags(weights + 1e-9)
            right_side = anchor_weight * (anchor_rows.T @ anchor_targets) + 1e-9 * start
            if reverse is not None:
                reverse_rows, reverse_targets = reverse.find(current, stage)
                matrix, right_side = (
                    matrix + reverse_weight * (reverse_rows.T @ reverse_rows),
                    right_side + reverse_weight * (reverse_rows.T @ reverse_targets),
                )
            system = SymmetricSystem(matrix)
            for _ in range(_SLIDES):
                # Project onto the tangent plane of the match: a vertex slides along it at no cost.
                projected = current + ((closest - current) * normals).sum(1, keepdim=True) * normals
                rotations = _vertex_rotations(
                    current.numpy(), tails, heads, rest_edges, incidence, rest_squared, stretch
                )
                rotated_edges = 0.5 * np.einsum("eij,ej->ei", rotations[tails] + rotations[heads], rest_edges)
                current = system.solve(
                    torch.from_numpy(
                        stage.stiffness * (incidence @ rotated_edges)
                        + weights[:, None] * projected.numpy()
                        + right_side
                    )
                )
            error = distance[matched].square().mean().sqrt() if bool(matched.any()) else torch.tensor(torch.nan)
            history.append(float(error))
            bar.update()
            bar.set_postfix_str(f"{1e3 * history[-1]:.2f} mm over {int(matched.sum())} vertices")
    bar.close()
    final_stage = stages[-1] if stages else Stage(1.0, 0.02)
    _, _, valid, distance = surface.find(
        current, vertex_normals(current, triangles), final_stage.reach, final_stage.angle
    )
    return Registration(current, valid & active, distance, tuple(history))


def _vertex_rotations(
    current: np.ndarray,
    tails: np.ndarray,
    heads: np.ndarray,
    rest_edges: np.ndarray,
    incidence: scipy.sparse.csr_matrix,
    rest_squared: np.ndarray,
    stretch: float,
) -> Float[np.ndarray, "v 3 3"]:
    """For each vertex, the rotation times bounded scale that best maps its rest edges to its current edges."""
    edge = current[tails] - current[heads]
    covariance = (incidence @ (edge[:, :, None] * rest_edges[:, None, :]).reshape(-1, 9)).reshape(-1, 3, 3)
    u, values, v = np.linalg.svd(covariance)
    reflected = np.linalg.det(u @ v) < 0
    u[reflected, :, 2] *= -1
    values[reflected, 2] *= -1
    scale = np.clip(values.sum(1) / np.maximum(rest_squared, 1e-30), 1 / stretch, stretch)
    return scale[:, None, None] * (u @ v)
