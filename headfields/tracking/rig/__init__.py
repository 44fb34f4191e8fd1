"""Tracking of a rigged, textured scan: pose, expression and light from colors, outlines and landmarks."""

from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.fit import TemplateFit
from headfields.tracking.rig.options import TemplateTrackingOptions, TermScales
from headfields.tracking.rig.output import write_tracked_capture
from headfields.tracking.rig.tracker import TemplateTracker, TemplateTracking

__all__ = [
    "BodyPose",
    "TemplateFit",
    "TemplateTracker",
    "TemplateTracking",
    "TemplateTrackingOptions",
    "TermScales",
    "TrackedBody",
    "write_tracked_capture",
]
