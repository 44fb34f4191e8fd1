"""The losses each preset is trained with: INSTA, MonoAvatar, 3VP Avatar, GaussianAvatars."""

from torch import nn

from headfields.deformers.blendfield import Blendfield
from headfields.encoders.color_fields import ColorFields
from headfields.losses.base import Loss
from headfields.losses.blendfield import BlendSmoothness, BlendSparsity, CoefficientSmoothness
from headfields.losses.color import HuberColor, SquaredColor
from headfields.losses.image import L1DSSIM
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
    if depth:
        raise ValueError(f"gaussian_avatars_losses: depth is {depth}; avatars of Gaussians have no depth prior, pass 0")
    return [L1DSSIM(), SplatPosition(), SplatScale()]


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
