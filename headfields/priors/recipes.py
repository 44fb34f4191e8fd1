"""What a prior is trained with, for the paper's sizes and for minutes on a CPU."""

from dataclasses import dataclass, replace

from headfields.data.scans import PointCounts
from headfields.priors.losses import PriorWeights
from headfields.priors.schedule import PriorSchedule

__all__ = ["PAPER_RECIPE", "SMALL_RECIPE", "PriorRecipe"]


@dataclass(frozen=True)
class PriorRecipe:
    """What `PriorTrainer` is given.

    Attributes:
        weights: of the terms.
        schedule: of learning rates.
        counts: points of a scan in a step.
        scans_per_step: how many scans.
        noise: on codes, see `PriorTrainer`.
        minutes: how long `headfields train-prior` trains if it is not told.
    """

    weights: PriorWeights
    schedule: PriorSchedule
    counts: PointCounts
    scans_per_step: int
    noise: float | int
    minutes: float | int


PAPER_RECIPE = PriorRecipe(PriorWeights(), PriorSchedule(), PointCounts(), 64, 0.0, 60 * 24 * 2)
"""MonoNPHM's, as released: 16 scans a step on each of four GPUs. The two days are a guess; the code does not say."""

SMALL_RECIPE = PriorRecipe(
    weights=PriorWeights(distance=1.0, anchors=1000.0),
    schedule=PriorSchedule(
        networks=2e-3, identity=4e-3, expression=1e-2, halvings=(0.5, 0.7, 0.85, 0.95), warm_up=0.02
    ),
    counts=replace(PointCounts().scaled(0.25), detail=0.5),
    scans_per_step=8,
    noise=0.5,
    minutes=25,
)
"""Our own choice for minutes on a CPU, with `mononphm(small=True)`: fewer points, half of them where triangles are
small, higher rates that fall later, noise on codes, and distances near the surface, which meshes know. Anchors count as
much as correspondences: with the published 7.5 they follow the distances' gradient for as long as such a run lasts, and
are the same for everybody."""
