"""Training of avatars: the trainer, losses of the presets, evaluation on held-out frames, refinement of their poses."""

from headfields.runs.progress import NanLossError
from headfields.training.callbacks import Callback
from headfields.training.densification import DensityControl
from headfields.training.evaluation import evaluate, picture
from headfields.training.live import LiveFrames
from headfields.training.mcmc import MCMC
from headfields.training.preset_losses import (
    blendfield_losses,
    gaussian_avatars_losses,
    insta_losses,
    monoavatar_losses,
    vp360_losses,
)
from headfields.training.processes import PeerError
from headfields.training.recipes import Recipe, recipe_of
from headfields.training.refinement import Refinement, correct_pose, refine_frame
from headfields.training.requirements import Requirement, capture_requirements
from headfields.training.results import FitResult, StepOutcome
from headfields.training.splat_start import start_from_images
from headfields.training.trainer import Trainer

__all__ = [
    "MCMC",
    "Callback",
    "DensityControl",
    "FitResult",
    "LiveFrames",
    "NanLossError",
    "PeerError",
    "Recipe",
    "Refinement",
    "Requirement",
    "StepOutcome",
    "Trainer",
    "blendfield_losses",
    "capture_requirements",
    "correct_pose",
    "evaluate",
    "gaussian_avatars_losses",
    "insta_losses",
    "monoavatar_losses",
    "picture",
    "recipe_of",
    "refine_frame",
    "start_from_images",
    "vp360_losses",
]
