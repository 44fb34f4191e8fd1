"""Training losses: callables with a name and a weight, for the list of a trainer."""

from headfields.losses.blendfield import (
    BlendSmoothness,
    BlendSparsity,
    CoefficientSmoothness,
    blendfield_losses,
    vp360_losses,
)
from headfields.losses.color import (
    LIPS_AND_MOUTH,
    DepthPrior,
    Elastic,
    HuberColor,
    Loss,
    OpacityLoss,
    SquaredColor,
    WarpMagnitude,
    insta_losses,
    monoavatar_losses,
)
from headfields.losses.silhouette import ObservedSilhouette, observe_silhouette, silhouette_distance
from headfields.losses.skinning import SkinningPrior
from headfields.losses.surface import Eikonal, SoftJaccard, SurfacePrior

__all__ = [
    "LIPS_AND_MOUTH",
    "BlendSmoothness",
    "BlendSparsity",
    "CoefficientSmoothness",
    "DepthPrior",
    "Eikonal",
    "Elastic",
    "HuberColor",
    "Loss",
    "ObservedSilhouette",
    "OpacityLoss",
    "SkinningPrior",
    "SoftJaccard",
    "SquaredColor",
    "SurfacePrior",
    "WarpMagnitude",
    "blendfield_losses",
    "insta_losses",
    "monoavatar_losses",
    "observe_silhouette",
    "silhouette_distance",
    "vp360_losses",
]
