"""Retargeting: one head driven by the motion of another (deformation transfer, correspondence, coefficients, pose)."""

from headfields.apps.retargeting.binding import Binding, bind
from headfields.apps.retargeting.deformation_transfer import Correspondence, DeformationTransfer
from headfields.apps.retargeting.expression_fit import ExpressionFit, regress_expressions
from headfields.apps.retargeting.head_surface import Eyeball, HeadSurface
from headfields.apps.retargeting.lid_follower import LidFollower
from headfields.apps.retargeting.lids import LidAperture, find_lids
from headfields.apps.retargeting.pose_gradients import pose_gradients
from headfields.apps.retargeting.retargeter import Retargeter, rest_camera
from headfields.apps.retargeting.sources import (
    expressions_of_capture,
    find_landmarks,
    surface_of_capture,
    surface_of_head,
)
from headfields.apps.retargeting.thin_plate import ThinPlateWarp

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
    "ThinPlateWarp",
    "bind",
    "expressions_of_capture",
    "find_landmarks",
    "find_lids",
    "pose_gradients",
    "regress_expressions",
    "rest_camera",
    "surface_of_capture",
    "surface_of_head",
]
