"""Synthetic data: procedural heads and bodies, rendered captures, scans, and tracking errors against the truth."""

from headfields.synthetic.body.model import procedural_body, procedural_body_arrays
from headfields.synthetic.body.person import procedural_rig
from headfields.synthetic.body.texture import procedural_body_texture
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.detector_noise import DetectorNoise
from headfields.synthetic.head.model import procedural_head, procedural_head_arrays
from headfields.synthetic.head.texture import procedural_head_texture
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.synthetic.rig_tracking_error import RigTrackingError, rig_tracking_error
from headfields.synthetic.scans.generate import generate_scans
from headfields.synthetic.scans.sampler import HeadSampler
from headfields.synthetic.tracking_error import TrackingError, tracking_error
from headfields.synthetic.tracking_noise import TrackingNoise

__all__ = [
    "DetectorNoise",
    "HeadSampler",
    "RigTrackingError",
    "TrackingError",
    "TrackingNoise",
    "generate_scans",
    "procedural_body",
    "procedural_body_arrays",
    "procedural_body_texture",
    "procedural_head",
    "procedural_head_arrays",
    "procedural_head_texture",
    "procedural_rig",
    "rig_tracking_error",
    "tracking_error",
    "write_head_capture",
    "write_rig_capture",
]
