"""Training recipes of the presets: sizes, losses and hyperparameters that `headfields train` uses.

A recipe is named for what it is made for: `"cpu"`, minutes on a CPU, with sizes and rates of our own; `"fast"`, minutes
on a GPU, with the sizes of the paper or the released code and rates of our own; `"released"`, the authors' numbers.
docs/training.md has the tables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from headfields.data.balance import yaw_balanced_weights
from headfields.data.camera_extent import camera_extent
from headfields.data.template import Mouth
from headfields.losses.base import Loss
from headfields.losses.color import SquaredColor
from headfields.losses.silhouette import OpacityLoss
from headfields.models.insta import INSTA_RELEASED
from headfields.records.device_copy import device_named
from headfields.runs.lazy_adam import lazy_adam
from headfields.training.densification import DensityControl
from headfields.training.fine_tuning import RELEASED_RATES, FineTuning
from headfields.training.idle_options import idle_options, refuse_idle
from headfields.training.optimizers import LogLinearFall
from headfields.training.parameter_groups import parameter_groups
from headfields.training.preset_losses import (
    blendfield_losses,
    flash_avatar_losses,
    gaussian_avatars_losses,
    insta_losses,
    monoavatar_losses,
    rgb_avatar_losses,
)
from headfields.training.splat_start import start_from_images

__all__ = ["GAUSSIAN_AVATARS", "INSTA", "INSTA_AS_RELEASED", "MONOAVATAR", "VP360", "Recipe", "RecipeName", "recipe_of"]

RecipeName = Literal["cpu", "fast", "released"]


@dataclass(frozen=True)
class Recipe:
    """How a preset is made and trained; `recipe_of` finds one.

    Attributes:
        name: `"cpu"`, `"fast"` or `"released"`.
        losses: function from the weight of the depth prior and its first step to the list of losses.
        options: defaults of the command's options, by their names.
        trainer: further arguments of `Trainer`.
        regularizers: function from the avatar to losses on its parts.
        sampling: function from the capture to further arguments of `Trainer`.
        arguments: arguments of the preset in place of its defaults: its sizes.
        mouth: treatment of an open mouth, as in `headfields.data.load_capture`.
        steps: length of the run that the numbers are made for; None: of any.
        start: called with the avatar and the capture before a new run.
        callbacks: function from the avatar and the capture to callbacks of the trainer.
        rate_factors: function from the capture to factors on `trainer["learning_rates"]`, by group.
        fine_tuning: rates of the tracking, where it is trained.
        fine_tunes: whether it is trained unless the program says otherwise, where the capture has a head's parameters.
    """

    name: RecipeName
    losses: Callable[[float, int], list[Loss]]
    options: Mapping[str, Any]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    regularizers: Callable[[nn.Module], list[Loss]] = lambda avatar: []
    sampling: Callable[[Any], Mapping[str, Any]] = lambda capture: {}
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mouth: Mouth | Literal["auto"] = "close"
    steps: int | None = None
    start: Callable[[Any, Any], None] = lambda avatar, capture: None
    callbacks: Callable[[nn.Module, Any], list[Any]] = lambda avatar, capture: []
    rate_factors: Callable[[Any], Mapping[str, float]] = lambda capture: {}
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    fine_tunes: bool = False

    def losses_for(self, options: Mapping[str, Any], avatar: nn.Module | None = None) -> list[Loss]:
        """The losses of a run, with `options["depth"]` and `options["opacity"]` as weights; with an avatar, also those
        on its parts."""
        losses = self.losses(options["depth"], options.get("depth_start", self.options["depth_start"]))
        if avatar is not None:
            losses = [*losses, *self.regularizers(avatar)]
        return [*losses, OpacityLoss(weight=options["opacity"])] if options["opacity"] else losses

    def rates_of(self, avatar: nn.Module, rates: Mapping[str, float]) -> dict[str, float]:
        """Rates of groups without the recipe's own for groups that this avatar, by its arguments, does not have."""
        own, groups = (
            self.trainer.get("learning_rates", {}),
            {group["name"] for group in parameter_groups(avatar, None)},
        )
        return {name: rate for name, rate in rates.items() if name in groups or rate != own.get(name)}

    def scaled_rates(self, rates: Mapping[str, float], capture: Any) -> dict[str, float]:
        """Rates of groups, with the capture's factors on those that are the recipe's own."""
        own, factors = self.trainer.get("learning_rates", {}), self.rate_factors(capture)
        return {name: rate * factors.get(name, 1.0) if rate == own.get(name) else rate for name, rate in rates.items()}

    def trainer_arguments(self, avatar: nn.Module, capture: Any, **options: Any) -> dict[str, Any]:
        """Arguments of `Trainer` after the avatar and the capture.

        Args:
            avatar: the avatar, for losses on its parts.
            capture: the capture, for weights of its frames and pixels.
            options: entries in place of those of the recipe's `options`.

        Raises:
            TypeError: there is no such option.
            ValueError: one would change nothing for this avatar.

        >>> from headfields.training import recipe_of
        >>> recipe = recipe_of("insta", "fast")
        >>> recipe.arguments["features"], recipe.options["samples"]
        (8, 262144)
        """
        unknown = options.keys() - self.options.keys()
        if unknown:
            raise TypeError(f"recipe {self.name}: no option {sorted(unknown)}; it has {', '.join(self.options)}")
        chosen = {**self.options, **options}
        idle = idle_options(self, avatar, chosen)
        refuse_idle("trainer_arguments", {n: v for n, v in options.items() if v != self.options[n]}, idle)
        own = {"rays_per_step": chosen["rays"], "samples_per_step": chosen["samples"] or None}
        if chosen["samples"] and "most_rays" in self.trainer:  # without a number of samples, that of rays stays
            own["most_rays"] = self.trainer["most_rays"]
        rays = {} if getattr(avatar, "whole_images", False) else own
        rates = ("learning_rate", "network_learning_rate")
        return {
            "losses": self.losses_for(chosen, avatar),
            **rays,
            "frames_per_step": chosen["frames"],
            **{name: chosen[name] for name in rates if name not in idle},
            **{name: chosen[name] for name in ("schedule", "precision")},
            "callbacks": self.callbacks(avatar, capture),
            **{name: value for name, value in self.trainer.items() if name != "most_rays"},
            "learning_rates": self.scaled_rates(self.rates_of(avatar, self.trainer.get("learning_rates", {})), capture),
            **self.sampling(capture),
        }


