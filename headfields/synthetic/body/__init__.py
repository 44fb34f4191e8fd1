"""A procedural upper body in SMPL-X's file format."""

from headfields.synthetic.body.model import procedural_body, procedural_body_arrays
from headfields.synthetic.body.texture import procedural_body_texture

__all__ = [
    "procedural_body",
    "procedural_body_arrays",
    "procedural_body_texture",
]
