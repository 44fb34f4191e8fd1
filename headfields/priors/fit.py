"""Codes of someone new, from scans of them: the networks stay as they are."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.priors.codes import PriorCodes
from headfields.priors.evaluate import SurfaceErrors, surface_errors
from headfields.priors.losses import PriorWeights, prior_terms
from headfields.priors.prior import Prior
from headfields.priors.scans import PointCounts, ScanSet
from headfields.priors.scans.batch import generator

__all__ = ["FIT_WEIGHTS", "FittedCodes", "fit_scans"]

FIT_WEIGHTS = PriorWeights(
    eikonal=0.0, correspondence=0.0, anchors=0.0, hyper=0.0, still=0.0, neutral=0.0, empty=0.0, distance=1.0
)
"""What terms count when codes are fitted: those that codes can do something about and scans of one person tell."""


@dataclass(frozen=True)
class FittedCodes:
    """What `fit_scans` gives.

    Attributes:
        codes: B rows; those of shape and appearance are all the same.
        errors: of the scans, as `surface_errors` finds them.
        losses: (steps,) the weighted loss of each step.
    """

    codes: PriorCodes
    errors: SurfaceErrors
    losses: Float[Tensor, " n"]


def fit_scans(
    prior: Prior,
    scans: ScanSet,
    which: Int[Tensor, " b"] | None = None,
    steps: int = 300,
    rate: float = 0.02,
    weights: PriorWeights = FIT_WEIGHTS,
    counts: PointCounts | None = None,
    seed: int = 0,
    progress: bool = False,
) -> FittedCodes:
    """Finds one code of shape and one of appearance for B scans of a person, and one of expression for each.

    Starts at the mean codes and follows the gradient by Adam, its rate falling to nothing along a cosine, along the
    directions in which the codes of the training people differ (`CodeStatistics`).

    Args:
        prior: the model.
        scans: where points come from; for a mesh a `MeshScans` of one, for points a `PointScans`.
        which: (B,) which of its scans, all of one person; all of the set if None.
        steps: of Adam.
        rate: of its first step, in standard deviations of the prior.
        weights: what the terms count.
        counts: points of a step; a third of the usual if None.
        seed: draws the points.
        progress: whether to show a bar.

    Raises:
        ValueError: the scans are of several people.
    """
    which = torch.arange(len(scans)) if which is None else which
    people = {scans.people[p] for p in scans.person[which].tolist()}
    if len(people) != 1:
        raise ValueError(
            f"fit_scans: the scans are of {len(people)} people ({', '.join(sorted(people)[:4])}); fit one after "
            "another, with which=(scans.person == p).nonzero()[:, 0]"
        )
    avatar, counts = prior.avatar, counts or PointCounts().scaled(1 / 3)
    avatar.train()
    needed = [parameter for parameter in avatar.parameters() if parameter.requires_grad]
    ranges = prior.statistics()
    of_person, faces = (ranges.geometry, ranges.appearance), ranges.expression
    free = [x.mean.new_zeros(1, x.axes.shape[1]).requires_grad_() for x in of_person]
    free.append(faces.mean.new_zeros(len(which), faces.axes.shape[1]).requires_grad_())
    optimizer = torch.optim.Adam(free, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))

    def codes() -> PriorCodes:
        found = [x.at(coordinates) for x, coordinates in zip((*of_person, faces), free, strict=True)]
        return PriorCodes(*(x.expand(len(which), -1) for x in found))

    history = []
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        for step in tqdm(range(steps), desc="fitting", unit="step", disable=not progress):
            batch = scans.sample(which, counts, seed + step).to(faces.mean.device)
            terms = prior_terms(avatar, batch, codes(), weights, generator(seed, 5, step), cube=0)
            loss = torch.stack([weights.of(name) * term for name, term in terms.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            history.append(loss.detach())
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
    final = codes()
    final = replace(final, **{name: getattr(final, name).detach() for name in vars(final)})
    errors = surface_errors(avatar, scans, which, final)
    return FittedCodes(final, errors, torch.stack(history) if history else torch.zeros(0))