INSTA = Recipe(
    "cpu",
    insta_losses,
    {
        "rays": 2048, "samples": 14000, "frames": 8, "learning_rate": 0.02, "network_learning_rate": 0.001,
        "schedule": "exponential", "depth": 0.1, "depth_start": 500, "opacity": 0.0, "precision": "32-true",
    },
)  # fmt: skip
"""INSTA's losses and moving average; rates and numbers of rays are our own choice for minutes on a CPU."""

_RELEASED_FIELD = {name: INSTA_RELEASED[name] for name in ("features", "log2_table_size", "finest_resolution", "rows")}
_RELEASED_GRID = {name: INSTA_RELEASED[name] for name in ("grid_resolution", "step")}

INSTA_FAST = replace(
    INSTA,
    name="fast",
    options={**INSTA.options, "rays": 4096, "samples": 2**18, "frames": 32, "precision": "bf16-mixed"},
    arguments={**_RELEASED_FIELD, **_RELEASED_GRID, "extent": INSTA_RELEASED["extent"]},
)
"""The sizes and numbers of samples of INSTA's released configuration, with the rates, losses and geometry of `INSTA`;
our own choice, which no GPU has run yet."""

INSTA_AS_RELEASED = Recipe(
    "released",
    insta_losses,
    {
        "rays": 4096, "samples": 2**18, "frames": 32, "learning_rate": 1.75e-3, "network_learning_rate": 1.75e-3,
        "schedule": "constant", "depth": 1.25, "depth_start": 0, "opacity": 0.0, "precision": "16-mixed",
    },
    {"optimizer": lazy_adam, "weight_decay": 1e-6, "most_rays": 2**18},
    arguments={**INSTA_RELEASED, "scaling": "area", "formula": "released", "behind": None},
    steps=33_000,
)  # fmt: skip
"""INSTA's released configuration, for a GPU (33,000 steps). docs/training.md lists what else differs from it."""


def aimed_at_features(capture: Any) -> dict[str, Any]:
    """Weights of pixels for `Trainer`: four rays at mouth and eyes for one elsewhere, if the capture has labels."""
    has_labels = len(capture) and getattr(capture, "label", lambda frame: None)(0) is not None
    return {"pixel_weights": {"mouth": 4.0, "eyes": 4.0}} if has_labels else {}


