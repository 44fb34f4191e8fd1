"""Captures on disk, read into the library's records."""

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.load import load_capture
from headfields.data.tracker_frames import TrackedFrame, TrackedHead, read_frame, read_frames

__all__ = ["Capture", "CaptureError", "TrackedFrame", "TrackedHead", "load_capture", "read_frame", "read_frames"]
