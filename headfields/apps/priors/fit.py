"""Fitting a prior to scans of a new person: codes are optimized, the networks are frozen."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from headfields.apps.priors.codes import PriorCodes
from headfields.apps.priors.evaluate import SurfaceErrors, surface_errors
from headfields.apps.priors.losses import PriorWeights, prior_terms
from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans.batch import PointCounts, ScanSet, generator
from headfields.runs.nonfinite import SkippedSteps, finite_gradients

__all__ = ["FIT_WEIGHTS", "FittedCodes", "fit_scans"]

FIT_WEIGHTS = PriorWeights(
    eikonal=0.0, correspondence=0.0, anchors=0.0, hyper=0.0, still=0.0, neutral=0.0, empty=0.0, distance=1.0
)
"""Weights for fitting: terms that depend on the codes and that scans of one person constrain."""
EXPRESSION_RATE = 3.0
"""Rate of expressions relative to that of identities. The length of Adam's steps does not depend on the gradient: at
the default rate 300 steps lead 3 standard deviations at most, enough for a person. But a rare expression is far off:
a wink, in one of 30 drawn scans, is 6 standard deviations from the mean, and half of it was in reach."""


@dataclass(frozen=True)
class FittedCodes:
    """The result of `fit_scans`.

    Attributes:
        codes: B rows, with the same geometry and appearance in all.
        errors: errors of the scans, by `surface_errors`.
        losses: (steps,) the weighted loss of each step.
        skipped: number of steps that were skipped because the loss or a gradient was not finite.
    """

    codes: PriorCodes
    errors: SurfaceErrors
    losses: Float[Tensor, " n"]
    skipped: int = 0


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
    """Fits one geometry and one appearance code to B scans of a person, and an expression code to each scan.

    Starts at the mean codes and optimizes along the principal axes of the training codes (`CodeStatistics`) by Adam,
    with a cosine-annealed rate. Expressions have three times the rate of identities.

    Args:
        prior: the model.
        scans: the set of scans: `MeshScans` of one mesh, or `PointScans` of a point cloud, for a single scan.
        which: (B,) numbers of scans in the set, all of one person; all if None.
        steps: number of Adam steps.
        rate: initial learning rate of the identity, in standard deviations of the prior: a coordinate moves by at most
            half of rate · steps, three times as far in expressions.
        weights: weights of the loss terms.
        counts: points per step; if None, a third of the default, half of the face's at eyes and mouth of meshes with
            landmarks.
        seed: seed of the point sampling.
        progress: whether to show a bar.

    Raises:
        ValueError: the scans are of several people.
        NanLossError: ten steps in a row had a loss or a gradient that is not finite. Such a step is skipped.
    """
    which = torch.arange(len(scans)) if which is None else which
    people = {scans.people[p] for p in scans.person[which].tolist()}
    if len(people) != 1:
        raise ValueError(
            f"fit_scans: the scans are of {len(people)} people ({', '.join(sorted(people)[:4])}); fit one at a "
            "time, with which=(scans.person == p).nonzero()[:, 0]"
        )
    avatar, counts = prior.avatar, counts or replace(PointCounts().scaled(1 / 3), features=0.5)
    avatar.train()
    trainable = [parameter for parameter in avatar.parameters() if parameter.requires_grad]
    statistics = prior.statistics()
    per_code = (statistics.geometry, statistics.appearance, statistics.expression)
    rows = (1, 1, len(which))
    free = [x.mean.new_zeros(n, x.axes.shape[1]).requires_grad_() for x, n in zip(per_code, rows, strict=True)]
    groups: list[dict[str, Any]] = [{"params": free[:2]}, {"params": free[2:], "lr": EXPRESSION_RATE * rate}]
    optimizer = torch.optim.Adam(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))

    def codes() -> PriorCodes:
        return PriorCodes(*(x.at(at).expand(len(which), -1) for x, at in zip(per_code, free, strict=True)))

    losses, skipped = [], SkippedSteps("scan")
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for step in tqdm(range(steps), desc="fitting", unit="step", disable=not progress):
            batch = scans.sample(which, counts, seed + step).to(free[0].device)
            terms = prior_terms(avatar, batch, codes(), weights, generator(seed, 5, step), cube=0)
            loss = torch.stack([weights.of(name) * term for name, term in terms.items()]).sum()
            optimizer.zero_grad()
            loss.backward(inputs=free)
            if finite_gradients(loss, free):
                skipped.accept()
                optimizer.step()
                schedule.step()
            else:
                skipped.skip(step, "the loss or a gradient", [scans.scans[scan] for scan in which.tolist()])
            losses.append(loss.detach())
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    final = codes()
    final = replace(final, **{name: getattr(final, name).detach() for name in vars(final)})
    errors = surface_errors(avatar, scans, which, final)
    return FittedCodes(final, errors, torch.stack(losses) if losses else torch.zeros(0), skipped.total)
