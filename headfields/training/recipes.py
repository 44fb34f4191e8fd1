"""Training recipes of the presets: losses, hyperparameters and sizes that `headfields train` uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from headfields.data.balance import yaw_balanced_weights
from headfields.data.template import Mouth
from headfields.losses.base import Loss
from headfields.losses.silhouette import OpacityLoss
from headfields.models.insta import INSTA_RELEASED
from headfields.training.preset_losses import blendfield_losses, insta_losses, monoavatar_losses

__all__ = ["INSTA", "INSTA_AS_RELEASED", "MONOAVATAR", "VP360", "Recipe", "recipe_of"]


@dataclass(frozen=True)
class Recipe:
    """Arguments of `Trainer` for a preset, as `headfields train` uses them.

    Attributes:
        losses: function from the weight of the depth prior and its first step to the list of losses.
        options: defaults of the command's options, by their names.
        trainer: further arguments of `Trainer`.
        regularizers: function from the avatar to losses on its parts.
        sampling: function from the capture to further arguments of `Trainer`.
        arguments: arguments of the preset in place of its defaults.
        mouth: treatment of an open mouth, as in `headfields.data.load_capture`.
    """

    losses: Callable[[float, int], list[Loss]]
    options: Mapping[str, Any]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    regularizers: Callable[[nn.Module], list[Loss]] = lambda avatar: []
    sampling: Callable[[Any], Mapping[str, Any]] = lambda capture: {}
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mouth: Mouth | Literal["auto"] = "close"

    def losses_for(self, options: Mapping[str, Any], avatar: nn.Module | None = None) -> list[Loss]:
        """The losses of a run, with `options["depth"]` and `options["opacity"]` as weights; with an avatar, also those
        on its parts."""
        losses = self.losses(options["depth"], options.get("depth_start", self.options["depth_start"]))
        if avatar is not None:
            losses = [*losses, *self.regularizers(avatar)]
        return [*losses, OpacityLoss(weight=options["opacity"])] if options["opacity"] else losses


INSTA = Recipe(
    insta_losses,
    {
        "rays": 2048, "samples": 14000, "frames": 8, "learning_rate": 0.02, "network_learning_rate": 0.001,
        "schedule": "exponential", "depth": 0.1, "depth_start": 500, "opacity": 0.0, "precision": "32-true",
    },
)  # fmt: skip
"""INSTA's losses and moving average; rates and numbers of rays are our own choice for minutes on a CPU."""

INSTA_AS_RELEASED = Recipe(
    insta_losses,
    {
        "rays": 4096, "samples": 2**18, "frames": 32, "learning_rate": 1.75e-3, "network_learning_rate": 1.75e-3,
        "schedule": "constant", "depth": 1.25, "depth_start": 0, "opacity": 0.0, "precision": "16-mixed",
    },
    arguments={**INSTA_RELEASED, "scaling": "area", "formula": "released", "behind": None},
)  # fmt: skip
"""INSTA's released configuration, for a GPU (33,000 steps).

Two things are our own: a step sees 32 frames, where the released code draws each ray from any frame; and rays are
sampled in a shell around the mesh, where it samples a whole box."""


def aimed_at_features(capture: Any) -> dict[str, Any]:
    """Weights of pixels for `Trainer`: four rays at mouth and eyes for one elsewhere, if the capture has labels."""
    has_labels = len(capture) and getattr(capture, "label", lambda frame: None)(0) is not None
    return {"pixel_weights": {"mouth": 4.0, "eyes": 4.0}} if has_labels else {}


MONOAVATAR = Recipe(
    monoavatar_losses,
    {
        "rays": 4096, "samples": 16000, "frames": 1, "learning_rate": 0.02, "network_learning_rate": 0.004,
        "schedule": "exponential", "depth": 0.0, "depth_start": 500, "opacity": 0.0, "precision": "32-true",
    },
    {"learning_rates": {"warp": 4e-4}, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    sampling=aimed_at_features,
    mouth="auto",
)  # fmt: skip
"""Adam and losses of MonoAvatar's supplement; rates fall to a tenth, and the warp has a tenth of the networks'.

Our own choice, for minutes on a CPU: four times the paper's rates (1e-3 and 1e-4 over 400,000 steps), and a higher one
for the tables of features; one frame a step with many rays, because each frame costs a pass of the network over the
texture map; rays that adapt to the number of samples, more of them at mouth and eyes; an inside of the mouth; and the
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
_RELEASED = {"insta": INSTA_AS_RELEASED}


def recipe_of(model: str, name: str = "cpu") -> Recipe:
    """A recipe of a preset of `headfields.models`.

    Args:
        model: name of the preset; one without a recipe has INSTA's.
        name: `"cpu"`, for minutes on a CPU, or `"released"`, the configuration of the authors' code.

    Raises:
        ValueError: there is no released recipe of the preset.
    """
    if name == "released":
        if model not in _RELEASED:
            raise ValueError(f"{model} has no recipe 'released'; {', '.join(sorted(_RELEASED))} has one")
        return _RELEASED[model]
    return _RECIPES.get(model, INSTA)
