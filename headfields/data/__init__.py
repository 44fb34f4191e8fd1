"""Captures on disk, read into the library's records."""

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.load import load_capture

__all__ = ["Capture", "CaptureError", "load_capture"]
