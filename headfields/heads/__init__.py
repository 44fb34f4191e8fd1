"""Parametric heads: FLAME's format, blendshape rigs, and one made by code; each call gives a `HeadState`."""

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame import FlameHead
from headfields.heads.flame_files import read_masks
from headfields.heads.mouth import boundary_loops, close_mouth, mouth_loop
from headfields.heads.pickles import UnsafePickleError, load_pickle
from headfields.heads.procedural import procedural, procedural_arrays, write_procedural
from headfields.heads.procedural_teeth import MouthParts, procedural_teeth
from headfields.heads.procedural_texture import procedural_texture

__all__ = [
    "BlendshapeHead",
    "FlameHead",
    "MouthParts",
    "UnsafePickleError",
    "boundary_loops",
    "close_mouth",
    "load_pickle",
    "mouth_loop",
    "procedural",
    "procedural_arrays",
    "procedural_teeth",
    "procedural_texture",
    "read_masks",
    "write_procedural",
]
