"""Captures on disk, read into the library's records, and written."""

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.insta_write import CapturedFrame, write_insta
from headfields.data.load import load_capture
from headfields.data.save import save_capture

__all__ = ["Capture", "CaptureError", "CapturedFrame", "load_capture", "save_capture", "write_insta"]
