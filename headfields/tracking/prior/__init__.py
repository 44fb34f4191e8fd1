"""Tracking with a prior of heads (MonoNPHM): its codes and pose fitted to each frame, then to all together."""

from headfields.tracking.prior.fit import FrameFit
from headfields.tracking.prior.frames import FACER, FrameSource, LabelClasses, TrackedFrame, load_frame
from headfields.tracking.prior.head import TrackedHead, TrackingPrior
from headfields.tracking.prior.landmarks import FIXED, LandmarkDetector, LandmarkPoints
from headfields.tracking.prior.mononphm_layout import MonoNPHMFrame, read_mononphm, write_mononphm
from headfields.tracking.prior.options import EnergyWeights, Rate, Schedule, Stage1, Stage2, TrackingOptions
from headfields.tracking.prior.pose import head_camera, head_rays, landmark_pose, world_points
from headfields.tracking.prior.sources import open_prior, prior_landmarks
from headfields.tracking.prior.stage1 import fit_frame
from headfields.tracking.prior.stage2 import JointFit
from headfields.tracking.prior.tracker import Tracker, Tracking

__all__ = [
    "FACER",
    "FIXED",
    "EnergyWeights",
    "FrameFit",
    "FrameSource",
    "JointFit",
    "LabelClasses",
    "LandmarkDetector",
    "LandmarkPoints",
    "MonoNPHMFrame",
    "Rate",
    "Schedule",
    "Stage1",
    "Stage2",
    "TrackedFrame",
    "TrackedHead",
    "Tracker",
    "Tracking",
    "TrackingOptions",
    "TrackingPrior",
    "fit_frame",
    "head_camera",
    "head_rays",
    "landmark_pose",
    "load_frame",
    "open_prior",
    "prior_landmarks",
    "read_mononphm",
    "world_points",
    "write_mononphm",
]
