"""Kinds of a trainer's options: a text for a number, half a ray, or one number for a pair is refused by name."""

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_WHOLE = ("rays", "samples", "frames", "rays_per_step", "samples_per_step", "most_rays", "frames_per_step", "patch",
          "patches_per_step", "depth_start", "seed", "num_nodes")  # fmt: skip
_NUMBERS = ("learning_rate", "network_learning_rate", "final_rate", "eps", "weight_decay", "ema", "depth", "opacity",
            "checkpoint_seconds", "picture_seconds", "minutes", "steps")  # fmt: skip
_NOT_NEGATIVE = ("eps", "weight_decay", "checkpoint_seconds", "picture_seconds")
_SWITCHES = ("bar",)
_MAPPINGS: Mapping[str, str] = {
    "learning_rates": '{"warp": 1e-4}', "schedules": '{"warp": "constant"}', "pixel_weights": '{"mouth": 4}',
}  # fmt: skip
"""An example of each."""
_SEQUENCES: Mapping[str, str] = {
    "callbacks": "objects such as headfields.training.Callback()",
    "loggers": '"csv", "tensorboard", "wandb" or loggers',
    "parameter_groups": 'dicts such as {"params": avatar.encoder.parameters(), "lr": 0.02}',
}  # fmt: skip
"""What each is a list of."""


def check_kinds(owner: str, required: Sequence[str], **options: Any) -> None:
    """Checks options by their names, those of `Trainer` and of `train`.

    Args:
        owner: whose they are, for messages.
        required: those that may not be None.
        options: values by name. Names that are not known here are not checked.

    Raises:
        TypeError: a value is of another kind; the message names option, value and kind.
        ValueError: a number is negative or NaN that may not be.
    """
    for name, value in options.items():
        if value is not None or name in required:
            _check(owner, name, value)


def _check(owner: str, name: str, value: Any) -> None:
    where = f"{owner}: {name} is {value!r}"
    if name in _WHOLE and not _is(value, numbers.Integral):
        raise TypeError(f"{where}; expected a whole number")
    if name in _NUMBERS and not _is(value, numbers.Real):
        raise TypeError(f"{where}; expected a number")
    if name in _NOT_NEGATIVE and not value >= 0:
        raise ValueError(f"{where}; expected 0 or more")
    if name == "ema" and not 0 <= value < 1:
        raise ValueError(f"{where}; expected a decay of 0, none, to less than 1")
    if name in _SWITCHES and not isinstance(value, bool):
        raise TypeError(f"{where}; expected True or False")
    if name in _MAPPINGS:
        if not isinstance(value, Mapping):
            raise TypeError(f"{where}; expected a dict, as {_MAPPINGS[name]}")
        for key, entry in value.items() if name != "schedules" else ():
            if not _is(entry, numbers.Real) or not math.isfinite(entry):
                raise TypeError(f"{owner}: {name}[{key!r}] is {entry!r}; expected a number")
    if name in _SEQUENCES and (isinstance(value, str | Mapping) or not isinstance(value, Sequence)):
        raise TypeError(f"{where}; expected a list of {_SEQUENCES[name]}")
    if name == "betas" and not _is_pair(value):
        raise TypeError(f"{where}; expected two numbers in [0, 1), as (0.9, 0.999)")
    if name == "out" and not isinstance(value, str | Path):
        raise TypeError(f"{where}; expected the path of a run folder")
    if name == "devices" and not _is(value, numbers.Integral) and not _is_list_of_devices(value):
        raise TypeError(f"{where}; expected how many processes, or on CUDA a list of device numbers")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(_is(each, numbers.Real) and 0 <= each < 1 for each in value)


def _is_list_of_devices(value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return all(_is(each, numbers.Integral) for each in value)
