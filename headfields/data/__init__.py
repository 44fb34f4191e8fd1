"""Captures on disk, read into the library's records, and written."""

from headfields.data.balance import REGION_LABELS, view_yaw, yaw_balanced_weights
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.head_frame import (
    HeadFrame,
    HeadMotion,
    head_motion,
    head_pose,
    rays_to_head_frame,
    rigid_vertices,
    to_head_frame,
)
from headfields.data.insta_write import CapturedFrame, write_insta
from headfields.data.joint_fit import fit_joint_transforms
from headfields.data.load import load_capture
from headfields.data.save import save_capture
from headfields.data.scans import (
    HeadDraws,
    MeshScans,
    NphmScans,
    PointCounts,
    PointScans,
    ScanBatch,
    ScanSet,
    generate_scans,
    load_scans,
    nphm_to_raw,
    read_nphm,
    save_scans,
)
from headfields.data.tracker_frames import TrackedFrame, TrackedHead, read_frame, read_frames
from headfields.data.tracking_error import TrackingError, tracking_error
from headfields.data.unwrapping import unwrapped

__all__ = [
    "REGION_LABELS",
    "Capture",
    "CaptureError",
    "CapturedFrame",
    "HeadDraws",
    "HeadFrame",
    "HeadMotion",
    "MeshScans",
    "NphmScans",
    "PointCounts",
    "PointScans",
    "ScanBatch",
    "ScanSet",
    "TrackedFrame",
    "TrackedHead",
    "TrackingError",
    "fit_joint_transforms",
    "generate_scans",
    "head_motion",
    "head_pose",
    "load_capture",
    "load_scans",
    "nphm_to_raw",
    "rays_to_head_frame",
    "read_frame",
    "read_frames",
    "read_nphm",
    "rigid_vertices",
    "save_capture",
    "save_scans",
    "to_head_frame",
    "tracking_error",
    "unwrapped",
    "view_yaw",
    "write_insta",
    "yaw_balanced_weights",
]
