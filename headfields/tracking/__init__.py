"""Tracking: a prior's head fitted to a recording, frame by frame and then all frames together."""

from headfields.tracking.fit import FrameFit
from headfields.tracking.head import CodeRange, TrackedHead, TrackingPrior
from headfields.tracking.landmarks import LandmarkDetector, LandmarkPoints
from headfields.tracking.options import EnergyWeights, Rate, Schedule, Stage1, Stage2, TrackingOptions
from headfields.tracking.stage1 import fit_frame

__all__ = ["fit_frame"]
