"""Training settings of priors (recipes): the paper's, and our own for minutes on a CPU."""

from dataclasses import dataclass, replace

from headfields.apps.priors.losses import PriorWeights
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.schedule import PriorSchedule

__all__ = ["PAPER_RECIPE", "SMALL_POINTS_RECIPE", "SMALL_RECIPE", "PriorRecipe"]


@dataclass(frozen=True)
class PriorRecipe:
    """Arguments of `PriorTrainer`.

    Attributes:
        weights: weights of the loss terms.
        schedule: schedule of the learning rates.
        counts: points per scan and step.
        scans_per_step: number of scans per step.
        noise: noise on codes, see `PriorTrainer`.
        principal: whether codes start at `principal_codes`, which needs registered meshes.
        minutes: default training time of `headfields train-prior`.
    """

    weights: PriorWeights
    schedule: PriorSchedule
    counts: PointCounts
    scans_per_step: int
    noise: float | int
    principal: bool
    minutes: float | int


PAPER_RECIPE = PriorRecipe(PriorWeights(), PriorSchedule(), PointCounts(), 64, 0.0, False, 60 * 24 * 2)
"""MonoNPHM's, as released: 16 scans per step on each of four GPUs. The two days are a guess; the code has no time."""

SMALL_POINTS_RECIPE = PriorRecipe(
    weights=PriorWeights(distance=1.0, anchors=1000.0),
    schedule=PriorSchedule(
        networks=2e-3, identity=4e-3, expression=1e-2, halvings=(0.5, 0.7, 0.85, 0.95), warm_up=0.02
    ),
    counts=PointCounts().scaled(0.25),
    scans_per_step=8,
    noise=0.5,
    principal=False,
    minutes=25,
)
"""Our own choice for minutes on a CPU, with `mononphm(small=True)`: fewer points, higher rates that fall later, noise
on codes, and the distance term where distances are known. Anchors have the weight of correspondences: with the
published 7.5 the gradient of the distance terms dominates them for such a short run, and anchors are the same for
all people."""

SMALL_RECIPE = replace(
    SMALL_POINTS_RECIPE,
    weights=replace(SMALL_POINTS_RECIPE.weights, correspondence=10000.0),
    schedule=replace(SMALL_POINTS_RECIPE.schedule, identity=1e-3, expression=2e-3, correspondence_after=1.0),
    counts=replace(SMALL_POINTS_RECIPE.counts, correspondences=128, detail=0.25, features=0.5, lids=0.5),
    noise=0.1,
    principal=True,
)
"""The same for registered meshes: half of the points are drawn at eyes and mouth (of meshes with landmarks), a quarter
where triangles are small; codes start at principal components and move less from there, so a fifth of the noise is
enough; correspondences have ten times the weight to the end, without which the small deformation moves lips only two
thirds of their way, and half of the face's are on lid skin, without which lids do not close."""
