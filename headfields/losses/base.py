"""The protocol of a training loss, and what losses share: checks, and the mean over rays.

A loss is called as `loss(rendering, batch, step)`, returns a scalar tensor, and has the attributes `name` (its column
in the log) and `weight` (its factor in the total). Most losses here are means over the N rays of the batch (of whole
images, over their pixels), so that a weight keeps its meaning when the number of rays changes. N = 0 and an empty mask
give a zero that is still attached to the graph. All losses are differentiable once; color and opacity losses twice.
"""

import functools
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from headfields.data.labels import labels_of
from headfields.parts import Field, Rendering
from headfields.records import Batch, Canonical
from headfields.transfer import send_numbers


@runtime_checkable
class Loss(Protocol):
    """Protocol of a training loss."""

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
        if not value > 0:
            raise ValueError(f"{owner}: {name} is {value}; expected more than 0")


def check_rays(name: str, rendering: Rendering, batch: Batch) -> None:
    """Raises ValueError unless both have the same rays: broadcasting (N, 3) with an image would give a wrong loss."""
    if rendering.opacity.shape != batch.alpha.shape:
        raise ValueError(
            f"{name} loss: rendering.opacity has shape {tuple(rendering.opacity.shape)} and batch.alpha has shape "
            f"{tuple(batch.alpha.shape)}; render the rays of this batch (batch.rays), all of them"
        )


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


def in_regions(label: Integer[Tensor, " n"], *regions: str) -> Bool[Tensor, " n"]:
    """Mask (N,) of the labels that belong to one of the regions, keys of `headfields.data.REGION_LABELS`.

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
