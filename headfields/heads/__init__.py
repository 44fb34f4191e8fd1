"""Parametric heads: FLAME, SMPL-X and blendshape rigs. Each call gives a `HeadState`."""

from typing import TYPE_CHECKING

from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame.model import FlameHead
from headfields.heads.mouth.inner import inner_mouth
from headfields.heads.skinned import SkinnedHead
from headfields.heads.smplx import SmplxHead, from_smplx
from headfields.old_names import deprecated_names

__all__ = [
    "BlendshapeHead",
    "FlameHead",
    "SkinnedHead",
    "SmplxHead",
    "from_smplx",
    "inner_mouth",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
