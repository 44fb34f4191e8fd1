"""Training losses: callables with a name and a weight, for the list of a trainer."""

from headfields.losses.base import Loss
from headfields.losses.blendfield import BlendSmoothness, BlendSparsity, CoefficientSmoothness
from headfields.losses.codes import CodePrior
from headfields.losses.color import HuberColor, SquaredColor
from headfields.losses.function import FunctionLoss
from headfields.losses.image import L1DSSIM, LPIPSLoss, SSIMLoss
from headfields.losses.silhouette import (
    ObservedSilhouette,
    OpacityLoss,
    SoftJaccard,
    observe_silhouette,
    silhouette_distance,
)
from headfields.losses.skinning import SkinningPrior
from headfields.losses.splat_sparsity import SplatExtent, SplatOpacity
from headfields.losses.splats import SplatPosition, SplatScale
from headfields.losses.surface import DepthPrior, Eikonal, SurfacePrior
from headfields.losses.warp import Elastic, WarpMagnitude

__all__ = [
    "L1DSSIM",
    "BlendSmoothness",
    "BlendSparsity",
    "CodePrior",
    "CoefficientSmoothness",
    "DepthPrior",
    "Eikonal",
    "Elastic",
    "FunctionLoss",
    "HuberColor",
    "LPIPSLoss",
    "Loss",
    "ObservedSilhouette",
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
    "observe_silhouette",
    "silhouette_distance",
]
