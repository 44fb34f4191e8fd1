"""Tracking of a rigged, textured scan: pose, expression and light from colors, outlines and landmarks."""

from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.fit import RigFit
from headfields.tracking.rig.observation import RigObservation
from headfields.tracking.rig.options import RigTrackingOptions, TermScales
from headfields.tracking.rig.tracked_capture import write_tracked_capture
from headfields.tracking.rig.tracker import RigTracker

__all__ = [
    "BodyPose",
    "RigFit",
    "RigObservation",
    "RigTracker",
    "RigTrackingOptions",
    "TermScales",
    "TrackedBody",
    "write_tracked_capture",
]
