"""Tracking: a prior's head fitted to a recording, frame by frame and then all frames together."""

from headfields.tracking.failures import FrameFailure
from headfields.tracking.fit import FrameFit
from headfields.tracking.frames import FACER, FrameSource, LabelClasses, TrackedFrame, load_frame
from headfields.tracking.head import TrackedHead, TrackingPrior
from headfields.tracking.landmarks import FIXED, LandmarkDetector, LandmarkPoints
from headfields.tracking.layout import MonoNPHMFrame, read_mononphm, write_mononphm
from headfields.tracking.options import EnergyWeights, Rate, Schedule, Stage1, Stage2, TrackingOptions
from headfields.tracking.pose import head_camera, head_rays, landmark_pose, world_points
from headfields.tracking.sources import open_prior, prior_landmarks
from headfields.tracking.stage1 import fit_frame
from headfields.tracking.stage2 import JointFit
from headfields.tracking.tracker import Tracker, Tracking

__all__ = [
    "FACER",
    "FIXED",
    "EnergyWeights",
    "FrameFailure",
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
