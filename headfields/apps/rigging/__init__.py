"""Rigging of a scan: a parametric body is registered to a textured mesh, and its rig is transferred."""

from headfields.apps.rigging.attribute_transfer import (
    correspond,
    transfer_displacements,
    transfer_landmarks,
    transfer_regions,
    transfer_uv,
    transfer_values,
    weld_groups,
)
from headfields.apps.rigging.landmarks import LANDMARK_NAMES, ScanLandmarks, find_scan_landmarks, read_scan_landmarks
from headfields.apps.rigging.lips import LipCut, cut_lips, lip_sides, lips_parted
from headfields.apps.rigging.mesh_repair import close_pinholes, join_seams
from headfields.apps.rigging.pictures import rig_pictures
from headfields.apps.rigging.registration import DEFAULT_STAGES, Registration, Stage, register
from headfields.apps.rigging.rig import Rigging, rig_template
from headfields.apps.rigging.rigged_template import RiggedTemplate

__all__ = [
    "DEFAULT_STAGES",
    "LANDMARK_NAMES",
    "LipCut",
    "Registration",
    "RiggedTemplate",
    "Rigging",
    "ScanLandmarks",
    "Stage",
    "close_pinholes",
    "correspond",
    "cut_lips",
    "find_scan_landmarks",
    "join_seams",
    "lip_sides",
    "lips_parted",
    "read_scan_landmarks",
    "register",
    "rig_pictures",
    "rig_template",
    "transfer_displacements",
    "transfer_landmarks",
    "transfer_regions",
    "transfer_uv",
    "transfer_values",
    "weld_groups",
]
