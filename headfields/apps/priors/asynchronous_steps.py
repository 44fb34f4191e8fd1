"""Asynchronous steps of a prior's training on a GPU: see `headfields.runs.asynchronous`."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.apps.priors.code_table import CodeTable
from headfields.apps.priors.scans.batch import ScanBatch
from headfields.apps.priors.step_draw import StepDraw
from headfields.runs.asynchronous import AsynchronousEngine, step_if
from headfields.runs.nonfinite import BufferBackup

__all__ = ["AsynchronousPriorSteps", "DifferentiatedStep", "PendingPriorStep"]


@dataclass(frozen=True)
class DifferentiatedStep:
    """A step before its update.

    Attributes:
        weights: weights of the terms, by name.
        norms: names of the norms of gradients.
        metrics: (M,) the unweighted terms and the norms, in this order.
        leaves: rows of the code tables, by the table's name, with their gradients.
    """

    weights: Mapping[str, float]
    norms: tuple[str, ...]
    metrics: Float[Tensor, " m"]
    leaves: Mapping[str, Float[Tensor, "u width"]]

    def named(self, values: list[float], correspondence: float = 1.0) -> tuple[dict[str, float], dict[str, float]]:
        """The weighted terms and the norms by name, of the metrics as the host reads them.

        Args:
            values: the metrics.
            correspondence: factor of the weight of correspondences.
        """
        terms = {name: weight * value for (name, weight), value in zip(self.weights.items(), values, strict=False)}
        if "correspondence" in terms:
            terms["correspondence"] *= correspondence
        return terms, dict(zip(self.norms, values[len(terms) :], strict=True))


@dataclass(frozen=True)
class PendingPriorStep:
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
        differentiate: computes a step's metrics and gradients, of the batch, the draw and the factor of the weight of
            correspondences.
        graph: whether steps are captured.
        device: a CUDA device.
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
        self._optimizer, self._tables, self._backup = optimizer, tables, backup
        self._differentiate, self._device = differentiate, device
        self._engine: AsynchronousEngine[PendingPriorStep] = AsynchronousEngine(
            self._launch, optimizer, device, "" if graph else "graph is False", model.modules()
        )
        self._last: DifferentiatedStep | None = None

    @property
    def graph_reason(self) -> str:
        """Why steps are not replayed from a CUDA graph; empty while they are."""
        return self._engine.graph_reason

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block steps are launched."""
        with self._engine.active():
            yield
        self._last = None

    def launch(self, batch: ScanBatch, draw: StepDraw, step: PendingPriorStep) -> None:
        """Launches a step of a batch and a draw of the host."""
        self._engine.launch(batch.to(self._device), draw.to(self._device), step.step, step)

    def is_due(self, steps: int) -> bool:
        """Whether metrics are read after so many steps."""
        return self._engine.is_due(steps)

    def read(self) -> list[tuple[PendingPriorStep, dict[str, float], dict[str, float]]]:
        """The steps that have been launched since the last call, with their terms and norms; waits for the device."""
        done = self._engine.read()
        last = self._last  # all have its names and weights
        return [(step, *last.named(row, step.correspondence)) for step, row in done] if last is not None else []

    def _launch(self, batch: ScanBatch, draw: StepDraw, step: int) -> Float[Tensor, " m"]:
        """The device's part of a step: the optimizers take it if all its metrics are finite."""
        self._backup.keep()
        self._last = last = self._differentiate(batch, draw, draw.correspondence)
        is_taken = last.metrics.isfinite().all()
        self._engine.rates.copy_(draw.rates[:1])
        step_if(self._optimizer, is_taken)
        for name, leaf in last.leaves.items():
            if leaf.grad is not None:
                rows, rate = draw.rows[name], draw.rates[2 if name == "expression" else 1]
                self._tables[name].step(rows.numbers, rows.gradient(leaf.grad), rate, is_taken)
        self._backup.restore_unless(is_taken)
        return last.metrics.double()
