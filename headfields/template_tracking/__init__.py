"""Tracking of a rigged, textured template: pose, expression and light from colours, outlines and landmarks."""

from headfields.template_tracking.body import BodyPose, TrackedBody
from headfields.template_tracking.error import TemplateError, template_error
from headfields.template_tracking.fit import TemplateFit
from headfields.template_tracking.options import TemplateTrackingOptions, TermScales
from headfields.template_tracking.output import write_tracked_capture
from headfields.template_tracking.tracker import TemplateTracker, TemplateTracking

__all__ = [
    "BodyPose",
    "TemplateError",
    "TemplateFit",
    "TemplateTracker",
    "TemplateTracking",
    "TemplateTrackingOptions",
    "TermScales",
    "TrackedBody",
    "template_error",
    "write_tracked_capture",
]
