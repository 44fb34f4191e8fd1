"""Tracking with a prior of heads (MonoNPHM): its codes and pose fitted to each frame, then to all frames together."""

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

__all__ = [
    "FACER_LABELS",
    "TRACKED_LANDMARKS",
    "EnergyWeights",
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
    "Stage1",
    "Stage2",
    "TrackingPrior",
    "WeightSchedule",
    "open_prior",
    "prior_landmarks",
    "read_mononphm",
    "write_mononphm",
]
