"""Captures: recorded heads with cameras and tracked meshes, read from disk and written."""

from typing import TYPE_CHECKING

from headfields.data import detectors  # noqa: F401
from headfields.data.arrays import capture_from_arrays
from headfields.data.balance import yaw_balanced_weights
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.formats.gaussian_ply import load_gaussians, save_gaussians
from headfields.data.formats.mononphm import load_mononphm
from headfields.data.formats.nerface import load_nerface
from headfields.data.joined import JoinedCaptures
from headfields.data.live import LiveCapture
from headfields.data.load import load_capture
from headfields.data.pixel_dataset import PixelDataset
from headfields.data.save import save_capture
from headfields.old_names import deprecated_names

__all__ = [
    "Capture",
    "CaptureError",
    "JoinedCaptures",
    "LiveCapture",
    "PixelDataset",
    "capture_from_arrays",
    "load_capture",
    "load_gaussians",
    "load_mononphm",
    "load_nerface",
    "save_capture",
    "save_gaussians",
    "yaw_balanced_weights",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
