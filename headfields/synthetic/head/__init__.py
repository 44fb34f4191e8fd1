"""A procedural head in FLAME's file format: shape, expressions, joints and texture."""

from headfields.synthetic.head.model import procedural_head, procedural_head_arrays
from headfields.synthetic.head.texture import procedural_head_texture

__all__ = [
    "procedural_head",
    "procedural_head_arrays",
    "procedural_head_texture",
]
