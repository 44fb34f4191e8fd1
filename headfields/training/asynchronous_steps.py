"""Steps whose figures the host reads later: on a GPU it does not wait for one step before it launches the next.

The device decides by a step's figures (`headfields.training.asynchronous_update`). Every `READ_EVERY` steps the host
reads those of all steps since, and does what is left to do: the log, the count of skipped steps and their frames, the
number of rays, the sizes of buffers. Where it can be, what a step launches is one CUDA graph
(`headfields.training.step_graph`).
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from headfields.renderers.padded import Buffers
from headfields.runs import checkpoint
from headfields.runs.interrupts import InterruptFlag
from headfields.training.asynchronous_update import READ_EVERY, AsynchronousUpdate, LateStep, StepMetrics
from headfields.training.callbacks import callback_names, has_own_hook
from headfields.training.monitor import TrainingMonitor
from headfields.training.processes import Processes
from headfields.training.results import StepOutcome
from headfields.training.step_graph import HostState, StepGraph
from headfields.training.steps import Steps


def why_synchronous(
    device: torch.device, processes: Processes, scaler: Any, optimizer: torch.optim.Optimizer, callbacks: Sequence[Any]
) -> str:
    """Why the host waits for the figures of each step; empty where the device may decide by them."""
    if device.type != "cuda":
        return "the device is no GPU"
    if processes.several:
        return "several processes train together"
    if scaler is not None:
        return "precision is '16-mixed', whose scale of the loss is read; 'bf16-mixed' has none"
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if not (getattr(optimizer, "_step_supports_amp_scaling", False) and fused):
        return f"{type(optimizer).__name__} takes no step that the device may refuse; build it with fused=True"
    for name, callback in zip(callback_names(callbacks), callbacks, strict=True):
        if has_own_hook(callback, "on_step") and not has_own_hook(callback, "on_launch"):
            return f"the callback {name} has on_step, which reads the figures of each step"
    return ""


def why_no_graph(avatar: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Why steps that the host does not wait for are not captured as a CUDA graph; empty where they may be."""
    renderer: Any = getattr(avatar, "renderer", avatar)
    if not getattr(renderer, "takes_buffers", False):
        kind = type(renderer).__name__
        return f"the number of samples of {kind} differs from step to step, without a form of a fixed size"
    for group in optimizer.param_groups:
        if not group.get("capturable"):
            return f"{type(optimizer).__name__} is not capturable; build it with capturable=True"
    return ""


