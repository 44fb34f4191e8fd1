"""The trainer's arguments: what is refused, how parameters are grouped, and what a resumed run was trained with."""

import dataclasses
import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from headfields.losses import Loss


def parameter_groups(module: nn.Module, weight_decay: float | int) -> list[dict[str, Any]]:
    """The optimiser's groups: tables (`table`, `*_table`; no decay) and networks (decay). Empty ones are left out.

    Args:
        module: its trainable parameters are grouped by name.
        weight_decay: L2 of the networks.

    Raises:
        ValueError: nothing is trainable.
    """
    tables: list[nn.Parameter] = []
    networks: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            (tables if last == "table" or last.endswith("_table") else networks).append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": "tables", "params": tables, "weight_decay": 0.0},
        {"name": "networks", "params": networks, "weight_decay": weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("Trainer: the avatar has no trainable parameters")
    return groups


def check_positive(**values: int | float) -> None:
    """Raises ValueError, naming the argument, unless all are more than 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"Trainer: {name} is {value}; expected more than 0")


def check_losses(losses: Sequence[Loss]) -> None:
    """Raises ValueError unless there are losses, each with a name of its own."""
    if not losses:
        raise ValueError("Trainer: losses is empty; headfields.losses.insta_losses() is a start")
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(f"Trainer: losses are called {names}; give each a name of its own, it is a column of the log")


def check_limits(steps: int | None, minutes: int | float | None) -> None:
    """Raises ValueError unless at least one limit is given and none is negative."""
    if steps is None and minutes is None:
        raise ValueError("Trainer.fit: neither steps nor minutes is given; say when to stop")
    if (steps or 0) < 0 or (minutes or 0) < 0:
        raise ValueError(f"Trainer.fit: steps is {steps} and minutes is {minutes}; neither may be negative")


def recorded(losses: Sequence[Loss], **options: Any) -> dict[str, Any]:
    """What a checkpoint remembers of the trainer's arguments, as JSON gives it back."""
    texts = [
        repr(loss) if dataclasses.is_dataclass(loss) else f"{type(loss).__name__}({loss.name!r}, weight={loss.weight})"
        for loss in losses
    ]
    return json.loads(json.dumps({**options, "losses": texts}))


def warn(text: str) -> None:
    """A warning that points at the program that uses the trainer."""
    frame, depth = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("headfields.training"):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, stacklevel=depth)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`name=old (now new), ...` for all that both know and do not agree on; empty if they agree."""
    changed = [name for name in now if name in before and before[name] != now[name]]
    return ", ".join(f"{name}={before[name]!r} (now {now[name]!r})" for name in changed)
