"""Losses on blendfields: few of the fields at a point, smooth in space, straight between expressions.

Called as those in `headfields.losses` are. The paper's regularizers are not known; all of these are our own choice.
Each is the mean over points drawn where there is matter, with probabilities in proportion to the samples' rendering
weights, through which no gradient flows: empty space may move as it likes. Gradients flow to the parameters of the
blendfield alone. A rendering without samples gives a zero that is still attached to the graph.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.deformers.blendfield import Blendfield, mixed
from headfields.losses.color import Loss, insta_losses
from headfields.losses.surface import check_more_than_0
from headfields.records import PixelBatch, Rendering


@dataclass(frozen=True)
class BlendSparsity:
    """Σ_k |α_k| ‖D_k(x)‖: few fields move a point, and none where none is needed.

    A product of coefficient and field, and so blind to how the size of a displacement is shared between the two.

    Attributes:
        weight: what the trainer multiplies the loss with.
        unit: meters that count as 1.
        samples: at how many points.
        name: column in the log.

    Raises:
        ValueError: a number is not positive; when called, the avatar has no `Blendfield`, or renders in evaluation
            mode.
    """

    weight: float | int = 1e-3
    unit: float | int = 0.01
    samples: int = 1024
    name: str = "sparsity"

    def __post_init__(self) -> None:
        check_more_than_0("BlendSparsity", unit=self.unit, samples=self.samples)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `batch` is not looked at."""
        points, frame = _drawn(self.name, rendering, self.samples)
        loss = rendering.opacity.sum() * 0
        for blend in _blendfields(self.name, rendering):
            size = _length(blend.fields_at(points)) / self.unit
            coefficients = blend.coefficients(rendering.field.state).abs().index_select(0, frame)
            loss = loss + (coefficients * size).sum() / max(len(points), 1)
        return loss


@dataclass(frozen=True)
class BlendSmoothness:
    """‖Δ(x + ε) − Δ(x)‖² / ‖ε‖²: displacements differ little between neighbors.

    Attributes:
        weight: what the trainer multiplies the loss with.
        radius: standard deviation of each coordinate of ε, meters.
        samples: at how many points.
        name: column in the log.

    Raises:
        ValueError: as `BlendSparsity`.
    """

    weight: float | int = 1e-3
    radius: float | int = 0.002
    samples: int = 1024
    name: str = "smoothness"

    def __post_init__(self) -> None:
        check_more_than_0("BlendSmoothness", radius=self.radius, samples=self.samples)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `batch` is not looked at."""
        points, frame = _drawn(self.name, rendering, self.samples)
        loss = rendering.opacity.sum() * 0
        for blend in _blendfields(self.name, rendering):
            coefficients = blend.coefficients(rendering.field.state)
            step_aside = self.radius * torch.randn_like(points)
            both = blend.displacement(torch.cat([points, points + step_aside]), frame.repeat(2), coefficients)
            before, after = both.chunk(2)
            strain = (after - before).square().sum(-1) / step_aside.square().sum(-1).clamp_min(1e-12)
            loss = loss + strain.sum() / max(len(points), 1)
        return loss


@dataclass(frozen=True)
class CoefficientSmoothness:
    """‖Δ(x; α((c + c′)/2)) − Δ(x; (α(c) + α(c′))/2)‖²: halfway between two expressions, halfway between what they do.

    c and c′ drive two frames of the step. Expressions change continuously over time, so this keeps a sequence from
    jumping, and says what lies between the expressions that were seen. With one frame a step it is zero.

    Attributes:
        weight: what the trainer multiplies the loss with.
        unit: meters that count as 1.
        samples: at how many points.
        name: column in the log.

    Raises:
        ValueError: as `BlendSparsity`.
    """

    weight: float | int = 1e-2
    unit: float | int = 0.01
    samples: int = 1024
    name: str = "coefficients"

    def __post_init__(self) -> None:
        check_more_than_0("CoefficientSmoothness", unit=self.unit, samples=self.samples)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `batch` is not looked at."""
        points, frame = _drawn(self.name, rendering, self.samples)
        loss = rendering.opacity.sum() * 0
        for blend in _blendfields(self.name, rendering):
            inputs = blend.coefficients.inputs(rendering.field.state)
            others = inputs.roll(1, dims=0)
            here, there, between = blend.coefficients.of(torch.cat([inputs, others, (inputs + others) / 2])).chunk(3)
            bend = between - (here + there) / 2
            moved = mixed(blend.fields_at(points), frame, bend) / self.unit
            loss = loss + moved.square().sum() / max(len(points), 1)
        return loss


def blendfield_losses(avatar: nn.Module) -> list[Loss]:
    """The regularizers of an avatar's blendfields; none if it has no `Blendfield`."""
    has = any(isinstance(part, Blendfield) for part in avatar.modules())
    return [BlendSparsity(), BlendSmoothness(), CoefficientSmoothness()] if has else []


def vp360_losses(avatar: nn.Module, depth: float | int = 0.1) -> list[Loss]:
    """What 3VP Avatar trains with here: INSTA's color and depth terms, and the regularizers of its blendfields.

    Args:
        avatar: without a `Blendfield` there are none of the latter.
        depth: weight of the depth prior; 0 leaves it out.
    """
    return [*insta_losses(depth), *blendfield_losses(avatar)]


def _drawn(name: str, rendering: Rendering, count: int) -> tuple[Float[Tensor, "m 3"], Int[Tensor, " m"]]:
    """Canonical points of samples, drawn by their weights (with replacement), and their frames; without graphs."""
    if rendering.canonical is None or rendering.weights is None or rendering.field is None:
        raise ValueError(
            f"{name} loss: the rendering has no canonical samples; an avatar keeps them in training mode "
            "(avatar.train())"
        )
    canonical, weights = rendering.canonical.detach(), rendering.weights.detach()
    if not bool(weights.sum() > 0):
        return canonical.points[:0], canonical.frame[:0]
    chosen = torch.multinomial(weights, count, replacement=True)
    return canonical.points[chosen], canonical.frame[chosen]


def _blendfields(name: str, rendering: Rendering) -> list[Blendfield]:
    found = [part for part in rendering.field.avatar.deformer.modules() if isinstance(part, Blendfield)]
    if not found:
        raise ValueError(
            f"{name} loss: the avatar's deformer {type(rendering.field.avatar.deformer).__name__} has no Blendfield; "
            "put one into its Chain, or leave the loss out"
        )
    return found


def _length(vectors: Float[Tensor, "m k 3"]) -> Float[Tensor, "m k"]:
    """Lengths whose gradient at zero is zero instead of NaN."""
    squared = vectors.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
