"""What `Trainer` does where it is told nothing: the CPU recipe of the kind of avatar, rays or Gaussians."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from headfields.training.parameter_groups import parameter_groups
from headfields.training.recipes import GAUSSIAN_AVATARS, INSTA, RGB_AVATAR

RELEASED_RATE = 1.75e-3
"""Learning rate of INSTA's released code."""


@dataclass(frozen=True)
class DefaultOptions:
    """Arguments of `Trainer` by its names, `rays` and `samples` per step."""

    learning_rate: float
    network_learning_rate: float
    learning_rates: Mapping[str, float]
    schedule: str
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    ema: float
    rays: int
    samples: int

    def rates_of(self, avatar: nn.Module) -> dict[str, float]:
        """The rates of the groups that the avatar has."""
        groups = {group["name"] for group in parameter_groups(avatar, None)}
        return {name: rate for name, rate in self.learning_rates.items() if name in groups}


def defaults_for(avatar: nn.Module) -> DefaultOptions:
    """The options of an avatar's kind: those of GaussianAvatars' recipe where it renders whole images, else INSTA's."""
    recipe = GAUSSIAN_AVATARS if getattr(avatar, "whole_images", False) else INSTA
    if getattr(getattr(avatar, "deformer", None), "follows", "similarity") != "similarity":
        recipe = RGB_AVATAR  # rates of positions are in meters there, and not in sizes of a triangle
    options, trainer = recipe.options, recipe.trainer
    return DefaultOptions(
        options["learning_rate"], options["network_learning_rate"], trainer.get("learning_rates", {}),
        options["schedule"], trainer.get("betas", (0.9, 0.99)), trainer.get("eps", 1e-15),
        trainer.get("weight_decay", 1e-6), float(trainer.get("ema", 0.95)),
        INSTA.options["rays"], INSTA.options["samples"],
    )  # fmt: skip
