"""Losses on color: Huber with a heavier region (INSTA), squared difference (NeRF, MonoAvatar)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headfields.data.labels import labels_of
from headfields.losses.base import colors_of, in_regions, mean_over_rays
from headfields.parts import Rendering
from headfields.records import Batch


@dataclass(frozen=True)
class HuberColor:
    """Huber loss on color, with more weight on the mouth (INSTA, Zielonka et al., CVPR 2023, and its released code).

    The sum over N rays of w · sum over RGB of huber(rendering.rgb - batch.target; delta) / delta / 5, divided by N (not
    by the sum of the weights: a batch with more of the mouth in it counts for more, as in the released code). Its slope
    is at most 1 / 5 a channel, as in the released code, where `DepthPrior` has a weight of 1.25: the ratio matters.

    Attributes:
        delta: color difference at which the loss turns from quadratic to linear.
        region: the region whose rays are weighted, a key of `headfields.data.labels.REGION_LABELS`.
        region_weight: w of rays with a label of the region, from step `region_start` on; 1 elsewhere. A batch without
            labels is weighted uniformly.
        region_start: the first step with the weighting.
        weight: factor of the loss in the total.
        name: column in the log.

    Raises:
        ValueError: there is no such region.
    """

    delta: float | int = 0.1
    region: str = "mouth"
    region_weight: float | int = 40.0
    region_start: int = 500
    weight: float | int = 1.0
    name: str = "color"

    def __post_init__(self) -> None:
        labels_of(self.region)

    def phase(self, step: int) -> bool:
        """What of the step the loss depends on: see `Loss`."""
        return step >= self.region_start

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; `rendering.rgb` and `batch.target` are (N, 3) sRGB."""
        rgb, target = colors_of(self.name, rendering, batch)
        huber = functional.huber_loss(rgb, target, reduction="none", delta=self.delta) / self.delta
        per_ray = huber.sum(-1) / 5
        if batch.label is not None and step >= self.region_start and self.region_weight != 1:
            per_ray = per_ray * torch.where(in_regions(batch.label, self.region), self.region_weight, 1.0)
        return mean_over_rays(per_ray, batch)


@dataclass(frozen=True)
class SquaredColor:
    """Squared difference of colors, summed over RGB, mean over rays; plus that of the coarse network, if there is one.

    The loss of NeRF (Mildenhall et al. 2020, equation 6) and of MonoAvatar (Bai et al. 2023).

    Attributes:
        weight: factor of the loss in the total.
        name: column in the log.
    """

    weight: float | int = 1.0
    name: str = "color"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; `rendering.rgb`, `rendering.coarse.rgb` and `batch.target` are (N, 3) sRGB."""
        rgb, target = colors_of(self.name, rendering, batch)
        error = (rgb - target).square().sum()
        if rendering.coarse is not None:
            error = error + (rendering.coarse.rgb - target).square().sum()
        return mean_over_rays(error, batch)
