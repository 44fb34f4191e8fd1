"""Losses that make Gaussians vanish which the image does not need: on opacity and on extent (3DGS-MCMC)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.losses.base import check_positive, zero_of
from headfields.parts import Rendering
from headfields.records import Batch, Splats


@dataclass(frozen=True)
class SplatOpacity:
    """The mean opacity of all Gaussians, so that those which the image does not need vanish, and move elsewhere.

    Attributes:
        weight: factor of the loss in the total.
        name: column in the log.

    Differentiable to any order.

    Source: Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain Monte Carlo", section 3.4, weight 0.01. The
    paper writes a sum; the mean over Gaussians is that of its released code.
    """

    weight: float | int = 0.01
    name: str = "splat_opacity"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss.

        Raises:
            ValueError: the rendering has no Gaussians.
        """
        opacities = _posed(self.name, rendering).opacities
        return opacities.mean() if opacities.numel() else zero_of(rendering)


@dataclass(frozen=True)
class SplatExtent:
    """The mean standard deviation of all Gaussians, over axes and frames, in posed space.

    Attributes:
        unit: meters that count as one unit of the paper's scenes; as in `headfields.training.MCMC`, our own choice.
        weight: factor of the loss in the total.
        name: column in the log.

    Differentiable to any order.

    Raises:
        ValueError: unit is not positive.

    Source: Kheradmand et al. 2024, section 3.4, weight 0.01. The paper writes a sum; the mean over Gaussians and axes
    is that of its released code.
    """

    unit: float | int = 0.05
    weight: float | int = 0.01
    name: str = "splat_extent"

    def __post_init__(self) -> None:
        check_positive("SplatExtent", unit=self.unit)

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss.

        Raises:
            ValueError: the rendering has no Gaussians.
        """
        scales = _posed(self.name, rendering).scales
        return scales.mean() / self.unit if scales.numel() else zero_of(rendering)


def _posed(name: str, rendering: Rendering) -> Splats:
    if rendering.splats is None:
        raise ValueError(f"{name} loss: the rendering has no Gaussians; it is for a headfields.SplatAvatar")
    return rendering.splats
