"""Parametric heads: coefficients in, a `HeadState` out."""

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame import FlameHead
from headfields.heads.mouth import boundary_loops, close_mouth
from headfields.heads.procedural import procedural, write_procedural

__all__ = ["BlendshapeHead", "FlameHead", "boundary_loops", "close_mouth", "procedural", "write_procedural"]
