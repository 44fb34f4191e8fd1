"""Captures: recorded heads with cameras and tracked meshes, read from disk and written."""

from headfields.data.arrays import capture_from_arrays
from headfields.data.balance import view_yaw, yaw_balanced_weights
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.formats.gaussian_ply import (
    load_flame_parameters,
    load_gaussians,
    save_flame_parameters,
    save_gaussians,
)
from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.data.formats.metrical_tracker import (
    MetricalTrackerFrame,
    MetricalTrackerHead,
    read_metrical_frame,
    read_metrical_frames,
)
from headfields.data.formats.mononphm import MonoNPHMSequence, load_mononphm
from headfields.data.formats.nerface import NeRFaceRecording, load_nerface
from headfields.data.head_frame import (
    HeadFrame,
    HeadMotion,
    head_motion,
    head_pose,
    rigid_vertices,
    to_head_frame,
)
from headfields.data.joined import JoinedCaptures
from headfields.data.joint_fit import fit_joint_transforms
from headfields.data.labels import REGION_LABELS
from headfields.data.live import LiveCapture
from headfields.data.load import load_capture
from headfields.data.matter import matter_extent
from headfields.data.mesh_labels import with_mesh_labels
from headfields.data.pixel_dataset import PixelDataset
from headfields.data.prepare import prepare_recording
from headfields.data.save import save_capture
from headfields.data.save_vhap import VhapExport, save_vhap
from headfields.data.untracked import UntrackedRecording, load_untracked, write_untracked
from headfields.data.video import open_video

__all__ = [
    "REGION_LABELS",
    "Capture",
    "CaptureError",
    "CapturedFrame",
    "HeadFrame",
    "HeadMotion",
    "JoinedCaptures",
    "LiveCapture",
    "MetricalTrackerFrame",
    "MetricalTrackerHead",
    "MonoNPHMSequence",
    "NeRFaceRecording",
    "PixelDataset",
    "UntrackedRecording",
    "VhapExport",
    "capture_from_arrays",
    "fit_joint_transforms",
    "head_motion",
    "head_pose",
    "load_capture",
    "load_flame_parameters",
    "load_gaussians",
    "load_mononphm",
    "load_nerface",
    "load_untracked",
    "matter_extent",
    "open_video",
    "prepare_recording",
    "read_metrical_frame",
    "read_metrical_frames",
    "rigid_vertices",
    "save_capture",
    "save_flame_parameters",
    "save_gaussians",
    "save_vhap",
    "to_head_frame",
    "view_yaw",
    "with_mesh_labels",
    "write_insta",
    "write_untracked",
    "yaw_balanced_weights",
]
