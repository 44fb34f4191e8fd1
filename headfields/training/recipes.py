"""Training recipes of the presets: losses and hyperparameters that `headfields train` uses by default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from headfields.data.balance import yaw_balanced_weights
from headfields.losses.base import Loss
from headfields.losses.silhouette import OpacityLoss
from headfields.training.preset_losses import blendfield_losses, insta_losses, monoavatar_losses

__all__ = ["INSTA", "MONOAVATAR", "VP360", "Recipe", "recipe_of"]


@dataclass(frozen=True)
class Recipe:
    """Arguments of `Trainer` for a preset, as `headfields train` uses them.

    Attributes:
        losses: function from the weight of the depth prior to the list of losses.
        options: defaults of the command's options, by their names.
        trainer: further arguments of `Trainer`.
        regularizers: function from the avatar to losses on its parts.
        sampling: function from the capture to further arguments of `Trainer`.
    """

    losses: Callable[[float], list[Loss]]
    options: Mapping[str, Any]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    regularizers: Callable[[nn.Module], list[Loss]] = lambda avatar: []
    sampling: Callable[[Any], Mapping[str, Any]] = lambda capture: {}

    def losses_for(self, options: Mapping[str, Any], avatar: nn.Module | None = None) -> list[Loss]:
        """The losses of a run, with `options["depth"]` and `options["opacity"]` as weights; with an avatar, also those
        on its parts."""
        losses = [*self.losses(options["depth"]), *(self.regularizers(avatar) if avatar is not None else [])]
        return [*losses, OpacityLoss(weight=options["opacity"])] if options["opacity"] else losses


INSTA = Recipe(
    insta_losses,
    {
        "rays": 2048, "samples": 14000, "frames": 8, "learning_rate": 0.02, "network_learning_rate": 0.001,
        "schedule": "exponential", "depth": 0.1, "opacity": 0.0, "precision": "32-true",
    },
)  # fmt: skip
"""INSTA's losses and moving average; rates and numbers of rays are our own choice for minutes on a CPU."""

MONOAVATAR = Recipe(
    monoavatar_losses,
    {
        "rays": 1024, "samples": 8000, "frames": 2, "learning_rate": 0.004, "network_learning_rate": 0.004,
        "schedule": "exponential", "depth": 0.0, "opacity": 0.0, "precision": "32-true",
    },
    {"learning_rates": {"warp": 4e-4}, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
)  # fmt: skip
"""Adam, rays and losses of MonoAvatar's supplement; rates fall to a tenth, and the warp has a tenth of the others.

Our own choice, for minutes on a CPU: four times the paper's rates (1e-3 and 1e-4 over 400,000 steps), which gain 1.7 dB
in 500 steps (`headfields train --learning-rate 0.001 --network-learning-rate 0.001` restores them); two frames per
step, each of which costs a pass of the network over the texture map; rays that adapt to the number of samples; and the
moving average of the weights."""

VP360 = Recipe(
    insta_losses,
    INSTA.options,
    regularizers=blendfield_losses,
    sampling=lambda capture: {"frame_weights": yaw_balanced_weights(capture)},
)
"""INSTA's, the regularizers of the blendfields, and frames balanced by view direction; our own choice, as the paper's
recipe is not published."""

_RECIPES = {"insta": INSTA, "static_field": INSTA, "monoavatar": MONOAVATAR, "vp360": VP360}


def recipe_of(model: str) -> Recipe:
    """The recipe of a preset of `headfields.models`; INSTA's if it has none."""
    return _RECIPES.get(model, INSTA)
