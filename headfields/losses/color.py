"""Training losses: small callables with a name and a weight, to be put in the trainer's list.

A loss is anything that is called as `loss(rendering, batch, step)`, returns a scalar tensor, and has the attributes
`name` (its column in the log) and `weight` (what the trainer multiplies it with). All here are means over the N rays
of the batch, so that a weight keeps its meaning when the number of rays changes, and N = 0 or an empty mask gives a
zero that is still attached to the graph. All are differentiable once; the color and opacity losses twice.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from headfields.losses.surface import Eikonal, SoftJaccard, SurfacePrior, check_more_than_0, check_rays, samples_of
from headfields.ops.log_strain import log_strain
from headfields.parts import Correction
from headfields.records import Canonical, PixelBatch, Rendering

__all__ = [
    "LIPS_AND_MOUTH",
    "DepthPrior",
    "Eikonal",
    "Elastic",
    "HuberColor",
    "Loss",
    "OpacityLoss",
    "SoftJaccard",
    "SquaredColor",
    "SurfacePrior",
    "WarpMagnitude",
    "insta_losses",
    "monoavatar_losses",
]

LIPS_AND_MOUTH = (120, 130, 140)
"""Labels of the lower lip, the upper lip and the mouth's interior in INSTA's segmentation."""


@runtime_checkable
class Loss(Protocol):
    """What the trainer asks of a loss."""

    @property
    def name(self) -> str:
        """Its column in the log."""
        ...

    @property
    def weight(self) -> float | int:
        """What the trainer multiplies it with."""
        ...

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The value before weighting: `rendering` and `batch` hold the same N rays, `step` counts from 0."""
        ...


@dataclass(frozen=True)
class HuberColor:
    """Huber loss on color, with more weight on the mouth (INSTA, Zielonka et al., CVPR 2023, and its released code).

    The sum over N rays of w · sum over RGB of huber(rendering.rgb - batch.target; delta) / delta / 5, divided by N (not
    by the sum of the weights: a batch with more of the mouth in it counts for more, as in the released code). Its slope
    is at most 1 / 5 a channel, as the released code's is, beside the 1.25 of `DepthPrior`: the ratio matters.

    Attributes:
        delta: where the loss turns from quadratic to linear, in units of color.
        mouth_weight: w of rays whose label is one of `mouth_labels`, from step `mouth_start` on; 1 elsewhere. A batch
            without labels is weighted evenly.
        mouth_labels: labels that count as the mouth.
        mouth_start: the first step with the weighting; before it, a closed mouth is all there is to learn.
        weight: what the trainer multiplies the loss with.
        name: column in the log.
    """

    delta: float | int = 0.1
    mouth_weight: float | int = 40.0
    mouth_labels: tuple[int, ...] = LIPS_AND_MOUTH
    mouth_start: int = 500
    weight: float | int = 1.0
    name: str = "color"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `rendering.rgb` and `batch.target` are (N, 3) sRGB."""
        check_rays(self.name, rendering, batch)
        huber = functional.huber_loss(rendering.rgb, batch.target, reduction="none", delta=self.delta) / self.delta
        per_ray = huber.sum(-1) / 5
        if batch.label is not None and step >= self.mouth_start and self.mouth_weight != 1:
            weights = torch.where(_is_any(batch.label, self.mouth_labels), self.mouth_weight, 1.0)
            per_ray = per_ray * weights
        return per_ray.sum() / max(len(batch), 1)


@dataclass(frozen=True)
class SquaredColor:
    """Squared difference of colors, summed over RGB and meaned over the rays; of a coarse network's too, where it is.

    The loss of NeRF (Mildenhall et al. 2020, equation 6) and of MonoAvatar (Bai et al. 2023).

    Attributes:
        weight: what the trainer multiplies the loss with.
        name: column in the log.
    """

    weight: float | int = 1.0
    name: str = "color"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `rendering.rgb`, `rendering.coarse.rgb` and `batch.target` are (N, 3) sRGB."""
        check_rays(self.name, rendering, batch)
        error = (rendering.rgb - batch.target).square().sum()
        if rendering.coarse is not None:
            error = error + (rendering.coarse.rgb - batch.target).square().sum()
        return error / max(len(batch), 1)


