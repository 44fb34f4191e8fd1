"""Laying points over a surface: iterative closest points, rigid or with one scale."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.mesh.distances import SurfaceDistances, SurfaceTree
from headfields.mesh.mesh import Mesh
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import nearest_rotation
from headfields.ops.rotations import rotation_matrices
from headfields.ops.similarity import Similarity
from headfields.records import Record


@dataclass(frozen=True)
class Alignment(Record):
    """What `align_to_surface` gives.

    Attributes:
        transform: takes the points to the surface; `transform.apply(points)`.
        residual: root of the mean squared distance of the points that count to the surface, meters; NaN for none.
        share: of the points with some weight, how many were kept by the trimming.
        steps: how many were taken.
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
) -> Alignment:
    """The rigid motion, or similarity, that lays points over a surface from where they are (iterative closest points).

    Each step finds the nearest point of the surface to every point, and moves the points toward them. It finds the
    nearest rest, not the best of all: begin within some centimeters and some 20 degrees for a head.

    Args:
        points: (N, 3) meters. Those that are not finite are left out.
        surface: what to lay them over; a mesh, or points (a `Mesh` without faces).
        weights: (N,) how much each point counts, not negative, or a mask.
        scaling: whether one scale is fitted too. Points that could shrink into a corner of the surface, because they
            show little of it, may do so.
        method: `"plane"` lets points slide along the surface, and comes to rest in few steps; it needs normals. A
            step of it that leads away is replaced by one of `"point"`, which never does.
        trim: in [0, 1): the share of points with weight, the farthest ones, left out in each step: for points that show
            what the surface does not have.
        start: where to begin; as they are if None.
        steps: at most so many.
        tolerance: meters; the points are at rest when none moves by more.

    Raises:
        TypeError: points are not floating point.
        ValueError: a shape does not fit, an argument is out of range, fewer than three points count, or the surface has
            no vertices (or, for `"plane"`, no normals).

    No gradient. Source: Besl and McKay 1992 (point), Chen and Medioni 1992 (plane), Chetverikov et al. 2002 (trimmed).
    """
    check_floating("align_to_surface", "points", points)
    check_shape("align_to_surface", "points", points, "N 3")
    if method not in ("plane", "point"):
        raise ValueError(f"align_to_surface: method is {method!r}; expected 'plane' or 'point'")
    if not 0 <= trim < 1 or steps < 1:
        raise ValueError(f"align_to_surface: trim is {trim} and steps {steps}; expected [0, 1) and at least 1")
    tree = SurfaceTree(surface)
    if method == "plane" and not tree.has_normals:
        raise ValueError("align_to_surface: the surface has neither faces nor normals; take method='point'")
    share = torch.ones_like(points[:, 0]) if weights is None else weights.to(points)
    if share.shape != points.shape[:1] or bool((share < 0).any()) or not bool(share.isfinite().all()):
        raise ValueError(
            f"align_to_surface: weights has shape {tuple(share.shape)}; expected ({len(points)},), finite and not "
            "negative"
        )
    usable = (share > 0) & points.isfinite().all(-1)
    if int(usable.sum()) < 3:
        raise ValueError(f"align_to_surface: {int(usable.sum())} points count; give three or more")
    search = _Search(points[usable], share[usable].double(), tree, scaling, trim)
    transform = Similarity.identity() if start is None else start.map(lambda part: part.double())
    transform = transform.to(points.device)
    current = search.look(transform)
    converged, taken = False, 0
    while taken < steps and not converged:
        taken += 1
        following = search.look(search.plane(current)) if method == "plane" else None
        if following is None or not following.cost <= current.cost:
            following = search.look(search.point(current))
        moved = float((following.moved - current.moved).norm(dim=-1).max())
        converged = moved <= tolerance or following.cost >= current.cost  # no further but for rounding
        if following.cost <= current.cost:
            current = following
    kept = int(current.kept.sum())
    return Alignment(current.transform, math.sqrt(current.cost), kept / len(current.kept), taken, converged)


@dataclass(frozen=True)
class _Look:
    """A transform, where the points are under it, and what they are nearest to."""

    transform: Similarity
    moved: Tensor
    found: SurfaceDistances
    kept: Tensor
    cost: float


class _Search:
    def __init__(self, points: Tensor, weights: Tensor, tree: SurfaceTree, scaling: bool, trim: float) -> None:
        self.points, self.weights, self.tree, self.scaling, self.trim = points.double(), weights, tree, scaling, trim
        self.count = max(math.ceil((1 - trim) * len(points)), 3)

    def look(self, transform: Similarity) -> _Look:
        moved = transform.apply(self.points)
        found = self.tree.distances(moved)
        distance = found.distance.double().nan_to_num(math.inf)
        kept = torch.ones_like(distance, dtype=torch.bool)
        if self.count < len(distance):
            kept = distance <= distance.kthvalue(self.count).values
        weights = self.weights[kept]
        cost = float((weights * distance[kept].square()).sum() / weights.sum())
        return _Look(transform, moved, found, kept, cost)

    def point(self, look: _Look) -> Similarity:
        """The transform that takes the kept points nearest to their partners."""
        x, weights = self.points[look.kept], self.weights[look.kept]
        y = (look.moved + look.found.offset.double())[look.kept]
        share = (weights / weights.sum())[:, None]
        middle_x, middle_y = (share * x).sum(0), (share * y).sum(0)
        x, y = x - middle_x, y - middle_y
        rotation, stretch = nearest_rotation((share * y).transpose(0, 1) @ x)
        scale = stretch / (share * x * x).sum().clamp_min(1e-30) if self.scaling else look.transform.scale
        return Similarity(rotation, middle_y - scale * rotation @ middle_x, scale)

    def plane(self, look: _Look) -> Similarity:
        """The transform by which the kept points come nearest to the planes at their partners, to first order."""
        x, normal = look.moved[look.kept], look.found.normal.double()[look.kept]
        gap = (normal * look.found.offset.double()[look.kept]).sum(-1)
        root = self.weights[look.kept].sqrt()
        middle = x.mean(0)
        around = x - middle
        size = around.square().sum(-1).mean().sqrt().clamp_min(1e-12)  # so that all unknowns are lengths
        around = around / size
        columns = [torch.linalg.cross(around, normal), normal]
        if self.scaling:
            columns.append((around * normal).sum(-1, keepdim=True))
        system = torch.cat(columns, dim=-1) * root[:, None]
        # What the surface does not say (a sphere's turning) stays as it is: the shortest solution.
        square = system.transpose(0, 1) @ system
        step = torch.linalg.pinv(square, rtol=1e-9, hermitian=True) @ (system.transpose(0, 1) @ (gap * root))
        turn = rotation_matrices((step[:3] / size)[None])[0]
        grow = (1 + step[6] / size).clamp(0.5, 2.0) if self.scaling else step.new_ones(())
        before = look.transform
        return Similarity(
            turn @ before.rotation,
            grow * turn @ (before.translation - middle) + middle + step[3:6],
            grow * before.scale,
        )
