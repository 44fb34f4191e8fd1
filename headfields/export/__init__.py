"""Heads for other programs: glTF and USD with morph targets, skin and animation; Gaussians in glTF."""

from headfields.export.arkit import ARKIT_NAMES, arkit_rig, read_mapping
from headfields.export.captures import fit_motion, head_motion, rig_of_capture
from headfields.export.gltf import save_gltf_splats, save_rigged_gltf
from headfields.export.heads import motion_of_head, rig_of_head
from headfields.export.rigged_mesh import Motion, RiggedMesh, strongest_joints
from headfields.export.textures import texture_of_avatar, texture_of_capture
from headfields.export.usd import save_usd

__all__ = [
    "ARKIT_NAMES",
    "Motion",
    "RiggedMesh",
    "arkit_rig",
    "fit_motion",
    "head_motion",
    "motion_of_head",
    "read_mapping",
    "rig_of_capture",
    "rig_of_head",
    "save_gltf_splats",
    "save_rigged_gltf",
    "save_usd",
    "strongest_joints",
    "texture_of_avatar",
    "texture_of_capture",
]
