"""Steps of a prior's training on a GPU, whose figures the host reads later; where it can be, a step is a CUDA graph.

As in `headfields.training.asynchronous_steps`: the device decides by a step's figures whether it is taken, and the
host reads those of `READ_EVERY` steps at a time.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.apps.priors.code_table import CodeTable
from headfields.apps.priors.scans.batch import ScanBatch
from headfields.apps.priors.step_draw import StepDraw
from headfields.runs.nonfinite import BufferBackup
from headfields.training.asynchronous_update import READ_EVERY, FigureTable
from headfields.training.step_graph import HostState, StepGraph

__all__ = ["READ_EVERY", "AsynchronousPriorSteps", "DifferentiatedStep", "PendingStep"]


@dataclass(frozen=True)
class DifferentiatedStep:
    """A step before its update.

    Attributes:
        weights: weights of the terms, by name.
        norms: names of the norms of gradients.
        figures: (F,) the unweighted terms and the norms, in this order.
        leaves: rows of the code tables, by the table's name, with their gradients.
    """

    weights: Mapping[str, float]
    norms: tuple[str, ...]
    figures: Float[Tensor, " f"]
    leaves: Mapping[str, Float[Tensor, "u width"]]

    def named(self, values: list[float], correspondence: float = 1.0) -> tuple[dict[str, float], dict[str, float]]:
        """The weighted terms and the norms by name, of the figures as the host reads them.

        Args:
            values: the figures.
            correspondence: factor of the weight of correspondences.
        """
        terms = {name: weight * value for (name, weight), value in zip(self.weights.items(), values, strict=False)}
        if "correspondence" in terms:
            terms["correspondence"] *= correspondence
        return terms, dict(zip(self.norms, values[len(terms) :], strict=True))


@dataclass(frozen=True)
class PendingStep:
    """A step that has been launched.

    Attributes:
        step: its number, from 0.
        scans: (B,) its scans.
        rates, correspondence: factors on the learning rates and on the weight of correspondences.
    """

    step: int
    scans: Tensor
    rates: float
    correspondence: float


class AsynchronousPriorSteps:
    """Launches steps one after the other; use it within `with steps.active():`.

    Args:
        model: what is trained, with its tables.
        optimizer: of the networks: fused and capturable.
        tables: the code tables by name.
        backup: keeps the buffers of before the step.
        differentiate: computes a step's figures and gradients, of the batch, the draw and the factor of the weight of
            correspondences.
        graph: whether steps are captured.
        device: a CUDA device.

    Attributes:
        pending: steps whose figures have not been read.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        tables: Mapping[str, CodeTable],
        backup: BufferBackup,
        differentiate: Callable[[ScanBatch, StepDraw, Tensor], DifferentiatedStep],
        graph: bool,
        device: torch.device,
    ) -> None:
        self._model, self._optimizer, self._tables, self._backup = model, optimizer, tables, backup
        self._differentiate, self._graph_wanted, self._device = differentiate, graph, device
        self._graph: StepGraph | None = None
        self._figures: FigureTable | None = None
        self._last: DifferentiatedStep | None = None
        self._rate = torch.zeros((), device=device)
        self.pending: list[PendingStep] = []

    @property
    def graph_reason(self) -> str:
        """Why steps are not replayed from a CUDA graph; empty while they are."""
        return "" if self._graph is None else self._graph.reason

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the learning rate is a tensor of the device, and steps run on a stream of their own."""
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        if self._graph_wanted:
            self._graph = StepGraph(self._launch, HostState([self._model], []), dict, stream)
        for group in groups:
            group["lr"] = self._rate
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            torch.cuda.current_stream(self._device).wait_stream(stream)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            self._optimizer.zero_grad(set_to_none=True)
            self._graph = self._figures = self._last = None

    def launch(self, batch: ScanBatch, draw: StepDraw, step: PendingStep) -> None:
        """Launches a step of a batch and a draw of the host."""
        sent, sent_draw = batch.to(self._device), draw.to(self._device)
        if self._graph is None:
            self._launch(sent, sent_draw, step.step)
        else:
            self._graph.run(sent, sent_draw, step.step)
        self.pending.append(step)

    def read(self) -> list[tuple[PendingStep, DifferentiatedStep, list[float]]]:
        """All steps that have been launched since the last call, and their figures; waits for the device."""
        if not self.pending:
            return []
        assert self._figures is not None and self._last is not None
        rows, pending, self.pending = self._figures.read(len(self.pending)), self.pending, []
        return [(step, self._last, row) for step, row in zip(pending, rows, strict=True)]

    def _launch(self, batch: ScanBatch, draw: StepDraw, step: int) -> None:
        """The device's part of a step: the optimizers take it if all its figures are finite."""
        self._backup.keep()
        last = self._differentiate(batch, draw, draw.correspondence)
        is_taken = last.figures.isfinite().all()
        self._rate.copy_(draw.rates[0])
        optimizer = self._optimizer
        optimizer.grad_scale, optimizer.found_inf = None, (~is_taken).float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        for name, leaf in last.leaves.items():
            if leaf.grad is not None:
                rows, rate = draw.rows[name], draw.rates[2 if name == "expression" else 1]
                self._tables[name].step(rows.numbers, rows.gradient(leaf.grad), rate, is_taken)
        self._backup.restore_unless(is_taken)
        if self._figures is None:
            self._figures = FigureTable(len(last.figures), self._device)
        self._figures.write(last.figures.double())
        self._last = last
