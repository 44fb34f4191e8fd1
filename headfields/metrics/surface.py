"""Surface metrics: chamfer distances, normal consistency, precision, recall and F-score.

Distances are measured from points to the other surface itself, not to its vertices, in meters.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.mesh.distances import SurfaceDistances, SurfaceTree
from headfields.mesh.mesh import Mesh

THRESHOLDS = (0.001, 0.0025, 0.005, 0.01)
"""Meters: the distances below which MonoNPHM's evaluation counts a scan's points as reconstructed."""

Directions = Literal["both", "truth_to_surface"]


@dataclass(frozen=True)
class OneWay:
    """Weighted means over the points of one side; NaN if no point has weight.

    Attributes:
        chamfer_l1: mean of |Δx| + |Δy| + |Δz|, meters, with Δ from a point to the nearest point of the other side.
        chamfer_l2: mean of ‖Δ‖ (not squared), meters.
        normal_consistency: mean of |n · n̂|, with the normals n at the point and n̂ at its nearest point; NaN without
            normals.
        within: for each threshold, share of points with ‖Δ‖ up to it.
        points: number of points with weight.
    """

    chamfer_l1: float
    chamfer_l2: float
    normal_consistency: float
    within: dict[float, float]
    points: int


@dataclass(frozen=True)
class GeometryMetrics:
    """The result of `compare_surfaces`.

    Attributes:
        chamfer_l1, chamfer_l2, normal_consistency: means of both directions, or those of `completeness` if only that
            was computed.
        recall: for each threshold, share of the truth within it from the surface, which MonoNPHM's evaluation
            prints as its F-score.
        precision: for each threshold, share of the surface within it from the truth; NaN for one direction.
        fscore: for each threshold, 2 · precision · recall / (precision + recall), 0 where both are 0; NaN for one
            direction.
        completeness: metrics from the truth to the surface.
        accuracy: metrics from the surface to the truth; None for one direction.
    """

    chamfer_l1: float
    chamfer_l2: float
    normal_consistency: float
    recall: dict[float, float]
    precision: dict[float, float]
    fscore: dict[float, float]
    completeness: OneWay
    accuracy: OneWay | None

    def to_json(self) -> dict[str, object]:
        """The metrics for JSON: NaN becomes None, and thresholds become strings in millimeters ("2.5mm")."""

        def plain(value: object) -> object:
            if isinstance(value, dict):
                return {
                    f"{1e3 * key:g}mm" if isinstance(key, float) else key: plain(entry) for key, entry in value.items()
                }
            return None if isinstance(value, float) and value != value else value

        return {key: plain(value) for key, value in dataclasses.asdict(self).items()}


@torch.no_grad()
def compare_surfaces(
    surface: Mesh,
    truth: Mesh,
    thresholds: Sequence[float] = THRESHOLDS,
    directions: Directions = "both",
    weights: Float[Tensor, " n"] | Bool[Tensor, " n"] | None = None,
    samples: int = 100_000,
    seed: int = 0,
) -> GeometryMetrics:
    """Compares a surface with the truth.

    A side with faces is represented by `samples` points drawn uniformly from it, a side without by its vertices.

    Args:
        surface: the surface to evaluate; a mesh, or points (a `Mesh` without faces).
        truth: a mesh, or a scan's points (with normals, for the normal consistency).
        thresholds: meters.
        directions: `"both"`, or `"truth_to_surface"` for recall alone, as MonoNPHM's evaluation does for scans that
            cover a part of the head.
        weights: (V,) nonnegative weights of the truth's vertices, or a mask; interpolated at drawn points. Points of
            weight 0 are left out, and so are points of the surface whose nearest point of the truth has weight 0.
        samples: number of points drawn from a side with faces.
        seed: seed of the random numbers.

    Returns:
        The metrics; NaN if no point has weight.

    Raises:
        ValueError: a mesh has no vertices, or an argument is out of range.

    Source: chamfer_l1, chamfer_l2, normal consistency and recall as in MonoNPHM's evaluation (Giebenhain et al. 2024);
    precision and F-score as in Knapitsch et al. 2017, "Tanks and temples".

    >>> import torch, headfields as hf
    >>> truth = hf.Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> metrics = hf.metrics.compare_surfaces(truth.replace(vertices=truth.vertices + 0.002), truth, samples=100)
    >>> metrics.chamfer_l2 < 0.004, metrics.recall[0.005]
    (True, 1.0)
    """
    if directions not in ("both", "truth_to_surface"):
        raise ValueError(f"compare_surfaces: directions is {directions!r}; expected 'both' or 'truth_to_surface'")
    for name, mesh in (("surface", surface), ("truth", truth)):
        if not len(mesh.vertices):
            raise ValueError(f"compare_surfaces: {name} has no vertices; pass a mesh or points")
    if samples < 1 or any(not threshold > 0 for threshold in thresholds):
        raise ValueError(
            f"compare_surfaces: samples is {samples} and thresholds {list(thresholds)}; all must be positive"
        )
    if weights is not None:
        if weights.shape != truth.vertices.shape[:1]:
            raise ValueError(
                f"compare_surfaces: weights has shape {tuple(weights.shape)}; expected ({len(truth.vertices)},), one "
                "for each vertex of the truth"
            )
        weights = weights.to(truth.vertices)
        if not bool((weights >= 0).all() and weights.isfinite().all()):
            raise ValueError("compare_surfaces: weights holds values that are negative or not finite")
    points, normals, counts = _points(truth, samples, seed, weights)
    nearest = SurfaceTree(surface).distances(points)
    completeness = _one_way(nearest, normals, _has_normals(truth) and _has_normals(surface), counts, thresholds)
    if directions == "truth_to_surface":
        unknown = dict.fromkeys(map(float, thresholds), float("nan"))
        return GeometryMetrics(
            completeness.chamfer_l1, completeness.chamfer_l2, completeness.normal_consistency, completeness.within,
            unknown, dict(unknown), completeness, None,
        )  # fmt: skip
    points, normals, _ = _points(surface, samples, seed + 1, None)
    nearest = SurfaceTree(truth).distances(points)
    counts = torch.ones_like(points[:, 0]) if weights is None else (nearest.interpolate(weights) > 0).to(points)
    accuracy = _one_way(nearest, normals, _has_normals(truth) and _has_normals(surface), counts, thresholds)
    fscore = {}
    for threshold, recall in completeness.within.items():
        precision = accuracy.within[threshold]
        fscore[threshold] = 2 * precision * recall / (precision + recall) if precision + recall != 0 else 0.0
    return GeometryMetrics(
        chamfer_l1=0.5 * (completeness.chamfer_l1 + accuracy.chamfer_l1),
        chamfer_l2=0.5 * (completeness.chamfer_l2 + accuracy.chamfer_l2),
        normal_consistency=0.5 * (completeness.normal_consistency + accuracy.normal_consistency),
        recall=completeness.within, precision=accuracy.within, fscore=fscore,
        completeness=completeness, accuracy=accuracy,
    )  # fmt: skip


def _has_normals(mesh: Mesh) -> bool:
    return bool(len(mesh.faces)) or mesh.normals is not None


def _points(mesh: Mesh, samples: int, seed: int, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The points of a side, their normals and their weights."""
    if len(mesh.faces):
        drawn = mesh.sample(samples, seed)
        counts = torch.ones_like(drawn.points[:, 0])
        if weights is not None:
            counts = (drawn.barycentric * weights[mesh.faces[drawn.face].long()]).sum(-1)
        return drawn.points, drawn.normals, counts
    normals = torch.zeros_like(mesh.vertices) if mesh.normals is None else mesh.normals
    return mesh.vertices, normals, torch.ones_like(mesh.vertices[:, 0]) if weights is None else weights


def _one_way(
    nearest: SurfaceDistances, normals: Tensor, with_normals: bool, weights: Tensor, thresholds: Sequence[float]
) -> OneWay:
    counted = (weights > 0) & nearest.distance.isfinite()
    share = weights[counted].double()
    total = share.sum()

    def mean(values: Tensor) -> float:
        return float((values[counted].double() * share).sum() / total) if len(share) else float("nan")

    agreement = (normals * nearest.normal).sum(-1).abs()
    return OneWay(
        chamfer_l1=mean(nearest.offset.abs().sum(-1)),
        chamfer_l2=mean(nearest.distance),
        normal_consistency=mean(agreement) if with_normals else float("nan"),
        within={float(threshold): mean((nearest.distance <= threshold).double()) for threshold in thresholds},
        points=len(share),
    )
