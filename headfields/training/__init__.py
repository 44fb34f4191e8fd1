"""Training of avatars: the trainer, losses of the presets, evaluation on held-out frames, refinement of their poses."""

from headfields.runs.progress import NanLossError
from headfields.training.evaluation import evaluate, picture
from headfields.training.preset_losses import blendfield_losses, insta_losses, monoavatar_losses, vp360_losses
from headfields.training.processes import PeerError
from headfields.training.refinement import Refinement, correct_pose, refine_frame
from headfields.training.trainer import FitResult, Trainer

__all__ = [
    "FitResult",
    "NanLossError",
    "PeerError",
    "Refinement",
    "Trainer",
    "blendfield_losses",
    "correct_pose",
    "evaluate",
    "insta_losses",
    "monoavatar_losses",
    "picture",
    "refine_frame",
    "vp360_losses",
]
