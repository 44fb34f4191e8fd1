"""Driving one head with another's motion: deformation transfer, correspondences, expression codes, head pose."""

from headfields.ops.rigid import fit_rigid
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.retargeting.binding import Binding, bind
from headfields.retargeting.blink import LidFollower
from headfields.retargeting.codes import ExpressionFit, regress_expressions
from headfields.retargeting.gradients import pose_gradients
from headfields.retargeting.lids import LidAperture, find_lids
from headfields.retargeting.observe import (
    expressions_of_capture,
    find_landmarks,
    surface_of_capture,
    surface_of_head,
)
from headfields.retargeting.retargeter import Retargeter, rest_camera
from headfields.retargeting.surface import Eyeball, HeadSurface
from headfields.retargeting.thin_plate import ThinPlateWarp
from headfields.retargeting.transfer import Correspondence, DeformationTransfer

__all__ = [
    "Binding",
    "Correspondence",
    "DeformationTransfer",
    "ExpressionFit",
    "Eyeball",
    "HeadSurface",
    "LidAperture",
    "LidFollower",
    "Retargeter",
    "Similarity",
    "ThinPlateWarp",
    "bind",
    "expressions_of_capture",
    "find_landmarks",
    "find_lids",
    "fit_rigid",
    "fit_similarity",
    "pose_gradients",
    "regress_expressions",
    "rest_camera",
    "surface_of_capture",
    "surface_of_head",
]
