"""A procedural head in FLAME's file format: shape, expressions, joints and texture."""

from headfields.synthetic.head.model import procedural, procedural_arrays
from headfields.synthetic.head.texture import procedural_texture

__all__ = [
    "procedural",
    "procedural_arrays",
    "procedural_texture",
]
