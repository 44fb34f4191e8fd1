"""Captures on disk, read into the library's records, and written."""

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.insta_write import CapturedFrame, write_insta
from headfields.data.load import load_capture
from headfields.data.save import save_capture
from headfields.data.tracker_frames import TrackedFrame, TrackedHead, read_frame, read_frames
from headfields.data.tracking_error import TrackingError, tracking_error
from headfields.data.unwrapping import unwrapped

__all__ = [
    "Capture",
    "CaptureError",
    "CapturedFrame",
    "TrackedFrame",
    "TrackedHead",
    "TrackingError",
    "load_capture",
    "read_frame",
    "read_frames",
    "save_capture",
    "tracking_error",
    "unwrapped",
    "write_insta",
]
