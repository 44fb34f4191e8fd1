"""Asynchronous steps: launched on a GPU one after the other, their metrics read by the host later, many at a time.

A host that reads the loss of each step lets the GPU idle meanwhile. So the device decides by the metrics of a step
whether the optimizer takes it (`step_if`) and writes them into a table; every `READ_EVERY` steps the host reads that,
logs and counts. Where it can be, what a step launches is one CUDA graph (`headfields.runs.step_graph`).

The trainers, and tracking with a prior, take such steps on a GPU. On a CPU they take them in plain loops instead.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.records.device_copy import send_numbers
from headfields.runs.step_graph import StepGraph

__all__ = ["READ_EVERY", "AsynchronousEngine", "MetricTable", "step_if"]

READ_EVERY = 32
"""Steps between two looks at the metrics. Own choice: a wait in so many steps costs next to nothing."""

Pending = TypeVar("Pending")


def step_if(optimizer: torch.optim.Optimizer, is_taken: Bool[Tensor, ""]) -> None:
    """A step of a fused optimizer that the device takes where the tensor is true; the host does not read it.

    Fused optimizers skip a step by `found_inf`, which `torch.amp.GradScaler` sets for gradients that overflow.
    """
    fused: Any = optimizer
    if _adam_if(fused, is_taken):
        return
    fused.grad_scale, fused.found_inf = None, (~is_taken).float()
    fused.step()
    del fused.grad_scale, fused.found_inf


def _adam_if(optimizer: Any, is_taken: Bool[Tensor, ""]) -> bool:
    """The step of PyTorch's fused Adam, whose groups share what counts the steps; false, and none, of another optimizer
    and before it has made its moments. Its own counts each group's steps up, and down again where none was taken, in
    two launches a group."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if type(optimizer) is not torch.optim.Adam or hooks:
        return False
    given, steps = [], []
    for group in optimizer.param_groups:
        parameters = [p for p in group["params"] if p.grad is not None]
        states = [optimizer.state[p] for p in parameters]
        plain = not (group["amsgrad"] or group["maximize"] or group["differentiable"])
        plain = plain and not group.get("decoupled_weight_decay", False)
        if not (group["fused"] and plain and all("exp_avg" in state for state in states)):
            return False
        if len({(p.dtype, p.device, p.grad.layout) for p in parameters}) > 1 or any(p.is_complex() for p in parameters):
            return False
        if parameters:
            given.append((group, parameters, states))
            steps += [state["step"] for state in states]
    if not steps:
        return False
    taken = is_taken.float()
    not_taken = 1 - taken
    torch._foreach_add_(steps, taken, alpha=1)  # without alpha it takes a number, for which the host would wait
    for group, parameters, states in given:
        means, squares = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq"))
        torch._fused_adam_(
            parameters, [p.grad for p in parameters], means, squares, [], [state["step"] for state in states],
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=False, grad_scale=None, found_inf=not_taken,
        )  # fmt: skip
    return True


class MetricTable:
    """Rows of metrics on the device, and the place of the next one, which the device counts too.

    Args:
        width: numbers in a row.
        device: the device.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._rows = torch.zeros(READ_EVERY, width, dtype=torch.double, device=device)
        self._next = torch.zeros(1, dtype=torch.long, device=device)

    def write(self, row: Float[Tensor, " w"]) -> None:
        """Writes the next row."""
        self._rows.index_copy_(0, self._next, row[None])
        self._next.add_(1).remainder_(READ_EVERY)

    def read(self, count: int) -> list[list[float]]:
        """The last `count` rows since the table was read last; waits for the device."""
        rows = self._rows[:count].tolist()
        self._next.zero_()
        return rows


class AsynchronousEngine(Generic[Pending]):
    """Launches steps and reads their metrics later; use it within `with engine.active():`.

    Args:
        body: the device's part of a step, of a batch, of a record of what else the host gives it, both on the device,
            and of the step's number; it returns (M,) metrics, as many in each step.
        optimizer: its learning rates are tensors of the device within the block, and its gradients None after it.
        device: a CUDA device.
        no_graph: why steps are not captured; empty where they may be.
        holders: objects whose attributes the host decides with in a step: see `StepGraph`.
        decided: what else it decides, by name, of a step's number.
        tensor_rates: whether learning rates are tensors: only for an optimizer that takes them.

    Attributes:
        rates: (G,) learning rates of the optimizer's groups, for the body or the host to write to.
        pending: what the host keeps of steps whose metrics it has not read.
        graph: the captured step; None where steps are not captured.
    """

    def __init__(
        self,
        body: Callable[[Any, Any, int], Float[Tensor, " m"]],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        no_graph: str = "",
        holders: Iterable[Any] = (),
        decided: Callable[[int], Mapping[str, Any]] = lambda step: {},
        tensor_rates: bool = True,
    ) -> None:
        self._body, self._optimizer, self._device, self._no_graph = body, optimizer, device, no_graph
        self._holders, self._decided, self._tensor_rates = holders, decided, tensor_rates
        self._table: MetricTable | None = None
        self.graph: StepGraph | None = None
        self.pending: list[Pending] = []

    @property
    def graph_reason(self) -> str:
        """Why steps are not replayed from a CUDA graph; empty while they are."""
        return self._no_graph or ("" if self.graph is None else self.graph.reason)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block learning rates are tensors of the device, and steps run on a stream of their own."""
        groups, device = self._optimizer.param_groups, self._device
        rates = [group["lr"] for group in groups]
        if self._tensor_rates:
            self.rates = send_numbers(rates, torch.float32, device)
            for group, rate in zip(groups, self.rates.unbind(), strict=True):
                group["lr"] = rate
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        if not self._no_graph:
            self.graph = StepGraph(self._launch, self._holders, self._decided, stream)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            self._optimizer.zero_grad(set_to_none=True)  # gradients may lie in the memory of the graph
            self._no_graph, self.graph = self.graph_reason, None

    def launch(self, batch: Any, numbers: Any, step: int, pending: Pending) -> None:
        """Launches a step of what the host gives it, on the device; `pending` comes back with its metrics."""
        if self.graph is None:
            self._launch(batch, numbers, step)
        else:
            self.graph.run(batch, numbers, step)
        self.pending.append(pending)

    def is_due(self, steps: int) -> bool:
        """Whether metrics are read after so many steps of a run; this alone decides, so resuming changes nothing."""
        return steps % READ_EVERY == 0

    def read(self) -> list[tuple[Pending, list[float]]]:
        """All steps that have been launched since the last call, and their metrics; waits for the device."""
        if not self.pending:
            return []
        assert self._table is not None
        rows, pending, self.pending = self._table.read(len(self.pending)), self.pending, []
        return list(zip(pending, rows, strict=True))

    def _launch(self, batch: Any, numbers: Any, step: int) -> None:
        metrics = self._body(batch, numbers, step)
        if self._table is None:
            self._table = MetricTable(len(metrics), self._device)
        self._table.write(metrics)
