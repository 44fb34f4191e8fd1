"""Losses on images: structural similarity, and LPIPS, of patches of rays (`Trainer(..., patch=32)`)."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.losses.base import check_rays
from headfields.metrics.image import WINDOW, lpips_network
from headfields.parts import Rendering
from headfields.records import PixelBatch

__all__ = ["LPIPSLoss", "SSIMLoss", "image_patches"]


def image_patches(
    name: str, rendering: Rendering, batch: PixelBatch
) -> tuple[Float[Tensor, "p 3 s s"], Float[Tensor, "p 3 s s"]]:
    """The rendered patches and their targets, (P, 3, S, S) sRGB in [0, 1] each, as networks expect images.

    Args:
        name: the loss's.
        rendering, batch: of the same rays.

    Raises:
        ValueError: the batch has no patches.
    """
    check_rays(name, rendering, batch)
    if batch.patches is None:
        raise ValueError(f"{name} loss: the batch has no patches; pass patch=32 to Trainer, or draw sample_patches")
    rendered, target = (colors[batch.patches].movedim(-1, 1) for colors in (rendering.rgb, batch.target))
    return rendered, target


@dataclass(frozen=True)
class SSIMLoss:
    """1 - structural similarity (Wang et al. 2004) of the patches, as `headfields.metrics.ssim` measures it, mean over
    patches. Differentiable once.

    Attributes:
        weight: factor of the loss in the total.
        name: column in the log.
    """

    weight: float | int = 1.0
    name: str = "ssim"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; patches have sides of 11 pixels or more."""
        from torchmetrics.functional.image import structural_similarity_index_measure

        rendered, target = image_patches(self.name, rendering, batch)
        if rendered.shape[-1] < WINDOW:
            raise ValueError(
                f"{self.name} loss: patches have sides of {rendered.shape[-1]} pixels; expected the window's {WINDOW} "
                "or more"
            )
        similarity = structural_similarity_index_measure(rendered, target, data_range=1.0)
        assert isinstance(similarity, Tensor)  # a pair only if the whole map is asked for
        return 1 - similarity


@dataclass(frozen=True)
class LPIPSLoss:
    """LPIPS (Zhang et al. 2018) of the patches, mean over patches. Differentiable once.

    Needs the `lpips` package (`pip install headfields[lpips]`), which downloads its network's weights at first use; or
    pass a `network` of your own.

    Attributes:
        weight: factor of the loss in the total.
        net: the network of the package: `"vgg"`, which Zhang et al. advise for training, `"alex"` or `"squeeze"`.
        network: function from two batches of images (P, 3, S, S) in [-1, 1] to P distances, instead.
        name: column in the log.
    """

    weight: float | int = 0.1
    net: str = "vgg"
    network: Callable[..., Tensor] | None = None
    name: str = "lpips"

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss.

        Raises:
            ModuleNotFoundError: neither the package nor a network is there.
        """
        rendered, target = image_patches(self.name, rendering, batch)
        network = self.network or lpips_network(self.net, rendered.device)
        return network(2 * rendered - 1, 2 * target - 1).mean()
