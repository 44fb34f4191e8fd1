"""Tracking: a head model fitted to a recording, frame by frame and then over all frames together.

`PriorTracker` fits a learned prior of heads, `RigTracker` a rigged and textured scan; both are `FrameTracker`s.
"""

from headfields.tracking.failures import FrameFailure
from headfields.tracking.frame_fit import FrameFit
from headfields.tracking.frame_source import FrameSource
from headfields.tracking.landmark_pose import landmark_pose
from headfields.tracking.loop import FrameTracker, FrameTurn, Tracking
from headfields.tracking.prior import (
    FACER_LABELS,
    TRACKED_LANDMARKS,
    EnergyWeights,
    LabelClasses,
    LandmarkDetector,
    LandmarkPoints,
    MonoNPHMFrame,
    PriorFit,
    PriorHead,
    PriorObservation,
    PriorTracker,
    PriorTrackingOptions,
    RateSchedule,
    Stage1,
    Stage2,
    TrackingPrior,
    WeightSchedule,
    open_prior,
    prior_landmarks,
    read_mononphm,
    write_mononphm,
)
from headfields.tracking.rig import (
    BodyPose,
    RigFit,
    RigObservation,
    RigTracker,
    RigTrackingOptions,
    TermScales,
    TrackedBody,
    write_tracked_capture,
)

__all__ = [
    "FACER_LABELS",
    "TRACKED_LANDMARKS",
    "BodyPose",
    "EnergyWeights",
    "FrameFailure",
    "FrameFit",
    "FrameSource",
    "FrameTracker",
    "FrameTurn",
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
    "landmark_pose",
    "open_prior",
    "prior_landmarks",
    "read_mononphm",
    "write_mononphm",
    "write_tracked_capture",
]
