"""Parametric heads: FLAME's and SMPL-X's format, blendshape rigs, a head and an upper body made by code.

Each call gives a `HeadState`.
"""

from headfields.heads.array_files import load_arrays
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame import FlameHead
from headfields.heads.flame_assets import Extras, read_masks
from headfields.heads.flame_convert import Conversion, convert_flame
from headfields.heads.inner_mouth import FLAME_INNER_LIPS, INNER_MOUTH_PARTS, InnerMouth, inner_mouth
from headfields.heads.landmarks import ContourLandmarks, Embedding, Landmarks, head_yaw, read_embeddings
from headfields.heads.mouth import boundary_loops, close_mouth, mouth_loop
from headfields.heads.pickles import UnsafePickleError, load_pickle, load_torch, to_array
from headfields.heads.procedural import procedural, procedural_arrays, write_procedural
from headfields.heads.procedural_body import procedural_body, procedural_body_arrays, write_procedural_body
from headfields.heads.procedural_body_texture import procedural_body_texture
from headfields.heads.procedural_teeth import MouthParts, procedural_teeth
from headfields.heads.procedural_texture import procedural_texture
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
    "MouthParts",
    "SmplxHead",
    "UnsafePickleError",
    "boundary_loops",
    "close_mouth",
    "convert_flame",
    "from_smplx",
    "head_yaw",
    "inner_mouth",
    "load_arrays",
    "load_pickle",
    "load_torch",
    "mouth_loop",
    "procedural",
    "procedural_arrays",
    "procedural_body",
    "procedural_body_arrays",
    "procedural_body_texture",
    "procedural_teeth",
    "procedural_texture",
    "read_embeddings",
    "read_masks",
    "to_array",
    "write_procedural",
    "write_procedural_body",
]
