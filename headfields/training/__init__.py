"""Training: the loop, what it leaves behind, and how good the result is."""

from headfields.training.checkpoint import Progress
from headfields.training.ema import ExponentialMovingAverage
from headfields.training.evaluation import evaluate, picture
from headfields.training.run import RunFolder
from headfields.training.trainer import FitResult, NanLossError, Trainer, parameter_groups

__all__ = [
    "ExponentialMovingAverage",
    "FitResult",
    "NanLossError",
    "Progress",
    "RunFolder",
    "Trainer",
    "evaluate",
    "parameter_groups",
    "picture",
]
