"""Parametric heads: FLAME, SMPL-X and blendshape rigs. Each call gives a `HeadState`."""

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame.assets import FlameAssets
from headfields.heads.flame.convert import FlameConversion, convert_flame
from headfields.heads.flame.model import FlameHead
from headfields.heads.landmarks import ContourLandmarks, LandmarkEmbedding, Landmarks
from headfields.heads.mouth.closing import boundary_loops, close_mouth, mouth_loop
from headfields.heads.mouth.inner import FLAME_INNER_LIPS, InnerMouth, inner_mouth
from headfields.heads.skinned import SkinnedHead
from headfields.heads.smplx import SmplxHead, from_smplx

__all__ = [
    "FLAME_INNER_LIPS",
    "BlendshapeHead",
    "ContourLandmarks",
    "FlameAssets",
    "FlameConversion",
    "FlameHead",
    "InnerMouth",
    "LandmarkEmbedding",
    "Landmarks",
    "SkinnedHead",
    "SmplxHead",
    "boundary_loops",
    "close_mouth",
    "convert_flame",
    "from_smplx",
    "inner_mouth",
    "mouth_loop",
]
