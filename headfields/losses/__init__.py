"""Training losses: callables with a name and a weight, for the list of a trainer."""

from typing import TYPE_CHECKING

from headfields.losses.base import Loss
from headfields.losses.blendfield import BlendSmoothness, BlendSparsity, CoefficientSmoothness
from headfields.losses.codes import CodePrior
from headfields.losses.color import HuberColor, SquaredColor
from headfields.losses.function import FunctionLoss
from headfields.losses.image import L1DSSIM, LPIPSLoss, SSIMLoss
from headfields.losses.sampling import Distortion, Interlevel
from headfields.losses.silhouette import OpacityLoss, SoftJaccard
from headfields.losses.skinning import SkinningPrior
from headfields.losses.splat_sparsity import SplatExtent, SplatOpacity
from headfields.losses.splats import SplatPosition, SplatScale
from headfields.losses.surface import DepthPrior, Eikonal, SurfacePrior
from headfields.losses.warp import Elastic, WarpMagnitude
from headfields.old_names import deprecated_names

__all__ = [
    "L1DSSIM",
    "BlendSmoothness",
    "BlendSparsity",
    "CodePrior",
    "CoefficientSmoothness",
    "DepthPrior",
    "Distortion",
    "Eikonal",
    "Elastic",
    "FunctionLoss",
    "HuberColor",
    "Interlevel",
    "LPIPSLoss",
    "Loss",
    "OpacityLoss",
    "SSIMLoss",
    "SkinningPrior",
    "SoftJaccard",
    "SplatExtent",
    "SplatOpacity",
    "SplatPosition",
    "SplatScale",
    "SquaredColor",
    "SurfacePrior",
    "WarpMagnitude",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
