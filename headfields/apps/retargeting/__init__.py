"""Retargeting: one head driven by the motion of another (deformation transfer, correspondence, coefficients, pose)."""

from typing import TYPE_CHECKING

from headfields.apps.retargeting.retargeter import Retargeter
from headfields.old_names import deprecated_names

__all__ = [
    "Retargeter",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
