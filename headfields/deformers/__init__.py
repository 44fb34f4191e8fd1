"""Deformers: posed space to canonical space."""

from typing import TYPE_CHECKING

from headfields.deformers.blendfield import Blendfield
from headfields.deformers.chain import Chain
from headfields.deformers.embedded_binding import EmbeddedBinding
from headfields.deformers.error_warp import ErrorWarp
from headfields.deformers.hyper import HyperDeformer
from headfields.deformers.inverse import invert
from headfields.deformers.jacobian import jacobian
from headfields.deformers.near_surface import NearSurface
from headfields.deformers.skinning import InverseSkinning, SkinningRoots, WeightFieldSkinning
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.deformers.static import Static
from headfields.deformers.surface import SurfaceCanonicalizer
from headfields.deformers.triangle_binding import TriangleBinding
from headfields.old_names import deprecated_names

__all__ = [
    "Blendfield",
    "Chain",
    "EmbeddedBinding",
    "ErrorWarp",
    "HyperDeformer",
    "InverseSkinning",
    "NearSurface",
    "SkinningRoots",
    "SkinningWeights",
    "Static",
    "SurfaceCanonicalizer",
    "TriangleBinding",
    "WeightFieldSkinning",
    "invert",
    "jacobian",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
