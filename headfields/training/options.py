"""The trainer's arguments: what is refused, how parameters are grouped, and what a resumed run was trained with."""

import dataclasses
import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headfields.losses.base import Loss


def parameter_groups(module: nn.Module, weight_decay: float | int) -> list[dict[str, Any]]:
    """The optimizer's groups: tables (`table`, `*_table`; no decay) and networks (decay). Empty ones are left out.

    Parameters of parts with a `rate_group` of their own go by that name instead, in two groups where some of them are
    tables; the outermost such part counts.

    Args:
        module: its trainable parameters are grouped by name.
        weight_decay: L2 of the networks.

    Raises:
        ValueError: nothing is trainable.
    """
    own: dict[nn.Parameter, str] = {}
    for part in module.modules():  # outer ones come first
        if getattr(part, "rate_group", None):
            for parameter in part.parameters():
                own.setdefault(parameter, part.rate_group)  # type: ignore[arg-type]
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {("tables", True): [], ("networks", False): []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            table = last == "table" or last.endswith("_table")
            group = own.get(parameter, "tables" if table else "networks")
            groups.setdefault((group, table), []).append(parameter)
    found: list[dict[str, Any]] = [
        {"name": name, "params": parameters, "weight_decay": 0.0 if table else weight_decay}
        for (name, table), parameters in groups.items()
        if parameters
    ]
    if not found:
        raise ValueError("Trainer: the avatar has no trainable parameters")
    return found


def rates_of(groups: Sequence[Mapping[str, Any]], given: Mapping[str, float | int], **usual: float) -> dict[str, float]:
    """The learning rate of each group: those of tables and networks, those given, and for other groups the networks'.

    Raises:
        ValueError: a rate is given for a group that the avatar has not, or is not positive.
    """
    own = {group["name"] for group in groups} - usual.keys()
    for name, rate in given.items():
        if name not in own:
            raise ValueError(
                f"Trainer: learning_rates has {name!r}; parts of this avatar have groups {sorted(own) or 'of none'} "
                "(learning_rate and network_learning_rate are for all else)"
            )
        check_positive(**{f"learning_rates[{name!r}]": rate})
    return {**usual, **dict.fromkeys(own, usual["networks"]), **given}


def check_positive(**values: int | float) -> None:
    """Raises ValueError, naming the argument, unless all are more than 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"Trainer: {name} is {value}; expected more than 0")


def check_losses(losses: Sequence[Loss]) -> None:
    """Raises ValueError unless there are losses, each with a name of its own."""
    if not losses:
        raise ValueError("Trainer: losses is empty; headfields.training.preset_losses.insta_losses() is a start")
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(f"Trainer: losses are called {names}; give each a name of its own, it is a column of the log")


def frame_weights(weights: Any, capture: Any, frames: Tensor) -> Tensor | None:
    """The weights (F,) of the training frames, from those of all the capture's frames; None if none are given.

    Raises:
        ValueError: there is not one for each frame, one is negative or not finite, or no training frame has one.
    """
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.double).cpu()
    if weights.shape != (len(capture),):
        raise ValueError(
            f"Trainer: frame_weights has shape {tuple(weights.shape)}; expected ({len(capture)},), one for each frame "
            f"of capture {capture.name!r}"
        )
    chosen = weights[frames]
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool((chosen > 0).any()):
        raise ValueError("Trainer: frame_weights must be finite and not negative, and some training frame's positive")
    return chosen


def digest(weights: Tensor | None) -> str | None:
    """A few letters that tell one set of weights from another."""
    return None if weights is None else hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]


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
