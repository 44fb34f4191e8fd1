"""Retargeting: one head driven by the motion of another (deformation transfer, correspondence, coefficients, pose)."""

from headfields.retargeting.binding import Binding, bind
from headfields.retargeting.expression_fit import ExpressionFit, regress_expressions
from headfields.retargeting.head_surface import Eyeball, HeadSurface
from headfields.retargeting.lid_follower import LidFollower
from headfields.retargeting.lids import LidAperture, find_lids
from headfields.retargeting.pose_gradients import pose_gradients
from headfields.retargeting.retargeter import Retargeter, rest_camera
from headfields.retargeting.sources import (
    expressions_of_capture,
    find_landmarks,
    surface_of_capture,
    surface_of_head,
)
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
