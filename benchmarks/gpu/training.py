"""Trainers of the presets, as every part makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

import headfields as hf
from benchmarks.gpu.settings import GpuSettings
from headfields.cli.presets import parse_overrides
from headfields.synthetic.captures import write_head_capture
from headfields.training import Trainer
from headfields.training.presets import build, preset_arguments
from headfields.training.recipes import RecipeName, recipe_of

PRESETS = ("insta", "monoavatar", "vp360", "gaussian_avatars", "flash_avatar", "rgb_avatar")
_SMALL_GRID = ("levels=4", "log2_table_size=10", "grid_resolution=16")
_SMALL = {
    "insta": _SMALL_GRID,
    "vp360": _SMALL_GRID,
    "monoavatar": ("sizes=cpu-0.3",),
    "gaussian_avatars": ("count=100",),
    "flash_avatar": ("count=100",),
    "rgb_avatar": ("count=100",),
}
"""Arguments of each preset with `--small`."""


def capture_folder(settings: GpuSettings) -> Path:
    """The capture that was given, or one that is drawn into `out` once."""
    if settings.capture is not None:
        return settings.capture
    frames, test, size = settings.pick((60, 10, 256), (3, 1, 32))
    return write_head_capture(settings.out / "capture", frames=frames, test_frames=test, size=size, progress=False)


def load_capture(settings: GpuSettings) -> Any:
    return hf.data.load_capture(capture_folder(settings))


def make_trainer(
    model: str,
    kind: str,
    capture: Any,
    settings: GpuSettings,
    more_callbacks: Sequence[Any] = (),
    more_losses: Sequence[Any] = (),
    **changes: Any,
) -> Trainer:
    """A trainer of a preset with a recipe, the same for the same arguments.

    Args:
        model, kind: preset and recipe.
        more_callbacks, more_losses: in addition to the recipe's.
        changes: options of `Trainer` in place of the recipe's.
    """
    recipe = recipe_of(model, cast(RecipeName, kind))
    overrides = _SMALL[model] if settings.small else ()
    torch.manual_seed(0)
    avatar = build(model, preset_arguments(model, parse_overrides(model, list(overrides)), capture, recipe), capture)
    of_rays = not getattr(avatar, "whole_images", False)
    options: dict[str, Any] = {"rays": 64, "samples": 0} if settings.small and of_rays else {}
    if settings.device == "cpu" and recipe.options["precision"] != "32-true":
        options["precision"] = "32-true"
    arguments = recipe.trainer_arguments(avatar, capture, **options)
    arguments["callbacks"] = [*arguments["callbacks"], *more_callbacks]
    arguments["losses"] = [*arguments["losses"], *more_losses]
    return Trainer(avatar, capture, bar=False, **{"device": settings.torch_device, **arguments, **changes})
