"""Rigging of a scan: a parametric body is registered to a textured mesh, and its rig is transferred."""

from typing import TYPE_CHECKING

from headfields.apps.rigging.rig import rig_template
from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.old_names import deprecated_names

__all__ = [
    "RiggedTemplate",
    "rig_template",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
