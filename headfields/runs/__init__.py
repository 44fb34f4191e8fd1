"""Runs: folder, lock, interrupts, checkpoints, progress and random generators of a long job."""

from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.folder import RunFolder, RunWriteError
from headfields.runs.lock import RunLockedError

__all__ = ["ExponentialMovingAverage", "RunFolder", "RunLockedError", "RunWriteError"]
