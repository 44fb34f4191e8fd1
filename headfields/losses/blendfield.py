"""Regularizers of blendfields, of displacements and of colors: sparse in space, smooth in space, linear between
expressions.

3VP Avatar does not publish its regularizers; all of these are our own choice. Each is the mean over canonical points
that are drawn with probabilities in proportion to the samples' rendering weights (detached), so empty space may move
freely. Gradients flow to the parameters of the blendfields alone. A rendering without samples gives a zero that is
still attached to the graph.

`Blendfield` and `ColorFields` are treated alike, so that blended deformations and blended colors are compared on one
footing: a logit of color counts as a centimeter, the default scale of a `Blendfield`, so that equal values of the
fields' bases cost the same.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.blendfield import Blendfield
from headfields.encoders.color_fields import ColorFields
from headfields.losses.base import check_positive, drawn_by_weight, field_of, samples_of, zero_of
from headfields.networks.field_basis import blend_fields
from headfields.ops.vectors import safe_norm
from headfields.parts import Field, Rendering
from headfields.records import HeadState, PixelBatch

Blended = Blendfield | ColorFields
_LOGIT = 0.01
"""Meters that a logit of color counts as."""


class _BlendfieldLoss(ABC):
    """A sum over drawn points of each blendfield of the avatar, divided by the number of points."""

    name: str
    samples: int

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; `batch` is ignored."""
        points, frame, any_weight = _draw_points(self.name, rendering, self.samples)
        loss = zero_of(rendering)
        field = field_of(self.name, rendering)
        for blendfield in _blendfields(self.name, field):
            loss = loss + self.sum_over(blendfield, points, frame, field.state) * any_weight / max(len(points), 1)
        return loss

    @abstractmethod
    def sum_over(
        self,
        blendfield: Blendfield | ColorFields,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        state: HeadState,
    ) -> Float[Tensor, ""]:
        """The sum over M points; `frame` (M,) is each point's row of the state."""


@dataclass(frozen=True)
class BlendSparsity(_BlendfieldLoss):
    """Σ_k |α_k| ‖D_k(x)‖: few fields move a point, and none where none is needed.

    The product of coefficient and field does not depend on how a displacement is split between the two.

    Attributes:
        weight: factor of the loss in the total.
        unit: meters that count as 1.
        samples: number of points.
        name: column in the log.

    Raises:
        ValueError: a number is not positive; when called, the avatar has neither `Blendfield` nor `ColorFields`, or
            renders in evaluation mode.
    """

    weight: float | int = 1e-3
    unit: float | int = 0.01
    samples: int = 1024
    name: str = "sparsity"

    def __post_init__(self) -> None:
        check_positive("BlendSparsity", unit=self.unit, samples=self.samples)

    def sum_over(
        self,
        blendfield: Blendfield | ColorFields,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        state: HeadState,
    ) -> Float[Tensor, ""]:
        """Σ over points of Σ_k |α_k| ‖D_k(x)‖ / unit."""
        length = safe_norm(_in_meters(blendfield, points)) / self.unit
        return (blendfield.coefficients(state).abs().index_select(0, frame) * length).sum()


@dataclass(frozen=True)
class BlendSmoothness(_BlendfieldLoss):
    """‖Δ(x + ε) − Δ(x)‖² / ‖ε‖²: nearby points move alike.

    Attributes:
        weight: factor of the loss in the total.
        radius: standard deviation of each coordinate of ε, meters.
        samples: number of points.
        name: column in the log.

    Raises:
        ValueError: as `BlendSparsity`.
    """

    weight: float | int = 1e-3
    radius: float | int = 0.002
    samples: int = 1024
    name: str = "smoothness"

    def __post_init__(self) -> None:
        check_positive("BlendSmoothness", radius=self.radius, samples=self.samples)

    def sum_over(
        self,
        blendfield: Blendfield | ColorFields,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        state: HeadState,
    ) -> Float[Tensor, ""]:
        """Σ over points of ‖Δ(x + ε) − Δ(x)‖² / ‖ε‖²."""
        coefficients = blendfield.coefficients(state)
        offset = self.radius * torch.randn_like(points)
        fields = _in_meters(blendfield, torch.cat([points, points + offset]))
        at_point, at_offset = blend_fields(fields, frame.repeat(2), coefficients).chunk(2)
        return ((at_offset - at_point).square().sum(-1) / offset.square().sum(-1).clamp_min(1e-12)).sum()


@dataclass(frozen=True)
class CoefficientSmoothness(_BlendfieldLoss):
    """‖Δ(x; α((c + c′)/2)) − Δ(x; (α(c) + α(c′))/2)‖²: halfway between two expressions, half of each displacement.

    c and c′ are the inputs of two frames of the step. Expressions change continuously over time, so this keeps a
    sequence from jumping, and determines what lies between the expressions of the training frames. With one frame a
    step it is zero.

    Attributes:
        weight: factor of the loss in the total.
        unit: meters that count as 1.
        samples: number of points.
        name: column in the log.

    Raises:
        ValueError: as `BlendSparsity`.
    """

    weight: float | int = 1e-2
    unit: float | int = 0.01
    samples: int = 1024
    name: str = "coefficients"

    def __post_init__(self) -> None:
        check_positive("CoefficientSmoothness", unit=self.unit, samples=self.samples)

    def sum_over(
        self,
        blendfield: Blendfield | ColorFields,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        state: HeadState,
    ) -> Float[Tensor, ""]:
        """Σ over points of the squared deviation from linearity, in square units."""
        inputs = blendfield.coefficients.inputs(state)
        neighbors = inputs.roll(1, dims=0)
        stacked = torch.cat([inputs, neighbors, (inputs + neighbors) / 2])
        first, second, middle = blendfield.coefficients.of(stacked).chunk(3)
        deviation = middle - (first + second) / 2
        return (blend_fields(_in_meters(blendfield, points), frame, deviation) / self.unit).square().sum()


def _draw_points(
    name: str, rendering: Rendering, count: int
) -> tuple[Float[Tensor, "m 3"], Int[Tensor, " m"], Float[Tensor, ""]]:
    """Canonical points of samples, drawn by their weights (with replacement), their frames, and 1, or 0 where no sample
    has a weight; detached."""
    canonical, weights = samples_of(name, rendering)
    any_weight = (weights.sum() > 0).to(weights)
    drawn = drawn_by_weight(weights, count) if len(weights) else torch.zeros_like(canonical.frame)
    return canonical.points[drawn], canonical.frame[drawn], any_weight


def _blendfields(name: str, field: Field) -> list[Blended]:
    blendfields = [part for part in field.avatar.modules() if isinstance(part, Blended)]
    if not blendfields:
        raise ValueError(
            f"{name} loss: the avatar's deformer {type(field.deformer).__name__} has no Blendfield, and its conditions "
            "no ColorFields; put one into its Chain, or leave the loss out"
        )
    return blendfields


def _in_meters(blendfield: Blended, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m k 3"]:
    """The K fields at M points; colors in meters too."""
    fields = blendfield.fields_at(points)
    return _LOGIT * fields if isinstance(blendfield, ColorFields) else fields
