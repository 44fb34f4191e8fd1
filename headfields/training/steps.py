"""What every way of taking a training step shares: the batch, the rendering, the losses and their gradients."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.runs.interrupts import InterruptFlag
from headfields.runs.progress import NanLossError
from headfields.training.batches import BatchSource
from headfields.training.callbacks import Hooks
from headfields.training.monitor import TrainingMonitor
from headfields.training.objective import Objective
from headfields.training.outputs import RunOutputs
from headfields.training.processes import Processes, SharedBuffers
from headfields.training.ray_count import RayCount
from headfields.training.results import StepOutcome
from headfields.training.state import TrainingState


@dataclass(frozen=True)
class Drawn:
    """This process's share of a step: B frames, and what rays or images of them should show and show."""

    frames: Tensor
    state: Any
    batch: Any
    rendering: Any

    def suspects(self) -> Float[Tensor, " b"]:
        """1 for frames with a state, target or color that is not finite, else 0."""
        rgb = self.rendering.rgb.detach()
        suspects = rgb.new_zeros(len(self.frames))
        colors = torch.cat([rgb, self.batch.target.to(rgb)], dim=-1)
        suspects[self.batch.frame[~colors.isfinite().all(dim=-1)]] = 1.0
        for name in ("vertices", "expression", "pose"):
            values = getattr(self.state, name, None)
            if values is not None:
                suspects[~values.flatten(1).isfinite().all(dim=1)] = 1.0
        return suspects


class Steps(ABC):
    """A way of taking training steps, within `with steps.active(monitor):`.

    Args:
        state: the avatar and what else a step changes.
        capture: gives the frames' states.
        batches, rays: what a step renders.
        objective: what it minimizes.
        fabric: autocast, and the backward pass.
        processes: those that train together.
        outputs: pictures and checkpoints, made between two steps.
        hooks: the callbacks.
        learning_rate: that of the log.
        graph_reason: why steps are not captured as a CUDA graph; empty where they may be.

    Attributes:
        graph_reason: as above; also once they are not captured any more.
    """

    def __init__(
        self,
        state: TrainingState,
        capture: Any,
        batches: BatchSource,
        rays: RayCount,
        objective: Objective,
        fabric: Any,
        processes: Processes,
        outputs: RunOutputs,
        hooks: Hooks,
        learning_rate: float,
        graph_reason: str,
    ) -> None:
        self._state, self._capture, self._batches, self._rays = state, capture, batches, rays
        self._objective, self._fabric, self._processes = objective, fabric, processes
        self._outputs, self._hooks, self._learning_rate = outputs, hooks, learning_rate
        self._device: torch.device = fabric.device
        self._shared = SharedBuffers(processes, state.avatar)
        self._drawn: Drawn | None = None  # the present step's, to name the frames of one that is not finite
        self.graph_reason = graph_reason
        self.factors: Mapping[str, float] = {}
        """Factors on the learning rates of groups with a schedule of their own, by name, set before each step."""
        self.fine_tuning: Callable[[Any, Any, Tensor, int], tuple[Any, Any]] | None = None
        """From a step's batch, state, frames and number to batch and state with the tracking as trained."""

    @contextlib.contextmanager
    def active(self, monitor: TrainingMonitor) -> Iterator[None]:
        """Within the block steps are taken; after it all that follows from them has been done."""
        yield

    @abstractmethod
    def step(self, decay: float, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """One step, with the learning rates times `decay`."""

    def resized(self) -> None:
        """Takes note of parameters and buffers of other sizes, after the state has."""
        self._shared = SharedBuffers(self._processes, self._state.avatar)

    def _prepare(self, frames_state: Any, decay: float) -> None:
        """What a step does before it renders: learning rates, schedules of parts, occupancy."""
        groups = self._state.optimizer.param_groups
        self._set_rates([group["initial_lr"] * self.factors.get(group["name"], decay) for group in groups])
        self._state.backup.keep()
        self._state.avatar.update(frames_state, self._state.progress.step)

    def _set_rates(self, rates: list[float]) -> None:
        """Sets the learning rates of the optimizer's groups."""
        for group, rate in zip(self._state.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _differentiate(
        self, batch: Any, frames_state: Any, frames: Tensor, step: int, fraction: float
    ) -> Float[Tensor, " l"]:
        """Renders this process's share of a batch, `fraction` of its rays, and computes its gradients.

        Returns:
            The weighted losses and the squared error, scaled by the fraction.
        """
        self._shared.snapshot()
        if self.fine_tuning is not None:
            batch, frames_state = self.fine_tuning(batch, frames_state, frames, step)
        with self._fabric.autocast():
            rendering = self._state.avatar(batch.view, frames_state, batch.background)
            values = self._objective(rendering, batch, step)
            total = values.sum()
        self._state.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:  # false if there are no samples, as when every ray misses the head
            total = total * fraction if self._processes.several else total
            self._fabric.backward(total, inputs=self._asked_for(rendering) or None)
        self._drawn = Drawn(frames, frames_state, batch, rendering)
        with torch.no_grad():
            squared_error = (rendering.rgb - batch.target).square().sum() / max(rendering.rgb.numel(), 1)
            metrics = torch.cat([values, squared_error[None]]).double()
            return metrics if fraction == 1 else metrics * fraction

    def _asked_for(self, rendering: Any) -> list[Tensor]:
        """The leaves of a step that get a gradient: what is trained, and the centers that density control reads.

        Others would cost theirs for nothing: points at which a distance is differentiated, for its normal, are leaves.
        """
        centers = (getattr(rendering, name, None) for name in ("means2d_offset", "means2d_absgrad"))
        leaves = [leaf for leaf in centers if leaf is not None and leaf.requires_grad]
        return [*self._state.parameters.values(), *leaves]

    def _count_skipped(self, step: int, what: str, frames: list[int], monitor: TrainingMonitor) -> None:
        """Counts a step that was not finite, and the frames that it drew.

        Raises:
            NanLossError: it is one too many in a row.
        """
        state = self._state
        try:
            state.skipped.skip(step, what, frames, f"{state.last_good}. A lower learning rate often helps")
        except NanLossError as error:
            monitor.event("nan", what=str(error))
            raise
        finally:
            state.progress.extra["skipped"] = state.skipped.state()
