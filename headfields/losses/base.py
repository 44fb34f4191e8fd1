"""The protocol of a training loss, and what losses share: checks, and the mean over rays.

A loss is called as `loss(rendering, batch, step)`, returns a scalar tensor, and has the attributes `name` (its column
in the log) and `weight` (its factor in the total). Most losses here are means over the N rays of the batch (of whole
images, over their pixels), so that a weight keeps its meaning when the number of rays changes. N = 0 and an empty mask
give a zero that is still attached to the graph. All losses are differentiable once; color and opacity losses twice.
"""

import functools
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from headfields.data.labels import labels_of
from headfields.ops._checks import has_readable_values
from headfields.ops.srgb import BRIGHTEST
from headfields.parts import Field, Rendering
from headfields.records import Batch, Canonical
from headfields.records.device_copy import send_numbers
from headfields.renderers.padded import PaddedSamples


@runtime_checkable
class Loss(Protocol):
    """Protocol of a training loss.

    A loss that reads the step may have `phase(step)`, what of the step its value depends on, as `step >= self.start`:
    a GPU then replays a step captured once (a CUDA graph) for as long as the phase stays.
    """

    @property
    def name(self) -> str:
        """Its column in the log."""
        ...

    @property
    def weight(self) -> float | int:
        """Factor of the loss in the total."""
        ...

    def __call__(self, rendering: Rendering, batch: Any, step: int) -> Float[Tensor, ""]:
        """The value before weighting: `rendering` and `batch` (a `PixelBatch` or an `ImageBatch`) hold the same N rays
        or B images; `step` counts from 0."""
        ...


def check_positive(owner: str, **values: float | int) -> None:
    """Raises ValueError, naming the owner (a class), the argument and its value, unless all values are positive."""
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise TypeError(f"{owner}: {name} is {value!r}; expected a number")
        if not value > 0:
            raise ValueError(f"{owner}: {name} is {value}; expected more than 0")


def check_rays(name: str, rendering: Rendering, batch: Batch) -> None:
    """Raises ValueError unless both have the same rays: broadcasting (N, 3) with an image would give a wrong loss."""
    if rendering.opacity.shape != batch.alpha.shape:
        raise ValueError(
            f"{name} loss: rendering.opacity has shape {tuple(rendering.opacity.shape)} and batch.alpha has shape "
            f"{tuple(batch.alpha.shape)}; render the rays of this batch (batch.rays), all of them"
        )


def colors_of(name: str, rendering: Rendering, batch: Batch) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 3"]]:
    """The rendered colors and their targets, of the same rays.

    Raises:
        ValueError: they are of other rays (`check_rays`), or a color is far from [0, 1], as bytes are that were made
            floats: such a loss would train, on something else. A GPU would be waited for, so there
            HEADFIELDS_CHECK_INDICES=1 checks it.
    """
    check_rays(name, rendering, batch)
    rgb, target = rendering.rgb, batch.target
    for what, colors in (("rendering.rgb", rgb), ("batch.target", target)):
        if has_readable_values(colors) and (highest := float(colors.detach().max())) > BRIGHTEST:
            raise ValueError(
                f"{name} loss: {what} has values up to {highest:g}; expected sRGB in [0, 1]: divide bytes by 255"
            )
    return rgb, target


def samples_of(name: str, rendering: Rendering) -> tuple[Canonical, Float[Tensor, " m"]]:
    """The M canonical samples of a rendering in training mode and their rendering weights (M,), detached.

    Raises:
        ValueError: the rendering was made in evaluation mode; `name` is the loss's.
    """
    if rendering.canonical is None or rendering.weights is None:
        raise ValueError(
            f"{name} loss: the rendering has no canonical samples; an avatar keeps them in training mode "
            "(avatar.train()), where corrections are on"
        )
    return rendering.canonical.detach(), rendering.weights.detach()


def field_of(name: str, rendering: Rendering) -> Field:
    """The field of a rendering in training mode.

    Raises:
        ValueError: the rendering was made in evaluation mode; `name` is the loss's.
    """
    if rendering.field is None:
        raise ValueError(
            f"{name} loss: the rendering has no field; an avatar keeps it in training mode (avatar.train())"
        )
    return rendering.field


def drawn_by_weight(weights: Float[Tensor, " m"], count: int) -> Int[Tensor, " count"]:
    """`count` of M > 0 rows, drawn with replacement in proportion to their weights; the host waits for no device.

    One row is drawn in each of `count` equal parts of the weights' sum, so sums over the rows vary less than over
    independent ones, with the same mean. Rows of weight 0 are not drawn, unless the sum is not positive, when all that
    is known of a row is that it exists.
    """
    ends = weights.double().cumsum(0)
    part = torch.arange(count, device=ends.device) + torch.rand(count, dtype=ends.dtype, device=ends.device)
    place = torch.minimum(part / count * ends[-1], ends[-1].nextafter(torch.zeros_like(ends[-1])))  # rounding
    return torch.searchsorted(ends, place, right=True).clamp_max(len(ends) - 1)


def drawn_evenly(rendering: Rendering, rows: int, count: int) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """At most `count` of the `rows` samples of a rendering, drawn with equal probability (with replacement), and what
    each stands for: a sum over them has the mean of that over all samples. All, where there are no more than `count`.

    Samples in buffers of a fixed size are drawn from those that are no padding; the host waits for no device.
    """
    device, samples = rendering.opacity.device, rendering.samples
    padded = samples if isinstance(samples, PaddedSamples) else None
    if rows <= count:
        shares = torch.ones(rows, device=device) if padded is None else padded.is_sample.to(rendering.opacity)
        return torch.arange(rows, device=device), shares
    if padded is None:
        return torch.randint(rows, (count,), device=device), torch.full((count,), rows / count, device=device)
    number = padded.count
    drawn = (torch.rand(count, dtype=torch.double, device=device) * number).long().clamp_max(rows - 1)
    return drawn, (number / count).to(rendering.opacity).expand(count)


def in_regions(label: Integer[Tensor, " n"], *regions: str) -> Bool[Tensor, " n"]:
    """Mask (N,) of the labels that belong to one of the regions, keys of `headfields.data.labels.REGION_LABELS`.

    >>> import torch
    >>> from headfields.losses.base import in_regions
    >>> in_regions(torch.tensor([0, 140, 250]), "mouth").tolist()
    [False, True, False]
    """
    return torch.isin(label, _on_device(tuple(labels_of(*regions)), label.dtype, label.device))


@functools.cache  # a GPU is waited for once
def _on_device(labels: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return send_numbers(labels, dtype, device)


def mean_over_rays(values: Float[Tensor, "..."], batch: Batch) -> Float[Tensor, ""]:
    """The sum of all values divided by the batch's number of rays (pixels); zero without rays."""
    return values.sum() / max(batch.alpha.numel(), 1)


def zero_of(rendering: Rendering) -> Float[Tensor, ""]:
    """A zero attached to the rendering's graph."""
    return rendering.opacity.sum() * 0
