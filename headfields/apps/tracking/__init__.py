"""Tracking: a head model fitted to a recording, frame by frame and then over all frames together.

`PriorTracker` fits a learned prior of heads, `RigTracker` a rigged and textured scan; both are `FrameTracker`s.
"""

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.frame_fit import FrameFit
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.head.identity import HeadIdentity, fit_identity
from headfields.apps.tracking.head.options import HeadTrackingOptions
from headfields.apps.tracking.head.rig import HeadModel
from headfields.apps.tracking.head.tracked_head import write_tracked_head
from headfields.apps.tracking.head.tracker import HeadTracker
from headfields.apps.tracking.landmark_pose import landmark_pose
from headfields.apps.tracking.loop import FrameTracker, FrameTurn, Tracking
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.head import PriorHead, TrackingPrior
from headfields.apps.tracking.prior.landmarks import TRACKED_LANDMARKS, LandmarkDetector, LandmarkPoints
from headfields.apps.tracking.prior.load import open_prior, prior_landmarks
from headfields.apps.tracking.prior.mononphm_layout import MonoNPHMFrame, read_mononphm, write_mononphm
from headfields.apps.tracking.prior.observation import FACER_LABELS, LabelClasses, PriorObservation
from headfields.apps.tracking.prior.options import (
    EnergyWeights,
    PriorTrackingOptions,
    Stage1,
    Stage2,
    SteppedRate,
    WeightSchedule,
)
from headfields.apps.tracking.prior.tracker import PriorTracker
from headfields.apps.tracking.rig.adapted import AdaptedTemplate
from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.fit import RigFit
from headfields.apps.tracking.rig.observation import RigObservation
from headfields.apps.tracking.rig.options import Adaptation, RigTrackingOptions, TermScales
from headfields.apps.tracking.rig.tracked_capture import write_tracked_capture
from headfields.apps.tracking.rig.tracker import RigTracker

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
    "RigFit",
    "RigObservation",
    "RigTracker",
    "RigTrackingOptions",
    "Stage1",
    "Stage2",
    "SteppedRate",
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
