"""The records that parts exchange: frozen dataclasses of tensors.

One convention inside the library: meters, radians, float32; y up, face toward +z; cameras are world-to-camera with
OpenCV axes (x right, y down, z forward) and pixel intrinsics. Readers convert on the way in.
"""

from headfields.records.base import Record
from headfields.records.batches import Batch, ImageBatch, PixelBatch
from headfields.records.camera import Camera, DistortedCameraError, Rays
from headfields.records.head import HeadState, Template, check_meters
from headfields.records.points import Canonical, Correction, Features, FieldValues, Inverse, Samples
from headfields.records.splats import Splats

__all__ = [
    "Batch",
    "Camera",
    "Canonical",
    "Correction",
    "DistortedCameraError",
    "Features",
    "FieldValues",
    "HeadState",
    "ImageBatch",
    "Inverse",
    "PixelBatch",
    "Rays",
    "Record",
    "Samples",
    "Splats",
    "Template",
    "check_meters",
]