@dataclass(frozen=True)
class DepthPrior:
    """L1 between the expected depth along each ray and the depth of the tracked mesh (INSTA, released code).

    |rendering.depth - batch.depth · batch.depth_scale| in meters, summed over the rays where the capture has an
    opinion that counts, divided by all N rays. Those are: label above `above_label` and at most `up_to_label` (skin,
    brows, eyes, nose, mouth, neck; not hair, hat or cloth, which the mesh does not model), alpha at least `min_alpha`,
    depth above 0. A capture without labels or without depth adds nothing.

    Attributes:
        above_label, up_to_label: the labels that take part.
        min_alpha: matte below which a pixel is background.
        start: the first step with the term. The expected depth of a ray that is still half transparent falls far
            short, and the cure that lies nearest is to make all of space opaque, from which nothing recovers: measured
            with a learning rate of 0.01. The released code, with a sixth of that rate, has the term from the start.
        weight: what the trainer multiplies the loss with.
        name: column in the log.
    """

    above_label: int = 90
    up_to_label: int = 250
    min_alpha: float | int = 0.001
    start: int = 500
    weight: float | int = 1.25
    name: str = "depth"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss in meters; gradients flow to `rendering.depth`."""
        check_rays(self.name, rendering, batch)
        if step < self.start or batch.depth is None or batch.depth_scale is None or batch.label is None:
            return rendering.depth.sum() * 0
        mask = (batch.label > self.above_label) & (batch.label <= self.up_to_label)
        mask = mask & (batch.alpha >= self.min_alpha) & (batch.depth > 0)
        wanted = batch.depth * batch.depth_scale
        difference = torch.where(mask, rendering.depth - wanted, 0.0)  # where before abs: a NaN depth outside is cut
        return difference.abs().sum() / max(len(batch), 1)


@dataclass(frozen=True)
class OpacityLoss:
    """Squared difference between opacity and the matte, meaned over rays (our own choice; INSTA has no such term).

    INSTA learns emptiness from random backgrounds alone. With few rays a step this term gets there sooner: worth a
    weight of 0.01 to 0.1 where training is short.

    Attributes:
        weight: what the trainer multiplies the loss with.
        name: column in the log.
    """

    weight: float | int = 0.1
    name: str = "opacity"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to `rendering.opacity`."""
        check_rays(self.name, rendering, batch)
        return (rendering.opacity - batch.alpha).square().sum() / max(len(batch), 1)


@dataclass(frozen=True)
class Elastic:
    """Keeps a learned correction (`headfields.deformers.ErrorWarp`) close to rigid wherever there is matter.

    The sum over samples of w · ρ(‖log Σ‖), divided by the N rays: Σ are the singular values of the correction's
    Jacobian, ρ is Geman and McClure's function 2 (x / scale)² / ((x / scale)² + 4), and w is the sample's rendering
    weight, through which no gradient flows: empty space may bend as it likes. Nerfies, section 3.3, as MonoAvatar takes
    it. Zero while the correction is off.

    Attributes:
        weight: what the trainer multiplies the loss with, before step `after`.
        final_weight: the same from then on (MonoAvatar: 1e-4, and 1e-5 from step 155,000 of 400,000).
        after: see `final_weight`.
        scale: of the robust function, in units of log σ.
        samples: the Jacobian is taken at so many samples of a step, drawn with probabilities in proportion to w (with
            replacement), which leaves the mean of the loss over draws as it is; at all if there are no more. Our own
            choice: a Jacobian costs four times the networks' products.
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
        check_more_than_0("Elastic", weight=self.weight, scale=self.scale, samples=self.samples)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to the correction's parameters alone."""
        check_rays(self.name, rendering, batch)
        canonical, weights = samples_of(self.name, rendering)
        total = weights.sum()
        if len(weights) <= self.samples or not bool(total > 0):
            chosen, shares = torch.arange(len(weights), device=weights.device), weights
        else:
            chosen = torch.multinomial(weights, self.samples, replacement=True)
            shares = (total / self.samples).expand(self.samples)
        loss = rendering.opacity.sum() * 0
        for correction in _corrections(self.name, rendering, canonical[chosen], jacobians=True):
            assert correction.jacobian is not None
            square = log_strain(correction.jacobian) / self.scale**2
            loss = loss + (shares * 2 * square / (square + 4)).sum() / max(len(batch), 1)
        return loss * (self.final_weight / self.weight) if step >= self.after else loss


