"""Heads for other programs: glTF and USD with morph targets, skin and animation; Gaussians in glTF."""

from typing import TYPE_CHECKING

from headfields.apps.export.captures import rig_of_capture
from headfields.apps.export.gltf import save_rigged_gltf
from headfields.apps.export.heads import rig_of_head
from headfields.apps.export.save_vhap import save_vhap
from headfields.apps.export.usd import save_usd
from headfields.old_names import deprecated_names

__all__ = [
    "rig_of_capture",
    "rig_of_head",
    "save_rigged_gltf",
    "save_usd",
    "save_vhap",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
