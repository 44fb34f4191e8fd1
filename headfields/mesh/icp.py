"""Alignment of points to a surface by iterative closest points (ICP), rigid or with one scale."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.mesh.distances import SurfaceDistances, SurfaceTree
from headfields.mesh.mesh import Mesh
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.mesh_topology import open_edges
from headfields.ops.rotations import rotation_matrices
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.records import Record

_ON_EDGE = 1e-4  # barycentric coordinate below which a nearest point lies on an edge


@dataclass(frozen=True)
class Alignment(Record):
    """The result of `align_to_surface`.

    Attributes:
        transform: takes the points to the surface: `transform.apply(points)`.
        residual: weighted root mean square distance of the kept points to the surface, meters.
        share: fraction of the points of positive weight that trimming kept.
        steps: number of steps.
        converged: whether the points had come to rest.
    """

    transform: Similarity
    residual: float
    share: float
    steps: int
    converged: bool


@torch.no_grad()
def align_to_surface(
    points: Float[Tensor, "n 3"],
    surface: Mesh,
    weights: Float[Tensor, " n"] | Bool[Tensor, " n"] | None = None,
    scaling: bool = False,
    method: Literal["plane", "point"] = "plane",
    trim: float = 0.0,
    start: Similarity | None = None,
    steps: int = 100,
    tolerance: float = 1e-7,
    normals: Float[Tensor, "n 3"] | None = None,
    angle: float | int = 45.0,
) -> Alignment:
    """Aligns points to a surface by a rigid motion or a similarity (iterative closest points).

    Each step finds the surface's nearest point to every point and moves the points toward them. The result is a local
    minimum: for a head, start within a few centimeters and about 20 degrees.

    Args:
        points: (N, 3) meters; points that are not finite are ignored.
        surface: the target; a mesh, or points (a `Mesh` without faces).
        weights: (N,) nonnegative weights of the points, or a mask.
        scaling: whether to fit one scale too. Points that cover little of the surface may shrink into a corner of it.
        method: `"plane"` lets points slide along the surface and converges in few steps; it needs normals. A step that
            increases the cost is replaced by one of `"point"`, which never does.
        trim: fraction, in [0, 1), of the weighted points that each step leaves out, the farthest ones: for points of
            what the surface lacks.
        start: the initial transform; the identity if None.
        steps: maximum number of steps.
        tolerance: meters; the points are at rest once none moves by more.
        normals: (N, 3) unit normals of points on a surface of their own. Each step then leaves out those whose normal
            differs from that of their nearest point, and those beyond an open border, and keeps the rest even where the
            cost, which is then that of other points, increases.
        angle: greatest angle between these normals, degrees.

    Raises:
        TypeError: points are not floating point.
        ValueError: a shape does not fit, an argument is out of range, fewer than three points have weight, or the
            surface has no vertices (or, for `"plane"` and with `normals`, no normals).

    Not differentiable. Source: Besl and McKay 1992 (point), Chen and Medioni 1992 (plane), Chetverikov et al. 2002
    (trimmed).

    >>> import torch, headfields as hf
    >>> head = hf.synthetic.procedural_head()
    >>> mesh = hf.Mesh(head.template_vertices, head.faces)
    >>> aligned = hf.mesh.align_to_surface(mesh.vertices[::10] + 0.01, mesh)
    >>> aligned.transform.translation.round(decimals=3).tolist(), aligned.converged
    ([-0.01, -0.01, -0.01], True)
    """
    check_floating("align_to_surface", "points", points)
    check_shape("align_to_surface", "points", points, "N 3")
    if method not in ("plane", "point"):
        raise ValueError(f"align_to_surface: method is {method!r}; expected 'plane' or 'point'")
    if not 0 <= trim < 1 or steps < 1:
        raise ValueError(f"align_to_surface: trim is {trim} and steps {steps}; expected [0, 1) and at least 1")
    tree = SurfaceTree(surface)
    if (method == "plane" or normals is not None) and not tree.has_normals:
        raise ValueError(
            "align_to_surface: the surface has neither faces nor normals; use method='point' and pass no normals"
        )
    if normals is not None and normals.shape != points.shape:
        raise ValueError(f"align_to_surface: normals has shape {tuple(normals.shape)}; expected {tuple(points.shape)}")
    weight = torch.ones_like(points[:, 0]) if weights is None else weights.to(points)
    if weight.shape != points.shape[:1] or bool((weight < 0).any()) or not bool(weight.isfinite().all()):
        raise ValueError(
            f"align_to_surface: weights has shape {tuple(weight.shape)}; expected ({len(points)},), finite and not "
            "negative"
        )
    usable = (weight > 0) & points.isfinite().all(-1)
    if int(usable.sum()) < 3:
        raise ValueError(f"align_to_surface: {int(usable.sum())} points have weight; pass three or more")
    facing = None if normals is None else (normals[usable].double(), math.cos(math.radians(angle)))
    search = _Search(points[usable], weight[usable].double(), tree, scaling, trim, facing)
    transform = Similarity.identity() if start is None else start.map(lambda part: part.double())
    transform = transform.to(points.device)
    current = search.evaluate(transform)
    converged, count = False, 0
    while count < steps and not converged and int(current.inliers.sum()) >= 3:
        count += 1
        following = search.evaluate(search.plane(current)) if method == "plane" else None
        if following is None or (normals is None and not following.cost <= current.cost):
            following = search.evaluate(search.point(current))
        moved = float((following.moved - current.moved).norm(dim=-1).max())
        converged = moved <= tolerance or (normals is None and following.cost >= current.cost)  # the rest is rounding
        if following.cost <= current.cost or normals is not None:
            current = following
    inliers = int(current.inliers.sum())
    return Alignment(current.transform, math.sqrt(current.cost), inliers / len(current.inliers), count, converged)


@dataclass(frozen=True)
class _Candidate:
    """A transform, the points under it, their nearest points, which of them trimming keeps, and the cost."""

    transform: Similarity
    moved: Tensor
    nearest: SurfaceDistances
    inliers: Tensor
    cost: float


class _Search:
    def __init__(
        self,
        points: Tensor,
        weights: Tensor,
        tree: SurfaceTree,
        scaling: bool,
        trim: float,
        facing: tuple[Tensor, float] | None,
    ) -> None:
        self.points, self.weights, self.tree, self.scaling, self.trim = points.double(), weights, tree, scaling, trim
        self.facing = facing
        faces = tree.surface.faces
        self.open = open_edges(faces) if facing is not None and len(faces) else None

    def evaluate(self, transform: Similarity) -> _Candidate:
        moved = transform.apply(self.points)
        nearest = self.tree.distances(moved)
        distance = nearest.distance.double().nan_to_num(math.inf)
        inliers = torch.ones_like(distance, dtype=torch.bool)
        if self.facing is not None:
            normals, cosine = self.facing
            turned = normals @ transform.rotation.to(normals).transpose(0, 1)
            inliers = (nearest.normal.double() * turned).sum(-1) > cosine
            if self.open is not None:
                inliers &= ~((nearest.barycentric < _ON_EDGE) & self.open[nearest.face]).any(-1)
            distance = torch.where(inliers, distance, math.inf)
        count = max(math.ceil((1 - self.trim) * int(inliers.sum())), 3)
        if count < len(distance):
            inliers = inliers & (distance <= distance.kthvalue(count).values)
        weights = self.weights[inliers]
        cost = float((weights * distance[inliers].square()).sum() / weights.sum())
        return _Candidate(transform, moved, nearest, inliers, cost)

    def point(self, candidate: _Candidate) -> Similarity:
        """The transform that minimizes the squared distances of the kept points to their nearest points."""
        inliers, scale = candidate.inliers, candidate.transform.scale
        nearest = (candidate.moved + candidate.nearest.offset.double())[inliers]
        fit = fit_similarity(scale * self.points[inliers], nearest, self.scaling, self.weights[inliers])
        return fit.replace(scale=fit.scale * scale)

    def plane(self, candidate: _Candidate) -> Similarity:
        """The transform that minimizes the squared distances to the tangent planes, to first order."""
        x, normal = candidate.moved[candidate.inliers], candidate.nearest.normal.double()[candidate.inliers]
        gap = (normal * candidate.nearest.offset.double()[candidate.inliers]).sum(-1)
        root = self.weights[candidate.inliers].sqrt()
        middle = x.mean(0)
        around = x - middle
        size = around.square().sum(-1).mean().sqrt().clamp_min(1e-12)  # so that all unknowns are lengths
        around = around / size
        columns = [torch.linalg.cross(around, normal), normal]
        if self.scaling:
            columns.append((around * normal).sum(-1, keepdim=True))
        system = torch.cat(columns, dim=-1) * root[:, None]
        # The minimum-norm solution leaves alone what the surface does not determine, such as the rotation of a sphere.
        square = system.transpose(0, 1) @ system
        step = torch.linalg.pinv(square, rtol=1e-9, hermitian=True) @ (system.transpose(0, 1) @ (gap * root))
        turn = rotation_matrices((step[:3] / size)[None])[0]
        grow = (1 + step[6] / size).clamp(0.5, 2.0) if self.scaling else step.new_ones(())
        before = candidate.transform
        return Similarity(
            turn @ before.rotation,
            grow * turn @ (before.translation - middle) + middle + step[3:6],
            grow * before.scale,
        )
