"""The mouth of a head mesh: closing its border, or adding an inside with teeth."""

from headfields.heads.mouth.closing import boundary_loops, close_mouth, mouth_loop
from headfields.heads.mouth.inner import FLAME_INNER_LIPS, InnerMouth, inner_mouth

__all__ = [
    "FLAME_INNER_LIPS",
    "InnerMouth",
    "boundary_loops",
    "close_mouth",
    "inner_mouth",
    "mouth_loop",
]
