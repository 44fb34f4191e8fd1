"""Layouts of captures on disk: readers and writers, one file a layout."""

from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.data.formats.metrical_tracker import TrackedFrame, TrackedHead, read_frame, read_frames

__all__ = [
    "CapturedFrame",
    "TrackedFrame",
    "TrackedHead",
    "read_frame",
    "read_frames",
    "write_insta",
]
