"""Heads for other programs: glTF and USD with morph targets, skin and animation; Gaussians in glTF."""

from headfields.apps.export.arkit import ARKIT_NAMES, arkit_rig, read_mapping
from headfields.apps.export.captures import fit_motion, head_poses, rig_of_capture
from headfields.apps.export.gltf import save_gltf_splats, save_rigged_gltf
from headfields.apps.export.heads import motion_of_head, rig_of_head
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion, strongest_joints
from headfields.apps.export.textures import texture_of_avatar, texture_of_capture
from headfields.apps.export.usd import save_usd

__all__ = [
    "ARKIT_NAMES",
    "RigMotion",
    "RiggedMesh",
    "arkit_rig",
    "fit_motion",
    "head_poses",
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
