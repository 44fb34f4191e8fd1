"""Synthetic data: procedural heads and bodies, rendered captures, scans, and tracking errors against the truth."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names
from headfields.synthetic.body.model import procedural_body
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.head.model import procedural_head
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.synthetic.rig_tracking_error import rig_tracking_error
from headfields.synthetic.scans.generate import generate_scans
from headfields.synthetic.tracking_error import tracking_error
from headfields.synthetic.tracking_noise import TrackingNoise

__all__ = [
    "TrackingNoise",
    "generate_scans",
    "procedural_body",
    "procedural_head",
    "rig_tracking_error",
    "tracking_error",
    "write_head_capture",
    "write_rig_capture",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
