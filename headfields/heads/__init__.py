"""Parametric heads: FLAME, SMPL-X and blendshape rigs. Each call gives a `HeadState`."""

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame import Conversion, Extras, FlameHead, convert_flame, read_masks
from headfields.heads.landmarks import ContourLandmarks, Embedding, Landmarks, head_yaw, read_embeddings
from headfields.heads.mouth import (
    FLAME_INNER_LIPS,
    INNER_MOUTH_PARTS,
    InnerMouth,
    boundary_loops,
    close_mouth,
    inner_mouth,
    mouth_loop,
)
from headfields.heads.smplx import SmplxHead, from_smplx

__all__ = [
    "FLAME_INNER_LIPS",
    "INNER_MOUTH_PARTS",
    "BlendshapeHead",
    "ContourLandmarks",
    "Conversion",
    "Embedding",
    "Extras",
    "FlameHead",
    "InnerMouth",
    "Landmarks",
    "SmplxHead",
    "boundary_loops",
    "close_mouth",
    "convert_flame",
    "from_smplx",
    "head_yaw",
    "inner_mouth",
    "mouth_loop",
    "read_embeddings",
    "read_masks",
]