class AsynchronousSteps(Steps):
    """Steps that are launched one after the other, and read `READ_EVERY` at a time."""

    _update: AsynchronousUpdate | None = None
    _graph: StepGraph | None = None
    _buffers: Buffers | None = None
    """Sizes of the samples' buffers; None: there are none."""

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block there are buffers, the device's figures and, where steps are captured, a stream of their
        own."""
        state = self._state
        renderer: Any = getattr(state.avatar, "renderer", None)
        takes_buffers = getattr(renderer, "takes_buffers", False)
        if takes_buffers:
            self._buffers = renderer.sample_buffers = Buffers(self._device, renderer.buffer_names)
            self._buffers.resize(state.progress.extra.get("sample_rows", {}))
        self._update = AsynchronousUpdate(
            state.parameters, state.optimizer, state.ema, state.backup, self._buffers, len(self._objective.losses),
            self._batches.frames_per_step,
            takes_buffers and not getattr(state.avatar, "whole_images", False), self._device,
        )  # fmt: skip
        rates = [group["lr"] for group in state.optimizer.param_groups]
        stream: Any = None
        context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if not self.graph_reason:
            for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
                group["lr"] = torch.full((), rate, device=self._device)
            stream = torch.cuda.Stream(self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
            context = torch.cuda.stream(stream)
            host = HostState([state.avatar], self._objective.losses)
            self._graph = StepGraph(self._launch, host, lambda: self._sample_rows, stream)
        try:
            with context:
                yield
        finally:
            if stream is not None:
                torch.cuda.current_stream(self._device).wait_stream(stream)
            for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            state.optimizer.zero_grad(set_to_none=True)
            self._update = self._graph = self._buffers = self._drawn = None
            if takes_buffers:
                renderer.sample_buffers = None

    def resized(self) -> None:
        """Takes note of parameters and buffers of other sizes; the step is captured anew."""
        super().resized()
        if self._update is not None:
            self._update.resized(self._state.parameters, self._state.backup)
        if self._graph is not None:
            self._graph.forget()

    def step(self, decay: float, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """One step, whose figures are read when `READ_EVERY` steps have been launched, or before a checkpoint.

        Which steps those are follows from their numbers alone: a resumed run takes the steps of an unbroken one.
        """
        assert self._update is not None
        state, progress = self._state, self._state.progress
        self._outputs.make_due(monitor, lambda: self.read(monitor))
        batch, frames, _, rays = self._batches.draw(self._rays.now, state.random.generator)
        own_state = self._capture.state(frames)
        sent, sent_state = batch.to(self._device), own_state.to(self._device)
        self._prepare(sent_state, decay)
        seconds, rate = progress.seconds, self._learning_rate * decay
        pixels = max(batch.alpha[:1].numel(), 1)  # of an image, or one of a ray
        step = LateStep(progress.step, frames, own_state, batch, rays * pixels, seconds, rate)
        if self._graph is None:
            self._launch(sent, sent_state, progress.step)
        else:
            self._graph.run(sent, sent_state, progress.step)
            self._report_graph(monitor)
        self._update.pending.append(step)
        progress.step += 1
        if progress.step == 1 and self._outputs.has_folder:
            checkpoint.check_optimizer_state(state.avatar, state.optimizer)  # now, and not after a minute
        if progress.step % READ_EVERY == 0:
            self.read(monitor)
            self._adapt_sizes()
        outcome = StepOutcome({}, math.nan, rays * pixels, seconds, False)
        self._hooks.call_after_step(outcome)
        return outcome

    def _launch(self, batch: Any, frames_state: Any, step: Any) -> None:
        """The device's part of a step."""
        assert self._update is not None
        figures = self._differentiate(batch, frames_state, frames_state.frame_id, step, 1.0)
        assert self._drawn is not None
        with torch.no_grad():
            self._update.take(figures, self._drawn.seen(self._batches.frames_per_step))
        self._hooks.call_launched(self._drawn.rendering, self._update.taken, step)
        self._drawn = None

    def _report_graph(self, monitor: TrainingMonitor) -> None:
        """Writes to the log that steps are not captured any more, and why."""
        assert self._graph is not None
        if self._graph.reason and not self.graph_reason:
            self.graph_reason = self._graph.reason
            monitor.event("graph", captured=False, reason=self.graph_reason)

    def read(self, monitor: TrainingMonitor) -> None:
        """Reads the figures of the steps that were launched since the last time, and does what they ask for.

        Raises:
            NanLossError: ten of them in a row were not finite; none of these has changed a weight.
        """
        assert self._update is not None
        names, extra = [loss.name for loss in self._objective.losses], self._state.progress.extra
        for step, figures in self._update.read():
            terms = dict(zip(names, figures.losses, strict=True))
            bad = [f"loss {name}" for name, value in terms.items() if not math.isfinite(value)]
            norms = zip(self._state.parameters, figures.norms, strict=True)
            bad = bad or [f"gradient of {name}" for name, value in norms if not math.isfinite(value)]
            if figures.overflow:
                extra["overflowed"] = extra.get("overflowed", 0) + 1
                monitor.event("overflow", step=step.step, samples=figures.needed, rows=self._sample_rows)
            most = extra.setdefault("needed", {})
            most |= {name: max(needed, most.get(name, 0)) for name, needed in figures.needed.items()}
            if bad:
                self._skip(step, figures, ", ".join(bad), monitor)
                monitor.after_skipped_step(step.rays)
                continue
            self._state.skipped.accept()
            extra["samples"] = extra.get("samples", 0.0) + figures.samples
            extra["sampled_rays"] = extra.get("sampled_rays", 0) + step.rays
            monitor.after_step(terms, figures.squared_error, step.rays, step.rate, step.step + 1)

    def _skip(self, step: LateStep, figures: StepMetrics, what: str, monitor: TrainingMonitor) -> None:
        """Counts a step that the device has not taken."""
        suspects = step.suspects(figures.seen[: len(step.frames)])
        frames = (step.frames[suspects] if bool(suspects.any()) else step.frames).tolist()
        monitor.event("skipped", step=step.step, what=what, frames=frames)
        self._count_skipped(step.step, what, frames, monitor)

    @property
    def _sample_rows(self) -> dict[str, int]:
        """The sizes of the samples' buffers."""
        return {} if self._buffers is None else dict(self._buffers.rows)

    def _adapt_sizes(self) -> None:
        """Fits the number of rays and the sizes of buffers to the samples of the steps that were read.

        Each change makes a step of other sizes, so the number of rays moves at once, and only by more than a tenth.
        """
        extra = self._state.progress.extra
        samples, rays, needed = extra.pop("samples", 0.0), extra.pop("sampled_rays", 0), extra.pop("needed", {})
        scale = self._rays.jump(rays, samples)
        if self._buffers is not None:
            needed = {name: math.ceil(count * scale) for name, count in needed.items()}
            self._buffers.fit(needed)
            extra["sample_rows"] = self._sample_rows
