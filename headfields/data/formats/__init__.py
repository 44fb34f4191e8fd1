"""Layouts of captures on disk: readers and writers, one file per layout."""

from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.data.formats.metrical_tracker import (
    MetricalTrackerFrame,
    MetricalTrackerHead,
    read_metrical_frame,
    read_metrical_frames,
)

__all__ = [
    "CapturedFrame",
    "MetricalTrackerFrame",
    "MetricalTrackerHead",
    "read_metrical_frame",
    "read_metrical_frames",
    "write_insta",
]
