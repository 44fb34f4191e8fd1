"""Steps of a fit with a prior on a GPU, whose figures the host reads later; where it can be, a step is a CUDA graph.

As in `headfields.training.asynchronous_steps`: the device decides by a step's figures whether it is taken, and the
host reads those of `READ_EVERY` steps at a time.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.tracking.prior.energy import EnergyDraw, energy_figures
from headfields.apps.tracking.prior.head import PriorHead
from headfields.apps.tracking.prior.options import PriorTrackingOptions
from headfields.records import Record
from headfields.records.device_copy import send_numbers
from headfields.training.asynchronous_update import READ_EVERY, FigureTable
from headfields.training.step_graph import HostState, StepGraph

__all__ = ["AsynchronousFit", "Differentiated", "FitStepMetrics", "StepNumbers", "step_if"]

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


def step_if(optimizer: torch.optim.Optimizer, is_taken: Bool[Tensor, ""]) -> None:
    """A step of a fused optimizer that the device takes where the tensor is true."""
    fused: Any = optimizer
    fused.grad_scale, fused.found_inf = None, (~is_taken).float()
    fused.step()
    del fused.grad_scale, fused.found_inf


@dataclass(frozen=True)
class FitStepMetrics:
    """What the device has written down of a step.

    Attributes:
        step: its number.
        is_taken: whether it was taken: energy and gradients were finite.
        numbers: its `energy_figures`, after the update.
        names: names of the terms.
    """

    step: int
    is_taken: bool
    numbers: list[float]
    names: tuple[str, ...]


class AsynchronousFit:
    """Launches steps one after the other; use it within `with fit.active():`.

    Args:
        head: the model.
        parameters: what is fitted, all of it on a CUDA device.
        differentiate: computes energy and gradients of a draw and the numbers of a step.
        update: takes a step, by the numbers of the step, if the scalar tensor is true; the landmarks are the next
            guess.
        options: the number of rays of a step, and whether they are sampled near a surface.

    Attributes:
        graph_reason: why steps are not replayed from a graph; empty while they are.
    """

    def __init__(
        self,
        head: PriorHead,
        parameters: Sequence[Tensor],
        differentiate: Callable[[EnergyDraw, Any], Differentiated],
        update: Callable[[Bool[Tensor, ""], Any, Float[Tensor, "l 3"] | None], None],
        options: PriorTrackingOptions,
    ) -> None:
        self._head, self._parameters, self._rays = head, parameters, options.rays
        self._differentiate, self._update = differentiate, update
        self._no_graph = "" if head.graph else "graph is False"
        if options.band:
            self._no_graph = "rays are sampled near a surface that is extracted again (band)"
        self._graph: StepGraph | None = None
        self._table_width = 2 + _MOST_TERMS + len(parameters)
        self._table = FigureTable(self._table_width, head.center.device)
        self._names: tuple[str, ...] = ()
        self._pending: list[tuple[int, tuple[str, ...]]] = []

    @property
    def graph_reason(self) -> str:
        """See above."""
        return self._no_graph or ("" if self._graph is None else self._graph.reason)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block samples have buffers of a fixed size, and steps run on a stream of their own."""
        device = self._head.center.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        if not self._no_graph:
            self._graph = StepGraph(self._launch, HostState([self._head.avatar], []), dict, stream)
        try:
            with torch.cuda.stream(stream), self._head.fixed_sizes(self._rays):
                yield
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)
            self._no_graph = self._head.graph_reason = self.graph_reason
            self._graph = None
            for parameter in self._parameters:  # its gradient may lie in the memory of the graph
                parameter.grad = None

    def launch(self, draw: EnergyDraw, numbers: StepNumbers, step: int) -> None:
        """Launches a step of a draw and the numbers that the host decides; both are on the device."""
        if self._graph is None:
            self._launch(draw, numbers, step)
        else:
            self._graph.run(draw, numbers, step)
        self._pending.append((step, self._names))

    @property
    def is_full(self) -> bool:
        """Whether figures have to be read before the next step."""
        return len(self._pending) >= READ_EVERY

    def read(self) -> list[FitStepMetrics]:
        """The figures of all steps that have been launched since the last call; waits for the device."""
        if not self._pending:
            return []
        rows, pending, self._pending = self._table.read(len(self._pending)), self._pending, []
        width = 1 + len(self._parameters)
        return [
            FitStepMetrics(step, bool(row[0]), row[1 : 1 + width + len(names)], names)
            for (step, names), row in zip(pending, rows, strict=True)
        ]

    def _launch(self, draw: EnergyDraw, numbers: StepNumbers, _: object) -> None:
        """The device's part of a step."""
        total, terms, guess = self._differentiate(draw, numbers)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norms = [norm.double() for norm in torch._foreach_norm(gradients)]
        is_taken = torch.stack([total.detach().double(), *norms]).isfinite().all()
        self._update(is_taken, numbers, guess)
        self._names = tuple(terms)
        figures = torch.cat([is_taken.double()[None], energy_figures(total, terms, self._parameters)])
        self._table.write(torch.nn.functional.pad(figures, (0, self._table_width - len(figures))))
