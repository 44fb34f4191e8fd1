"""Asynchronous steps of a fit with a prior on a GPU: see `headfields.runs.asynchronous`."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.tracking.prior.energy import EnergyDraw, energy_metrics
from headfields.apps.tracking.prior.head import PriorHead
from headfields.apps.tracking.prior.options import PriorTrackingOptions
from headfields.records import Record
from headfields.records.device_copy import send_numbers
from headfields.runs.asynchronous import AsynchronousEngine, step_if

__all__ = ["AsynchronousFit", "Differentiated", "FitStepMetrics", "StepNumbers"]

Differentiated = tuple[Float[Tensor, ""], Mapping[str, Tensor], Float[Tensor, "l 3"] | None]
"""The energy, whose gradients are there, its terms, and the landmarks as the next guess."""

_MOST_TERMS = 5


@dataclass(frozen=True)
class StepNumbers(Record):
    """What the host decides in a step: (G,) learning rates, and () the weight of landmarks."""

    rates: Float[Tensor, " g"]
    landmarks: Float[Tensor, ""]

    @classmethod
    def sent(cls, rates: Sequence[float], landmarks: float, device: torch.device) -> "StepNumbers":
        """The numbers on a device, in one copy."""
        numbers = send_numbers([*rates, landmarks], torch.float32, device)
        return cls(numbers[:-1], numbers[-1])


@dataclass
class PendingFitStep:
    """A step that is being launched: its number, its frame, and the names of its terms, which the launch tells."""

    step: int
    frame: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class FitStepMetrics:
    """What the device has written down of a step.

    Attributes:
        step, frame: its number and frame.
        is_taken: whether it was taken: energy and gradients were finite.
        numbers: its `energy_metrics`, after the update.
        names: names of the terms.
    """

    step: int
    frame: int
    is_taken: bool
    numbers: list[float]
    names: tuple[str, ...]


class AsynchronousFit:
    """Launches steps one after the other; use it within `with fit.active():`.

    Args:
        head: the model.
        parameters: what is fitted, all of it on a CUDA device.
        optimizer: of what has learning rates in `StepNumbers`: fused and capturable.
        differentiate: computes energy and gradients of a draw and the numbers of a step.
        clip: bounds the gradients.
        update: what else a step changes, by the numbers of the step and the landmarks, if the scalar tensor is true.
        options: the number of rays of a step, and whether they are sampled near a surface.
    """

    def __init__(
        self,
        head: PriorHead,
        parameters: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        differentiate: Callable[[EnergyDraw, Any], Differentiated],
        clip: Callable[[], None],
        update: Callable[[Bool[Tensor, ""], Any, Float[Tensor, "l 3"] | None], None],
        options: PriorTrackingOptions,
    ) -> None:
        self._head, self._parameters, self._optimizer, self._rays = head, parameters, optimizer, options.rays
        self._differentiate, self._clip, self._update = differentiate, clip, update
        no_graph = "" if head.graph else "graph is False"
        if options.band:
            no_graph = "rays are sampled near a surface that is extracted again (band)"
        self._engine: AsynchronousEngine[PendingFitStep] = AsynchronousEngine(
            self._launch, optimizer, head.center.device, no_graph, head.avatar.modules()
        )
        self._names: tuple[str, ...] = ()

    @property
    def graph_reason(self) -> str:
        """Why steps are not replayed from a CUDA graph; empty while they are."""
        return self._engine.graph_reason

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block samples have buffers of a fixed size, and steps are launched."""
        try:
            with self._engine.active(), self._head.fixed_sizes(self._rays):
                yield
        finally:
            self._head.graph_reason = self.graph_reason
            for parameter in self._parameters:  # its gradient may lie in the memory of the graph
                parameter.grad = None

    def launch(self, draw: EnergyDraw, numbers: StepNumbers, step: int, frame: int = 0) -> None:
        """Launches a step of a draw and the numbers that the host decides; both are on the device."""
        pending = PendingFitStep(step, frame)
        self._engine.launch(draw, numbers, step, pending)
        pending.names = self._names

    def is_due(self, steps: int) -> bool:
        """Whether metrics are read after so many steps."""
        return self._engine.is_due(steps)

    def read(self) -> list[FitStepMetrics]:
        """The metrics of all steps that have been launched since the last call; waits for the device."""
        width = 1 + len(self._parameters)
        return [
            FitStepMetrics(each.step, each.frame, bool(row[0]), row[1 : 1 + width + len(each.names)], each.names)
            for each, row in self._engine.read()
        ]

    def _launch(self, draw: EnergyDraw, numbers: StepNumbers, step: int) -> Float[Tensor, " m"]:
        """The device's part of a step."""
        total, terms, guess = self._differentiate(draw, numbers)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norms = [norm.double() for norm in torch._foreach_norm(gradients)]
        is_taken = torch.stack([total.detach().double(), *norms]).isfinite().all()
        self._engine.rates.copy_(numbers.rates[: len(self._engine.rates)])
        self._clip()
        step_if(self._optimizer, is_taken)
        self._update(is_taken, numbers, guess)
        self._names = tuple(terms)
        metrics = torch.cat([is_taken.double()[None], energy_metrics(total, terms, self._parameters)])
        return torch.nn.functional.pad(metrics, (0, 2 + _MOST_TERMS + len(self._parameters) - len(metrics)))
