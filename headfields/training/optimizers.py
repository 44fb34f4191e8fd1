"""Optimizers, parameter groups and learning-rate schedules of a program's own, checked before the first step."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from headfields.runs.functions import argument_count, identity

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

_NOT_HYPERPARAMETERS = ("params", "name", "lr", "initial_lr")


def own_groups(groups: Iterable[Mapping[str, Any]], avatar: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of a program's own, with names.

    Raises:
        TypeError: a group is no dict.
        ValueError: a trainable parameter of the avatar is in no group or in several, or a group has another tensor.
    """
    groups = list(groups)
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping):
            raise TypeError(
                f"Trainer: parameter_groups[{index}] is a {type(group).__name__}; expected dicts such as "
                '{"params": avatar.encoder.parameters(), "lr": 0.02}'
            )
    named = [{"name": f"group_{index}", **group} for index, group in enumerate(groups)]
    for group in named:
        if "params" not in group:
            raise ValueError(f"Trainer: parameter_groups has {group['name']!r} without 'params'; name its parameters")
        parameters = group["params"]
        group["params"] = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    _check_cover("parameter_groups", named, avatar)
    return named


def build_optimizer(
    factory: OptimizerFactory, groups: Sequence[Mapping[str, Any]], avatar: nn.Module
) -> torch.optim.Optimizer:
    """The optimizer that a program's function makes of the groups.

    Raises:
        TypeError: it is no function, or does not return an optimizer.
        ValueError: its steps need a closure, as those of LBFGS, or its parameters are not those of the avatar.
    """
    if not callable(factory):
        raise TypeError(
            f"Trainer: optimizer is a {type(factory).__name__}; expected a function from parameter groups to an "
            "optimizer, such as torch.optim.AdamW or lambda groups: torch.optim.SGD(groups, momentum=0.9)"
        )
    _refuse_closure(factory)
    optimizer = factory([dict(group) for group in groups])
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"Trainer: optimizer returned a {type(optimizer).__name__}; expected a function from parameter groups to a "
            "torch.optim.Optimizer, such as torch.optim.AdamW or lambda groups: torch.optim.SGD(groups, momentum=0.9)"
        )
    _refuse_closure(type(optimizer))
    for index, group in enumerate(optimizer.param_groups):
        group.setdefault("name", f"group_{index}")
    _check_cover("optimizer", optimizer.param_groups, avatar)
    return optimizer


class Hyperparameters:
    """Entries of an optimizer's groups that its steps change, as adaptive step sizes do; part of a checkpoint.

    The others are the program's, which may change them when it resumes a run.

    Args:
        optimizer: as it was built.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._before = [self._entries(group) for group in optimizer.param_groups]

    def state(self) -> list[dict[str, Any]]:
        """The changed entries of each group.

        Raises:
            TypeError: one is no number, text or boolean.
        """
        changed = [
            {key: value for key, value in self._entries(group).items() if value is not before.get(key, self)
             and not (_is_plain(value) and value == before.get(key, self))}
            for group, before in zip(self._optimizer.param_groups, self._before, strict=True)
        ]  # fmt: skip
        for entries in changed:
            for key, value in entries.items():
                if not _is_plain(value):
                    raise TypeError(
                        f"Trainer: {type(self._optimizer).__name__} changes {key!r} of its groups, a "
                        f"{type(value).__name__}, which a checkpoint cannot hold; numbers, texts and booleans are saved"
                    )
        return changed

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restores `state()`."""
        for group, entries in zip(self._optimizer.param_groups, state, strict=False):
            group.update(entries)

    @staticmethod
    def _entries(group: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in group.items() if key not in _NOT_HYPERPARAMETERS}


class RateSchedule:
    """The factor on the learning rates: constant, exponential, or a function of the fraction of the run that is done.

    Args:
        schedule: `"constant"`, `"exponential"` (falls to `final_rate`), or a function of the fraction in [0, 1], or of
            the fraction and the step, to a factor.
        final_rate: factor at the end of an exponential schedule.

    Attributes:
        name: what a checkpoint records.

    Raises:
        ValueError: another name.
        TypeError: a function with other numbers of arguments.
    """

    def __init__(self, schedule: str | Callable[..., float], final_rate: float | int) -> None:
        if isinstance(schedule, type) or hasattr(schedule, "get_last_lr"):
            raise TypeError(
                "Trainer: schedule is a scheduler of PyTorch, which steps an optimizer of its own; pass a function of "
                "the fraction of the run (and the step) that returns the factor on the learning rates"
            )
        if schedule not in ("constant", "exponential") and not callable(schedule):
            raise ValueError(
                f"Trainer: schedule is {schedule!r}; expected 'constant', 'exponential' or a function of the fraction "
                "of the run"
            )
        self.schedule, self.final_rate = schedule, final_rate
        self.name = identity(schedule) if callable(schedule) else schedule
        self._arguments = argument_count(schedule, 1, 2) if callable(schedule) else 0

    @property
    def follows_the_end(self) -> bool:
        """Whether the factor depends on when the run ends."""
        return self.schedule != "constant"

    def __call__(self, fraction: float, step: int) -> float:
        """The factor of a step.

        Raises:
            ValueError: it is not finite, or negative.
        """
        if not callable(self.schedule):
            return self.final_rate**fraction if self.schedule == "exponential" else 1.0
        factor: Any = self.schedule(*(fraction, step)[: self._arguments])
        if isinstance(factor, torch.Tensor) and factor.numel() == 1:
            factor = factor.item()
        if not isinstance(factor, Real) or not math.isfinite(factor) or factor < 0:
            raise ValueError(f"Trainer: schedule gives {factor!r} at step {step}; expected a finite factor, 0 or more")
        return float(factor)


@dataclass(frozen=True)
class LogLinearFall:
    """A schedule of rates: falls by the logarithm to `final` times the rate at step `steps`, and stays there, as that
    of positions in 3DGS and what is made of it (`get_expon_lr_func` in their utils/general_utils.py)."""

    final: float
    steps: int

    def __call__(self, fraction: float, step: int) -> float:
        return float(self.final ** min(step / self.steps, 1.0))


def _refuse_closure(factory: Any) -> None:
    """Raises ValueError for a class of optimizers whose `step` needs a closure."""
    if not (isinstance(factory, type) and issubclass(factory, torch.optim.Optimizer)):
        return
    closure = inspect.signature(factory.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"Trainer: optimizer is {factory.__name__}, which evaluates the loss several times a step; the trainer "
            "draws new rays for each. Use an optimizer whose step needs no closure, or a loop of your own"
        )


def _check_cover(argument: str, groups: Iterable[Mapping[str, Any]], avatar: nn.Module) -> None:
    names = {parameter: name for name, parameter in avatar.named_parameters()}
    counts: dict[str, int] = {name: 0 for name, parameter in avatar.named_parameters() if parameter.requires_grad}
    for group in groups:
        for parameter in group["params"]:
            name = names.get(parameter)
            if name not in counts:
                what = f"{name}, which is frozen" if name else f"a tensor {tuple(parameter.shape)} of no parameter"
                raise ValueError(
                    f"Trainer: {argument} has {what}, in group {group['name']!r}; expected trainable parameters of the "
                    "avatar alone"
                )
            counts[name] += 1
    for wrong, what in (([n for n, c in counts.items() if not c], "lacks"), ([n for n, c in counts.items() if c > 1],
                        "has more than once")):  # fmt: skip
        if wrong:
            more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            raise ValueError(
                f"Trainer: {argument} {what} {', '.join(wrong[:4])}{more}; each trainable parameter belongs to one "
                "group (requires_grad_(False) freezes one)"
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
