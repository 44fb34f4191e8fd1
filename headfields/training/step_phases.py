"""Phases of a run: what losses and callbacks make of a step's number.

A captured step (a CUDA graph) repeats what it did when it was captured, with the number that it had then. So a loss or
a callback that reads the number says with a method `phase(step)` what of it matters: `step >= self.start`, if it begins
at some step. The step is captured anew where a phase changes, and not at all where something has none and needs one.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from headfields.losses.base import Loss
from headfields.losses.function import FunctionLoss
from headfields.runs.functions import reads_argument
from headfields.training.callbacks import callback_names, has_own_hook

__all__ = ["StepPhases"]


class StepPhases:
    """The phases of losses and of callbacks with `on_launch`.

    Attributes:
        reason: what reads the number of the step and has no phase; empty if nothing does.
    """

    def __init__(self, losses: Iterable[Loss], callbacks: Iterable[Any]) -> None:
        self._phases: dict[str, Callable[[int], Any]] = {}
        self.reason = ""
        for loss in losses:
            called = loss.function if isinstance(loss, FunctionLoss) else loss
            method = "forward" if isinstance(called, nn.Module) else "__call__"
            self._add(f"the loss {loss.name}", called, method, reads_argument(called, 2))
        callbacks = list(callbacks)
        for name, callback in zip(callback_names(callbacks), callbacks, strict=True):
            if has_own_hook(callback, "on_launch"):
                reads = reads_argument(callback.on_launch, "step")
                self._add(f"on_launch of {name}", callback, "on_launch", reads)

    def _add(self, name: str, part: Any, method: str, reads_step: bool) -> None:
        if _has_phase(type(part), method):
            self._phases[f"the phase of {name}"] = part.phase
        elif reads_step and not self.reason:
            self.reason = f"{name} reads the number of the step, and has no phase(step)"

    def __call__(self, step: int) -> dict[str, Any]:
        """The phases of a step, by name."""
        return {name: phase(step) for name, phase in self._phases.items()}


def _has_phase(kind: type, method: str) -> bool:
    """Whether a class has a phase that knows its method: a derived class that has the method anew needs one anew."""
    for each in kind.__mro__:
        if "phase" in vars(each):
            return True
        if method in vars(each):
            return False
    return False
