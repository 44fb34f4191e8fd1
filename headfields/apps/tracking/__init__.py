"""Tracking: a head model fitted to a recording, frame by frame and then over all frames together.

`PriorTracker` fits a learned prior of heads, `RigTracker` a rigged and textured scan; both are `FrameTracker`s.
"""

from typing import TYPE_CHECKING

from headfields.apps.tracking.head.options import HeadTrackingOptions
from headfields.apps.tracking.head.tracker import HeadTracker
from headfields.apps.tracking.prior.load import open_prior
from headfields.apps.tracking.prior.options import PriorTrackingOptions
from headfields.apps.tracking.prior.tracker import PriorTracker
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.tracker import RigTracker
from headfields.old_names import deprecated_names

__all__ = [
    "HeadTracker",
    "HeadTrackingOptions",
    "PriorTracker",
    "PriorTrackingOptions",
    "RigTracker",
    "RigTrackingOptions",
    "open_prior",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
