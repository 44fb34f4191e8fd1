"""Parametric heads: FLAME, SMPL-X and blendshape rigs. Each call gives a `HeadState`."""

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame import FlameAssets, FlameConversion, FlameHead, convert_flame
from headfields.heads.landmarks import ContourLandmarks, LandmarkEmbedding, Landmarks
from headfields.heads.mouth import (
    FLAME_INNER_LIPS,
    InnerMouth,
    boundary_loops,
    close_mouth,
    inner_mouth,
    mouth_loop,
)
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
    "SmplxHead",
    "boundary_loops",
    "close_mouth",
    "convert_flame",
    "from_smplx",
    "inner_mouth",
    "mouth_loop",
]