MONOAVATAR = Recipe(
    "cpu",
    monoavatar_losses,
    {
        "rays": 4096, "samples": 16000, "frames": 1, "learning_rate": 0.02, "network_learning_rate": 0.004,
        "schedule": "exponential", "depth": 0.0, "depth_start": 500, "opacity": 0.0, "precision": "32-true",
    },
    {"learning_rates": {"warp": 4e-4}, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    sampling=aimed_at_features,
    arguments={"sizes": "cpu"},
    mouth="auto",
)  # fmt: skip
"""Adam and losses of MonoAvatar's supplement; rates fall to a tenth, and the warp has a tenth of the networks'.

Our own choice, for minutes on a CPU: four times the paper's rates (1e-3 and 1e-4 over 400,000 steps), and a higher one
for the tables of features; one frame a step with many rays, because each frame costs a pass of the network over the
texture map; rays that adapt to the number of samples, more of them at mouth and eyes; an inside of the mouth; and the
moving average of the weights."""

MONOAVATAR_AS_PUBLISHED = replace(
    MONOAVATAR,
    name="released",
    options={
        **MONOAVATAR.options, "rays": 1024, "samples": 0, "learning_rate": 1e-3, "network_learning_rate": 1e-3,
    },
    trainer={**MONOAVATAR.trainer, "learning_rates": {"warp": 1e-4}, "ema": 0.0},
    sampling=lambda capture: {},
    arguments={"sizes": "paper"},
    steps=400_000,
)  # fmt: skip
"""Sizes, rays and rates of MonoAvatar's supplement, over 400,000 steps; its code was not released. It does not say how
many frames a step sees; one is our own choice."""

MONOAVATAR_FAST = replace(
    MONOAVATAR_AS_PUBLISHED,
    name="fast",
    options={**MONOAVATAR_AS_PUBLISHED.options, "rays": 2048},
    trainer={**MONOAVATAR.trainer, "learning_rates": {"warp": 1e-4}},
    sampling=aimed_at_features,
    arguments={"sizes": "paper", "start": 1_000, "coarse_to_fine": 16_000},
    steps=None,
)
"""The paper's sizes and rates with twice its rays, a warp whose schedule is five times as short, more rays at mouth and
eyes, and the moving average; our own choice, which no GPU has run yet."""

VP360 = Recipe(
    "cpu",
    insta_losses,
    INSTA.options,
    regularizers=blendfield_losses,
    sampling=lambda capture: {"frame_weights": yaw_balanced_weights(capture)},
)
"""INSTA's, the regularizers of the blendfields, and frames balanced by view direction; our own choice, as the paper's
recipe is not published."""

VP360_FAST = replace(VP360, name="fast", options=INSTA_FAST.options, arguments={**_RELEASED_FIELD, **_RELEASED_GRID})
"""`VP360` with the sizes and numbers of samples of INSTA's released configuration; our own choice."""

_GAUSSIANS = Recipe(
    "cpu",
    gaussian_avatars_losses,
    {
        "rays": 1, "samples": 0, "frames": 1, "learning_rate": 0.0025, "network_learning_rate": 0.001,
        "schedule": "exponential", "depth": 0.0, "depth_start": 0, "opacity": 0.0, "precision": "32-true",
    },
    {
        "learning_rates": {
            "position": 5e-3, "log_scale": 1.7e-2, "quaternion": 1e-3, "opacity_logit": 0.05, "color": 1e-2,
            "harmonics": 1e-3,
        },
        "betas": (0.9, 0.999), "weight_decay": 0.0, "ema": 0,
    },
    mouth="auto",
    start=start_from_images,
)  # fmt: skip

GAUSSIAN_AVATARS = replace(
    _GAUSSIANS,
    regularizers=lambda avatar: [SquaredColor(weight=5 / 3, name="squared")],
    callbacks=lambda avatar, capture: [
        DensityControl(start=500, stop=8000, until=0.8, gradient=8e-4, absolute=True, most=32_000, reset_every=None)
    ],
)
"""Losses of GaussianAvatars; Adam and rates of the paper (position and scale) and of 3DGS (rotation and opacity).

Our own choice, for minutes on a CPU: colors start from the images, their rates are four and eight times 3DGS's, all
rates fall, and density control acts from step 500 to 8,000, not in the last fifth of a run, on absolute gradients with
the threshold of AbsGS, without resets. Five times the squared difference, mean over channels, is added to the paper's
losses: PSNR measures it, and it outweighs L1 where an error is above a tenth, as at hair before a bright background."""

GAUSSIAN_AVATARS_FAST = replace(
    GAUSSIAN_AVATARS,
    name="fast",
    arguments={"count": 60000, "degree": 3},
    callbacks=lambda avatar, capture: [DensityControl(until=0.5)],
)
"""`GAUSSIAN_AVATARS` with more Gaussians, the paper's harmonics, and 3DGS's density control in the first half of a run
(there 15,000 of 30,000 steps); our own choice, which no GPU has run yet."""

GAUSSIAN_AVATARS_AS_RELEASED = Recipe(
    "released",
    gaussian_avatars_losses,
    {**_GAUSSIANS.options, "schedule": "constant"},
    {
        "learning_rates": {
            "position": 5e-3, "log_scale": 1.7e-2, "quaternion": 1e-3, "opacity_logit": 0.05, "color": 2.5e-3,
            "harmonics": 2.5e-3 / 20,
        },
        "schedules": {"position": LogLinearFall(0.01, 600_000)},
        "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0, "ema": 0, "background": "white",
    },
    rate_factors=lambda capture: {"position": _extent(capture)},
    arguments={"count": None, "degree": 3, "degree_every": 1000, "hair": 0.0, "low_pass": 0.3},
    fine_tuning=FineTuning(**RELEASED_RATES),
    fine_tunes=True,
    mouth="auto",
    callbacks=lambda avatar, capture: [
        DensityControl(
            start=10_000, stop=600_000, every=2_000, reset_every=60_000, gradient=2e-4, least_opacity=0.005,
            reset_opacity=0.01, size=0.01 * _extent(capture), largest=0.1 * _extent(capture), largest_radius=20,
            keep_bound="all", most=2_000_000,
        )
    ],
    steps=600_000,
)  # fmt: skip
"""The released code of GaussianAvatars: arguments/__init__.py (`OptimizationParams`) for rates, schedule, density
control and steps; scene/gaussian_model.py for the start, Adam (eps 1e-15) and pruning; train.py for losses, means over
pixels and over the Gaussians in view, and a degree every 1,000 steps. docs/training.md says what differs."""

FLASH_AVATAR = _GAUSSIANS
"""Rates, start and the paper's losses of `GAUSSIAN_AVATARS`, with a fixed number of Gaussians; the network has 3DGS's
rate of rotations. Our own choice."""

FLASH_AVATAR_FAST = replace(
    FLASH_AVATAR, name="fast", arguments={"count": 14_000, "degree": 3, "hidden": 256, "layers": 6, "bands": 8}
)
"""`FLASH_AVATAR` with the network, the harmonics and nearly the number of Gaussians of the released code; our own
choice, which no GPU has run yet."""

FLASH_AVATAR_AS_RELEASED = Recipe(
    "released",
    flash_avatar_losses,
    {
        **_GAUSSIANS.options, "learning_rate": 2.5e-3, "network_learning_rate": 1e-4, "schedule": "constant",
    },
    {
        "learning_rates": {
            "log_scale": 5e-3, "quaternion": 1e-3, "opacity_logit": 0.05, "color": 2.5e-3, "harmonics": 2.5e-3 / 20,
        },
        "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0, "ema": 0, "background": "black",
    },
    arguments={
        **FLASH_AVATAR_FAST.arguments, "degree_every": 500, "follows": "translation", "bounded": True,
        "round_start": True, "hair": 0.0,
    },
    mouth="auto",
    steps=150_000,
)  # fmt: skip
"""The released code of FlashAvatar: arguments/__init__.py (`OptimizationParams`) for rates and steps,
src/deform_model.py for the network and its rate (1e-4), scene/gaussian_model.py for the start and Adam,
train.py for losses and a degree every 500 steps. docs/training.md says what differs."""

RGB_AVATAR = replace(
    _GAUSSIANS,
    losses=rgb_avatar_losses,
    trainer={
        **_GAUSSIANS.trainer,
        "learning_rates": {
            **_GAUSSIANS.trainer["learning_rates"], "position": 1e-4, "blend_position": 1e-5, "blend_quaternion": 5e-4,
            "blend_color": 1e-3, "blendfield": 1e-3,
        },
    },
)  # fmt: skip
"""Rates of our own choice for minutes on a CPU, a frame a step; the paper's loss with D-SSIM."""

RGB_AVATAR_FAST = replace(RGB_AVATAR, name="fast", arguments={"count": 60_353})
"""`RGB_AVATAR` with as many Gaussians as the released code's map of 256² has texels on FLAME; our own choice, which no
GPU has run yet."""

RGB_AVATAR_AS_RELEASED = Recipe(
    "released",
    lambda depth=0.0, depth_start=0: rgb_avatar_losses(depth, depth_start, dssim=0.0),
    {**_GAUSSIANS.options, "frames": 10, "schedule": "constant"},
    {
        "learning_rates": {
            "position": 8e-4, "log_scale": 0.025, "quaternion": 0.005, "opacity_logit": 0.25, "color": 0.0125,
            "blend_position": 0.05 * 8e-4, "blend_quaternion": 0.5 * 0.005, "blend_color": 0.5 * 0.0125,
            "blendfield": 1e-3,
        },
        "schedules": dict.fromkeys(("position", "blend_position"), LogLinearFall(0.01, 3_000)),
        "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0, "ema": 0,
    },
    arguments={
        **RGB_AVATAR_FAST.arguments, "centered": False, "blend_from": 300, "scale": 8e-4, "opacity": 0.5, "hair": 0.0,
    },
    mouth="auto",
    start=lambda avatar, capture: start_from_images(avatar, capture, drop=False),
    steps=5_000,
)  # fmt: skip
"""The released code of RGBAvatar, which counts images, ten a step: config/online.yaml (rates, those of blendshapes as
factors on the others, L1 alone, start), comments of config/nersemble.yaml (50,000 images, shapes from 3,000 on),
model/reconstruction.py (positions of Gaussians and of blendshapes fall to a hundredth over 30,000 images; L1, the mean
over images, pixels and channels; a random color behind each image; Adam, eps 1e-15), model/gaussian.py (network).
config/offline.yaml itself has not been compared. docs/training.md says what differs."""


def _extent(capture: Any) -> float:
    """The extent of the cameras.

    Raises:
        ValueError: there is none, because one camera stands still in the head's frame.
    """
    extent = camera_extent(capture)
    if not extent > 0:
        raise ValueError(
            "recipe released: all cameras of the training frames stand in one place, so the rate of positions, which "
            "is times their extent in GaussianAvatars' released code, would be 0; use the recipe fast, or load the "
            "capture with head_frame='normalize'"
        )
    return extent


_RECIPES: dict[str, dict[RecipeName, Recipe]] = {
    "flash_avatar": {"cpu": FLASH_AVATAR, "fast": FLASH_AVATAR_FAST, "released": FLASH_AVATAR_AS_RELEASED},
    "gaussian_avatars": {
        "cpu": GAUSSIAN_AVATARS, "fast": GAUSSIAN_AVATARS_FAST, "released": GAUSSIAN_AVATARS_AS_RELEASED,
    },
    "insta": {"cpu": INSTA, "fast": INSTA_FAST, "released": INSTA_AS_RELEASED},
    "rgb_avatar": {"cpu": RGB_AVATAR, "fast": RGB_AVATAR_FAST, "released": RGB_AVATAR_AS_RELEASED},
    "static_field": {"cpu": INSTA, "fast": replace(INSTA_FAST, arguments=_RELEASED_FIELD)},
    "monoavatar": {"cpu": MONOAVATAR, "fast": MONOAVATAR_FAST, "released": MONOAVATAR_AS_PUBLISHED},
    "vp360": {"cpu": VP360, "fast": VP360_FAST},
}  # fmt: skip
_OF_OTHERS: dict[RecipeName, Recipe] = {"cpu": INSTA, "fast": replace(INSTA_FAST, arguments={})}


def recipe_of(model: str, name: RecipeName | None = None, device: torch.device | str = "auto") -> Recipe:
    """A recipe of a preset of `headfields.models`.

    Args:
        model: name of the preset; one that the library does not have gets INSTA's recipe, without its sizes.
        name: `"cpu"`: sizes and rates for minutes on a CPU. `"fast"`: the sizes of the paper or the released code, and
            rates for minutes on a GPU. `"released"`: the authors' own numbers. None: `"cpu"` on a CPU, `"fast"` on a
            GPU.
        device: the device to train on, which chooses where no name is given; "auto" is CUDA where there is one.

    Raises:
        ValueError: there is no recipe of that name, or the authors of the preset have published none.

    >>> from headfields.training import recipe_of
    >>> recipe_of("monoavatar", device="cpu").arguments
    {'sizes': 'cpu'}
    >>> recipe_of("monoavatar", device="cuda").arguments["sizes"]
    'paper'
    """
    if name is None:
        kind = device_named("recipe_of", device).type
        name = "cpu" if kind == "cpu" else "fast"
    recipes = _RECIPES.get(model, _OF_OTHERS)
    if name not in recipes:
        having = ", ".join(sorted(other for other, some in _RECIPES.items() if name in some))
        reason = f"{having} have one" if having else "expected cpu, fast or released"
        raise ValueError(f"{model} has no recipe {name!r}; {reason}")
    return recipes[name]
