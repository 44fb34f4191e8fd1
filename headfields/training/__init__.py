"""Training of avatars: the trainer, losses of the presets, evaluation on held-out frames, refinement of their poses."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names
from headfields.training.callbacks import Callback
from headfields.training.densification import DensityControl
from headfields.training.evaluation import evaluate
from headfields.training.mcmc import MCMC
from headfields.training.preset_losses import (
    insta_losses,
    monoavatar_losses,
    vp360_losses,
)
from headfields.training.recipes import recipe_of
from headfields.training.splat_start import start_from_images
from headfields.training.train_preset import train
from headfields.training.trainer import Trainer

__all__ = [
    "MCMC",
    "Callback",
    "DensityControl",
    "Trainer",
    "evaluate",
    "insta_losses",
    "monoavatar_losses",
    "recipe_of",
    "start_from_images",
    "train",
    "vp360_losses",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
