"""Losses on images: structural similarity, L1 with D-SSIM, and LPIPS, of patches of rays (`Trainer(..., patch=32)`)."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.losses.base import colors_of, zero_of
from headfields.metrics.image import lpips_network
from headfields.metrics.structural_similarity import WINDOW, ssim_map
from headfields.ops.dispatch import use_warp
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.l1_dssim import l1_dssim
from headfields.parts import Rendering
from headfields.records import Batch

__all__ = ["L1DSSIM", "LPIPSLoss", "SSIMLoss", "image_patches"]


def image_patches(
    name: str, rendering: Rendering, batch: Batch
) -> tuple[Float[Tensor, "p 3 h w"], Float[Tensor, "p 3 h w"]]:
    """The rendered images and their targets, (P, 3, H, W) sRGB in [0, 1] each, as networks expect images: whole ones
    where the avatar is rendered image by image, else the patches of the batch.

    Args:
        name: the loss's.
        rendering, batch: of the same rays.

    Raises:
        ValueError: the batch has rays without patches.
    """
    rgb, target = colors_of(name, rendering, batch)
    if rgb.ndim == 4:
        return rgb.movedim(-1, 1), target.movedim(-1, 1)
    patches = getattr(batch, "patch_rays", None)
    if patches is None:
        raise ValueError(f"{name} loss: the batch has no patches; pass patch=32 to Trainer, or draw sample_patches")
    return rgb[patches].movedim(-1, 1), target[patches].movedim(-1, 1)


@dataclass(frozen=True)
class SSIMLoss:
    """1 - structural similarity (Wang et al. 2004) of the patches, as `headfields.metrics.ssim` measures it, mean over
    patches. Differentiable to any order.

    Attributes:
        weight: factor of the loss in the total.
        name: column in the log.
    """

    weight: float | int = 1.0
    name: str = "ssim"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; patches have sides of 11 pixels or more."""
        rendered, target = image_patches(self.name, rendering, batch)
        side = min(rendered.shape[2:])
        if side < WINDOW:
            raise ValueError(
                f"{self.name} loss: patches have sides of {side} pixels; expected the window's {WINDOW} or more"
            )
        similarity = ssim_map(rendered, target)
        return 1 - similarity.mean() if similarity.numel() else zero_of(rendering)


@dataclass(frozen=True)
class L1DSSIM:
    """Absolute difference of colors and D-SSIM, as Gaussians are trained with: (1 - λ) L1 + λ (1 - SSIM).

    3D Gaussian Splatting (Kerbl et al., SIGGRAPH 2023), equation 7, with its λ = 0.2, which GaussianAvatars keeps (Qian
    et al., CVPR 2024, section 3.4). The paper does not write D-SSIM out; as in its released code it is 1 - SSIM, not
    half of it, L1 is the mean over all numbers, and the SSIM map has the image's size, with zeros beyond the border.

    Both images lie over the batch's background, so what is transparent in both is equal in both, and pixels of the
    background count like all others. Rays that are in no patch count in L1 alone. Differentiable once (L1).

    Attributes:
        dssim: λ, in [0, 1].
        weight: factor of the loss in the total.
        name: column in the log.

    Raises:
        ValueError: dssim is not in [0, 1].
    """

    dssim: float | int = 0.2
    weight: float | int = 1.0
    name: str = "color"

    def __post_init__(self) -> None:
        if not 0 <= self.dssim <= 1:
            raise ValueError(f"L1DSSIM: dssim is {self.dssim}; expected a share in [0, 1]")

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss; `rendering.rgb` and `batch.target` are (N, 3), or images (B, H, W, 3), sRGB.

        Raises:
            ValueError: the batch has no patches, and dssim is not 0.
        """
        rgb, target = colors_of(self.name, rendering, batch)
        if self.dssim and rgb.ndim == 4 and use_warp(rgb) and not may_be_differentiated(target):
            return l1_dssim(rgb, target.to(rgb), self.dssim) if rgb.numel() else zero_of(rendering)
        error = (rgb - target).abs()
        loss = (1 - self.dssim) * (error.mean() if error.numel() else zero_of(rendering))
        if not self.dssim:
            return loss
        rendered, target = image_patches(self.name, rendering, batch)
        if not rendered.numel():
            return loss
        dissimilarity = 1 - ssim_map(*_differing(rendered, target), border="zeros")
        return loss + self.dssim * dissimilarity.sum() / rendered.numel()


def _differing(
    rendered: Float[Tensor, "p 3 h w"], target: Float[Tensor, "p 3 h w"]
) -> tuple[Float[Tensor, "p 3 y x"], Float[Tensor, "p 3 y x"]]:
    """The rectangle in which images differ, and two windows' reach around it: beyond it they are alike, SSIM is 1 there
    and has no gradient. Most of an image of a head is background. On a GPU, which would have to be waited for to know
    it, the whole images."""
    if not rendered.is_cpu:
        return rendered, target
    differs = (rendered.detach() != target).any(0).any(0)
    reach = WINDOW - 1
    sides = []
    for along in (1, 0):
        places = differs.any(along).nonzero()[:, 0]
        begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
        sides.append(slice(max(begin - reach, 0), end + reach))
    return rendered[..., sides[0], sides[1]], target[..., sides[0], sides[1]]


@dataclass(frozen=True)
class LPIPSLoss:
    """LPIPS (Zhang et al. 2018) of the patches, mean over patches. Differentiable once.

    Needs the `lpips` package (`pip install headfields[lpips]`), which downloads its network's weights at first use; or
    pass a `network` of your own.

    Attributes:
        weight: factor of the loss in the total.
        net: the network of the package: `"vgg"`, which Zhang et al. advise for training, `"alex"` or `"squeeze"`.
        network: function from two batches of images (P, 3, S, S) in [-1, 1] to P distances, instead.
        start: first step of the loss; zero before.
        name: column in the log.
    """

    weight: float | int = 0.1
    net: str = "vgg"
    network: Callable[..., Tensor] | None = None
    start: int = 0
    name: str = "lpips"

    def phase(self, step: int) -> bool:
        """What of the step the loss depends on: see `Loss`."""
        return step >= self.start

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The loss.

        Raises:
            ModuleNotFoundError: neither the package nor a network is there.
        """
        if step < self.start:
            return zero_of(rendering)
        rendered, target = image_patches(self.name, rendering, batch)
        network = self.network or lpips_network(self.net, rendered.device)
        return network(2 * rendered - 1, 2 * target - 1).mean()
