"""Captures from plain videos: frames, detections, framing and calibration of one camera or several; what they lack."""

from typing import TYPE_CHECKING

from headfields.apps.capturing.prepare import prepare_recording
from headfields.old_names import deprecated_names

__all__ = [
    "prepare_recording",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
