"""Synthetic heads, bodies, captures and scans, and how far tracking is from their truth."""

from headfields.synthetic.body import procedural_body, procedural_body_arrays, procedural_body_texture
from headfields.synthetic.captures import write_capture
from headfields.synthetic.head import procedural, procedural_arrays, procedural_texture
from headfields.synthetic.rig_captures import write_template_capture
from headfields.synthetic.rig_tracking_error import TemplateError, template_error
from headfields.synthetic.scans import HeadDraws, generate_scans
from headfields.synthetic.tracking_error import TrackingError, tracking_error

__all__ = [
    "HeadDraws",
    "TemplateError",
    "TrackingError",
    "generate_scans",
    "procedural",
    "procedural_arrays",
    "procedural_body",
    "procedural_body_arrays",
    "procedural_body_texture",
    "procedural_texture",
    "template_error",
    "tracking_error",
    "write_capture",
    "write_template_capture",
]
