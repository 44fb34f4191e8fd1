"""The losses each preset is trained with."""

from importlib.util import find_spec

from torch import nn

from headfields.deformers.blendfield import Blendfield
from headfields.encoders.color_fields import ColorFields
from headfields.losses.base import Loss
from headfields.losses.blendfield import BlendSmoothness, BlendSparsity, CoefficientSmoothness
from headfields.losses.color import HuberColor, SquaredColor
from headfields.losses.image import L1DSSIM, LPIPSLoss
from headfields.losses.splats import SplatPosition, SplatScale
from headfields.losses.surface import DepthPrior
from headfields.losses.warp import Elastic, WarpMagnitude


def insta_losses(depth: float | int = 0.1, depth_start: int = 500) -> list[Loss]:
    """INSTA's losses: `HuberColor`, whose mouth weighs 40 times from step 500, and `DepthPrior`.

    Args:
        depth: weight of the depth prior; 0 leaves it out. INSTA's is 1.25, over 33,000 steps on a GPU. The default is
            our own choice: in three minutes on a CPU, with one seed, the full weight was a decibel worse
            (docs/insta.md).
        depth_start: first step of the depth prior. INSTA's is 0; the default is our own choice (see `DepthPrior`).

    >>> from headfields.training import insta_losses
    >>> [(loss.name, loss.weight) for loss in insta_losses()]
    [('color', 1.0), ('depth', 0.1)]
    """
    return [HuberColor(), DepthPrior(start=depth_start, weight=depth)] if depth else [HuberColor()]


def monoavatar_losses(depth: float | int = 0, depth_start: int = 500) -> list[Loss]:
    """MonoAvatar's losses, with the paper's weights: squared color, elastic energy and magnitude of the warp.

    Args:
        depth: weight of INSTA's depth prior, added to them; the paper has none.
        depth_start: first step of the depth prior.
    """
    losses: list[Loss] = [SquaredColor(), Elastic(), WarpMagnitude()]
    return [*losses, DepthPrior(start=depth_start, weight=depth)] if depth else losses


def gaussian_avatars_losses(depth: float | int = 0, depth_start: int = 500) -> list[Loss]:
    """GaussianAvatars' losses, with the paper's weights: L1 with D-SSIM, and thresholds on local position and scale.

    Args:
        depth, depth_start: must be 0, and is ignored: Gaussians have no depth prior.

    Raises:
        ValueError: depth is not 0.
    """
    _no_depth("gaussian_avatars_losses", depth)
    return [L1DSSIM(), SplatPosition(), SplatScale()]


def flash_avatar_losses(depth: float | int = 0, depth_start: int = 0) -> list[Loss]:
    """FlashAvatar's losses as its released code has them (train.py): Huber's with δ = 0.1, mean over pixels and
    channels, 41 times at the mouth (1 and 40 more), and LPIPS (VGG) of the image, 0.05 from step 15,001 on.

    Args:
        depth, depth_start: must be 0, and is ignored: Gaussians have no depth prior.

    Raises:
        ValueError: depth is not 0.
        ModuleNotFoundError: the package lpips is not there.
    """
    _no_depth("flash_avatar_losses", depth)
    if find_spec("lpips") is None:
        raise ModuleNotFoundError(
            "flash_avatar_losses: the loss of FlashAvatar's released code has LPIPS from step 15,001 on, and the "
            "package is not installed: pip install headfields[lpips]; the recipes cpu and fast need none"
        )
    # `HuberColor` divides by δ and 5 and sums channels: 1 / 6 of it is the released mean.
    return [
        HuberColor(delta=0.1, region_weight=41, region_start=0, weight=1 / 6),
        LPIPSLoss(weight=0.05, net="vgg", start=15_000),
    ]


def rgb_avatar_losses(depth: float | int = 0, depth_start: int = 0, dssim: float | int = 0.2) -> list[Loss]:
    """The color loss of Gaussians in meters, L1 with D-SSIM; the released code of RGBAvatar has `dssim=0`.

    Args:
        depth, depth_start: must be 0, and is ignored: Gaussians have no depth prior.
        dssim: λ of `L1DSSIM`.

    Raises:
        ValueError: depth is not 0.
    """
    _no_depth("rgb_avatar_losses", depth)
    return [L1DSSIM(dssim=dssim)]


def _no_depth(name: str, depth: float | int) -> None:
    if depth:
        raise ValueError(f"{name}: depth is {depth}; avatars of Gaussians have no depth prior, pass 0")


def blendfield_losses(avatar: nn.Module) -> list[Loss]:
    """The regularizers of an avatar's blendfields; none if it has neither a `Blendfield` nor `ColorFields`."""
    has_blendfield = any(isinstance(part, Blendfield | ColorFields) for part in avatar.modules())
    return [BlendSparsity(), BlendSmoothness(), CoefficientSmoothness()] if has_blendfield else []


def vp360_losses(avatar: nn.Module, depth: float | int = 0.1) -> list[Loss]:
    """Losses for 3VP Avatar: INSTA's, and the regularizers of its blendfields. The paper's are not published.

    Args:
        avatar: without a `Blendfield` or `ColorFields` there are no regularizers.
        depth: weight of the depth prior; 0 leaves it out.
    """
    return [*insta_losses(depth), *blendfield_losses(avatar)]