@dataclass(frozen=True)
class WarpMagnitude:
    """Keeps a learned correction (`headfields.deformers.ErrorWarp`) small: Σ‖q - T(q)‖² over samples (MonoAvatar).

    Summed over the samples of all rays and divided by the N rays, as the paper's photometric sum is here. Zero while
    the correction is off.

    Test frames do without the correction, so a shift that all training frames share costs there what it gained here,
    and the color loss does not mind it. The paper gives no unit for its weight. In meters it is next to nothing; in
    centimeters a millimeter at eight samples a ray costs 8e-4, a few per cent of what a trained avatar's color does.

    Attributes:
        weight: what the trainer multiplies the loss with (MonoAvatar: 1e-2).
        unit: meters that count as 1; our own choice.
        samples: the correction is asked at so many samples of a step, drawn evenly (with replacement), and their mean
            is taken for that of all; at all if there are no more. Our own choice.
        name: column in the log.

    Raises:
        ValueError: unit or samples is not positive; when called, as `Elastic`.
    """

    weight: float | int = 1e-2
    unit: float | int = 0.01
    samples: int = 1024
    name: str = "magnitude"

    def __post_init__(self) -> None:
        check_more_than_0("WarpMagnitude", unit=self.unit, samples=self.samples)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss in square units; gradients flow to the correction's parameters alone."""
        check_rays(self.name, rendering, batch)
        canonical, _ = samples_of(self.name, rendering)
        count, device = len(canonical), canonical.points.device
        few = count <= self.samples
        chosen = torch.arange(count, device=device) if few else torch.randint(count, (self.samples,), device=device)
        loss = rendering.opacity.sum() * 0
        for correction in _corrections(self.name, rendering, canonical[chosen]):
            moved = ((correction.after - correction.before) / self.unit).square().sum()
            loss = loss + moved * (count / max(len(chosen), 1)) / max(len(batch), 1)
        return loss


def insta_losses(depth: float | int = 0.1) -> list[Loss]:
    """What INSTA trains with: Huber color with a heavier mouth, and the depth of the tracked mesh.

    Args:
        depth: weight of the depth prior; 0 leaves it out. INSTA's is 1.25, over 33,000 steps on a GPU. The default is
            our own choice: in minutes on a CPU the full weight costs a decibel, and this one nothing (docs/insta.md).
    """
    return [HuberColor(), DepthPrior(weight=depth)] if depth else [HuberColor()]


def _corrections(name: str, rendering: Rendering, chosen: Canonical, jacobians: bool = False) -> list[Correction]:
    try:
        return rendering.field.corrections(chosen.posed_points, chosen.frame, jacobians)
    except ValueError as error:
        raise ValueError(f"{name} loss: {error}") from error


def monoavatar_losses(depth: float | int = 0) -> list[Loss]:
    """What MonoAvatar trains with: squared color, and the warp elastic and small, with the paper's weights.

    Args:
        depth: weight of INSTA's depth prior beside them; the paper has none.
    """
    losses: list[Loss] = [SquaredColor(), Elastic(), WarpMagnitude()]
    return [*losses, DepthPrior(weight=depth)] if depth else losses


def _is_any(labels: Integer[Tensor, " n"], wanted: tuple[int, ...]) -> Tensor:
    mask = torch.zeros_like(labels, dtype=torch.bool)
    for value in wanted:
        mask |= labels == value
    return mask
