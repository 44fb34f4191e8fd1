"""Losses on learned corrections (`headfields.deformers.ErrorWarp`): elastic energy and magnitude (MonoAvatar).

The number of samples per step and the unit of the magnitude are our own choices.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.losses.base import (
    check_positive,
    check_rays,
    drawn_by_weight,
    drawn_evenly,
    field_of,
    mean_over_rays,
    samples_of,
    zero_of,
)
from headfields.ops.log_strain import log_strain
from headfields.parts import Correction, Rendering
from headfields.records import Canonical, PixelBatch


@dataclass(frozen=True)
class Elastic:
    """Keeps a learned correction close to rigid wherever there is matter (Nerfies, section 3.3, used by MonoAvatar).

    The sum over samples of w · ρ(‖log Σ‖), divided by the N rays: Σ are the singular values of the correction's
    Jacobian, ρ is Geman and McClure's function 2 (x / scale)² / ((x / scale)² + 4), and w is the sample's rendering
    weight, detached, so that empty space may bend freely. Zero while the correction is off.

    Attributes:
        weight: factor of the loss in the total, before step `after`.
        final_weight: the same from then on (MonoAvatar: 1e-4, and 1e-5 from step 155,000 of 400,000).
        after: step from which `final_weight` holds.
        scale: scale of the robust function, in units of log σ.
        samples: maximum number of samples per step with a Jacobian, which costs four times the networks' products.
            They are drawn in proportion to w, with replacement, so the expected loss is that over all samples.
        name: column in the log.

    Raises:
        ValueError: weight, scale or samples is not positive; when called, the avatar has no correction, or it renders
            in evaluation mode, in which corrections are off.
    """

    weight: float | int = 1e-4
    final_weight: float | int = 1e-5
    after: int = 155_000
    scale: float | int = 0.03
    samples: int = 1024
    name: str = "elastic"

    def __post_init__(self) -> None:
        check_positive("Elastic", weight=self.weight, scale=self.scale, samples=self.samples)

    def phase(self, step: int) -> bool:
        """What of the step the loss depends on: see `Loss`."""
        return step >= self.after

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to the correction's parameters alone."""
        check_rays(self.name, rendering, batch)
        canonical, weights = samples_of(self.name, rendering)
        if len(weights) <= self.samples:
            drawn, shares = torch.arange(len(weights), device=weights.device), weights
        else:
            drawn = drawn_by_weight(weights, self.samples)
            shares = (weights.sum() / self.samples).expand(self.samples)
        loss = zero_of(rendering)
        for correction in _corrections(self.name, rendering, canonical[drawn], jacobians=True):
            assert correction.jacobian is not None
            square = log_strain(correction.jacobian) / self.scale**2
            loss = loss + mean_over_rays(shares * 2 * square / (square + 4), batch)
        return loss * (self.final_weight / self.weight) if step >= self.after else loss


@dataclass(frozen=True)
class WarpMagnitude:
    """Keeps a learned correction T small: Σ‖q - T(q)‖² over samples (MonoAvatar), divided by the N rays.

    Zero while the correction is off. Test frames are rendered without the correction, so a shift that all training
    frames share is lost there, and the color loss does not notice. The paper gives no unit for its weight. In meters
    the loss is next to nothing; in centimeters a millimeter at eight samples per ray costs 8e-4, a few percent of the
    color loss of a trained avatar.

    Attributes:
        weight: factor of the loss in the total (MonoAvatar: 1e-2).
        unit: meters that count as 1.
        samples: maximum number of samples per step, drawn uniformly with replacement; their mean
            stands for that of all.
        name: column in the log.

    Raises:
        ValueError: unit or samples is not positive; when called, as `Elastic`.
    """

    weight: float | int = 1e-2
    unit: float | int = 0.01
    samples: int = 1024
    name: str = "magnitude"

    def __post_init__(self) -> None:
        check_positive("WarpMagnitude", unit=self.unit, samples=self.samples)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss in square units; gradients flow to the correction's parameters alone."""
        check_rays(self.name, rendering, batch)
        canonical, _ = samples_of(self.name, rendering)
        drawn, shares = drawn_evenly(rendering, len(canonical), self.samples)
        loss = zero_of(rendering)
        for correction in _corrections(self.name, rendering, canonical[drawn]):
            squared = ((correction.after - correction.before) / self.unit).square().sum(-1)
            loss = loss + (squared * shares).sum() / max(len(batch), 1)
        return loss


def _corrections(name: str, rendering: Rendering, samples: Canonical, jacobians: bool = False) -> list[Correction]:
    field = field_of(name, rendering)
    try:
        return field.corrections(samples.posed_points, samples.frame, jacobians)
    except ValueError as error:
        raise ValueError(f"{name} loss: {error}") from error
