"""Losses on Gaussians that are attached to a mesh: how far from their triangle, and how large, they may become."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from headfields.losses.base import zero_of
from headfields.ops.splat_excess import splat_excess
from headfields.parts import Rendering
from headfields.records import Batch, Splats


@dataclass(frozen=True)
class SplatPosition:
    """The distance of Gaussians from their triangle's center beyond a threshold, mean over those in view.

    In the coordinates of `headfields.deformers.TriangleBinding`: in sizes of the triangle. A Gaussian that is close to
    its triangle moves with it; one that is far away swings with its every turn.

    Attributes:
        threshold: sizes of the triangle that are free.
        weight: factor of the loss in the total.
        name: column in the log.

    Differentiable once.

    Source: GaussianAvatars (Qian et al. 2024), section 3.4: threshold 1, weight 0.01; the mean is its released code's.
    """

    threshold: float | int = 1.0
    weight: float | int = 0.01
    name: str = "splat_position"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss.

        Raises:
            ValueError: the rendering has no attached Gaussians.
        """
        attached, visible = _in_view(self.name, rendering)
        return (
            splat_excess(attached.means, visible, self.threshold, each=False) if visible.numel() else zero_of(rendering)
        )


@dataclass(frozen=True)
class SplatScale:
    """The length of the vector of a Gaussian's scales beyond a threshold each, mean over those in view.

    In the coordinates of `headfields.deformers.TriangleBinding`: in sizes of the triangle. Large Gaussians on small
    triangles jitter, because a small turn of the triangle moves much of the image.

    Attributes:
        threshold: sizes of the triangle that are free.
        weight: factor of the loss in the total.
        name: column in the log.

    Differentiable once.

    Source: GaussianAvatars (Qian et al. 2024), section 3.4: threshold 0.6, weight 1; the mean is its released code's.
    """

    threshold: float | int = 0.6
    weight: float | int = 1.0
    name: str = "splat_scale"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss.

        Raises:
            ValueError: the rendering has no attached Gaussians.
        """
        attached, visible = _in_view(self.name, rendering)
        return (
            splat_excess(attached.scales, visible, self.threshold, each=True) if visible.numel() else zero_of(rendering)
        )


def _in_view(name: str, rendering: Rendering) -> tuple[Splats, Bool[Tensor, "b n"]]:
    """The Gaussians in the coordinates of the deformer, and which are drawn in each image."""
    if rendering.attached is None or rendering.rasterized is None:
        raise ValueError(
            f"{name} loss: the rendering has no Gaussians in the coordinates of a deformer; a headfields.SplatAvatar "
            "gives them in training mode (avatar.train())"
        )
    return rendering.attached, rendering.rasterized.radii > 0
