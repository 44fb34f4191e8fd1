"""Tracking: a head model fitted to a recording, frame by frame and then over all frames together.

`PriorTracker` fits a learned prior of heads, `RigTracker` a rigged and textured scan; both are `FrameTracker`s.
"""

from headfields.tracking.failures import FrameFailure
from headfields.tracking.frame_fit import FrameFit
from headfields.tracking.frame_source import FrameSource
from headfields.tracking.head.identity import HeadIdentity, fit_identity
from headfields.tracking.head.options import HeadTrackingOptions
from headfields.tracking.head.rig import HeadModel
from headfields.tracking.head.tracked_capture import write_tracked_head
from headfields.tracking.head.tracker import HeadTracker
from headfields.tracking.landmark_pose import landmark_pose
from headfields.tracking.loop import FrameTracker, FrameTurn, Tracking
from headfields.tracking.prior.fit import PriorFit
from headfields.tracking.prior.head import PriorHead, TrackingPrior
from headfields.tracking.prior.landmarks import TRACKED_LANDMARKS, LandmarkDetector, LandmarkPoints
from headfields.tracking.prior.load import open_prior, prior_landmarks
from headfields.tracking.prior.mononphm_layout import MonoNPHMFrame, read_mononphm, write_mononphm
from headfields.tracking.prior.observation import FACER_LABELS, LabelClasses, PriorObservation
from headfields.tracking.prior.options import (
    EnergyWeights,
    PriorTrackingOptions,
    RateSchedule,
    Stage1,
    Stage2,
    WeightSchedule,
)
from headfields.tracking.prior.tracker import PriorTracker
from headfields.tracking.rig.adapted import AdaptedTemplate
from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.fit import RigFit
from headfields.tracking.rig.observation import RigObservation
from headfields.tracking.rig.options import Adaptation, RigTrackingOptions, TermScales
from headfields.tracking.rig.tracked_capture import write_tracked_capture
from headfields.tracking.rig.tracker import RigTracker

__all__ = [
    "FACER_LABELS",
    "TRACKED_LANDMARKS",
    "Adaptation",
    "AdaptedTemplate",
    "BodyPose",
    "EnergyWeights",
    "FrameFailure",
    "FrameFit",
    "FrameSource",
    "FrameTracker",
    "FrameTurn",
    "HeadIdentity",
    "HeadModel",
    "HeadTracker",
    "HeadTrackingOptions",
    "LabelClasses",
    "LandmarkDetector",
    "LandmarkPoints",
    "MonoNPHMFrame",
    "PriorFit",
    "PriorHead",
    "PriorObservation",
    "PriorTracker",
    "PriorTrackingOptions",
    "RateSchedule",
    "RigFit",
    "RigObservation",
    "RigTracker",
    "RigTrackingOptions",
    "Stage1",
    "Stage2",
    "TermScales",
    "TrackedBody",
    "Tracking",
    "TrackingPrior",
    "WeightSchedule",
    "fit_identity",
    "landmark_pose",
    "open_prior",
    "prior_landmarks",
    "read_mononphm",
    "write_mononphm",
    "write_tracked_capture",
    "write_tracked_head",
]
