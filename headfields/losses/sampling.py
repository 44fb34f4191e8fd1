"""Losses on the weights of samples along rays: distortion, and the interlevel loss (Mip-NeRF 360)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from headfields.losses.base import check_rays, mean_over_rays
from headfields.ops.distortion import distortion
from headfields.ops.interlevel import interlevel
from headfields.parts import Rendering
from headfields.records import Batch, Samples
from headfields.renderers.padded import PaddedSamples


@dataclass(frozen=True)
class Distortion:
    """`headfields.ops.distortion` of the rendered weights, mean over rays: gathers weight, and removes floaters.

    Attributes:
        weight: factor of the loss in the total (Mip-NeRF 360: 0.01, of distances normalized to [0, 1]; ours are
            meters, so a head needs more).
        name: column in the log.

    Source: Barron et al. 2022, "Mip-NeRF 360", equation 15.
    """

    weight: float | int = 0.01
    name: str = "distortion"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to `rendering.weights`."""
        check_rays(self.name, rendering, batch)
        samples, weights = weighted_samples(self.name, rendering)
        rays = batch.alpha.numel()
        return mean_over_rays(distortion(weights, samples, rays, offsets=_packing(samples)), batch)


@dataclass(frozen=True)
class Interlevel:
    """`headfields.ops.interlevel` of the fine and the coarse weights of a coarse-to-fine renderer, mean over rays.

    In place of a color loss of the coarse network (`SquaredColor` has one).

    Attributes:
        weight: factor of the loss in the total (Mip-NeRF 360: 1).
        name: column in the log.

    Source: Barron et al. 2022, "Mip-NeRF 360", equation 13.
    """

    weight: float | int = 1.0
    name: str = "interlevel"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; gradients flow to `rendering.coarse.weights`."""
        check_rays(self.name, rendering, batch)
        if rendering.coarse is None:
            raise ValueError(
                f"{self.name} loss: the rendering has no coarse pass; render with "
                "headfields.renderers.CoarseToFineRenderer, in training mode"
            )
        fine, weights = weighted_samples(self.name, rendering)
        coarse, coarse_weights = weighted_samples(self.name, rendering.coarse)
        loss = interlevel(
            weights, fine, coarse_weights, coarse, batch.alpha.numel(), offsets=_packing(fine),
            coarse_offsets=_packing(coarse),
        )  # fmt: skip
        return mean_over_rays(loss, batch)


def weighted_samples(name: str, rendering: Rendering) -> tuple[Samples, Float[Tensor, " m"]]:
    """The samples of a rendering and their weights.

    Raises:
        ValueError: it was not rendered from samples along rays; `name` is the loss's.
    """
    if rendering.samples is None or rendering.weights is None:
        raise ValueError(
            f"{name} loss: the rendering has no weighted samples; use it with a renderer that marches along rays, as "
            "headfields.renderers.VolumeRenderer"
        )
    return rendering.samples, rendering.weights


def _packing(samples: Samples) -> Int[Tensor, " offsets"] | None:
    """Offsets of padded samples, the padding in rays of its own; None: they follow from the samples."""
    return samples.packing() if isinstance(samples, PaddedSamples) else None
