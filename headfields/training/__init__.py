"""Training of avatars: the trainer, evaluation on held-out frames, and refinement of their poses."""

from headfields.runs.ema import ExponentialMovingAverage
from headfields.training.evaluation import evaluate, picture
from headfields.training.options import parameter_groups
from headfields.training.preset_losses import blendfield_losses, insta_losses, monoavatar_losses, vp360_losses
from headfields.training.ranks import PeerError, Ranks
from headfields.training.refinement import Refinement, correct_pose, refine_frame
from headfields.training.trainer import FitResult, NanLossError, Trainer

__all__ = [
    "ExponentialMovingAverage",
    "FitResult",
    "NanLossError",
    "PeerError",
    "Ranks",
    "Refinement",
    "Trainer",
    "blendfield_losses",
    "correct_pose",
    "evaluate",
    "insta_losses",
    "monoavatar_losses",
    "parameter_groups",
    "picture",
    "refine_frame",
    "vp360_losses",
]
