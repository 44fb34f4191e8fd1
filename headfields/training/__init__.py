"""Training: the loop, what it leaves behind, and how good the result is."""

from headfields.tensor_files import BrokenFileError
from headfields.training.checkpoint import Progress
from headfields.training.ema import ExponentialMovingAverage
from headfields.training.evaluation import evaluate, picture
from headfields.training.lock import RunLockedError
from headfields.training.options import parameter_groups
from headfields.training.ranks import PeerError, Ranks
from headfields.training.refinement import Refinement, correct_pose, refine_frame
from headfields.training.run import RunFolder, RunWriteError
from headfields.training.trainer import FitResult, NanLossError, Trainer

__all__ = [
    "BrokenFileError",
    "ExponentialMovingAverage",
    "FitResult",
    "NanLossError",
    "PeerError",
    "Progress",
    "Ranks",
    "Refinement",
    "RunFolder",
    "RunLockedError",
    "RunWriteError",
    "Trainer",
    "correct_pose",
    "evaluate",
    "parameter_groups",
    "picture",
    "refine_frame",
]
