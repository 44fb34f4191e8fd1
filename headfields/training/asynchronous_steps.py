"""Asynchronous training steps: on a GPU the host does not wait for one step before it launches the next.

The device decides by a step's metrics (`headfields.training.asynchronous_update`). The host reads those of many steps
at a time (`headfields.runs.asynchronous`), and does what is left to do: the log, the count of skipped steps and their
frames, the number of rays, the sizes of buffers. Where it can be, what a step launches is one CUDA graph.
`headfields.training.synchronous_steps` is the plain loop.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from headfields.data.device_pixels import DevicePixels, DrawnPixels
from headfields.records import ImageBatch
from headfields.records.device_copy import send_numbers
from headfields.renderers.padded import Buffers
from headfields.runs import checkpoint
from headfields.runs.asynchronous import AsynchronousEngine
from headfields.runs.interrupts import InterruptFlag
from headfields.training.asynchronous_update import AsynchronousUpdate, PendingStep, StepMetrics
from headfields.training.drawn_ahead import DrawnAhead, decoding_ahead
from headfields.training.monitor import TrainingMonitor
from headfields.training.results import StepOutcome
from headfields.training.step_phases import StepPhases
from headfields.training.steps import Steps


class AsynchronousSteps(Steps):
    """Steps that are launched one after the other, and read many at a time.

    With several processes each launches its share, and the devices exchange losses, gradients and buffers within the
    step. The hosts tell each other of interrupts, of callbacks and of the time where they read what was launched. An
    error that one process alone has ends that process, and whoever launched them the others.
    """

    _engine: AsynchronousEngine[PendingStep] | None = None
    _update: AsynchronousUpdate
    _ahead: DrawnAhead[tuple[Any, Tensor, Any, int, int, Any]]
    _pixels: DevicePixels | None = None
    """The capture's pixels on the device; None: the host makes the batches."""
    _fraction = 1.0
    """This process's share of a step's rays."""
    _buffers: Buffers | None = None
    """Sizes of the samples' buffers; None: there are none."""

    @contextlib.contextmanager
    def active(self, monitor: TrainingMonitor) -> Iterator[None]:
        """Within the block samples have buffers of a fixed size; after it all metrics have been read.

        Raises:
            NanLossError: as `step`.
        """
        state = self._state
        renderer: Any = getattr(state.avatar, "renderer", None)
        takes_buffers = getattr(renderer, "takes_buffers", False)
        if takes_buffers:
            self._buffers = renderer.sample_buffers = Buffers(self._device, renderer.buffer_names)
            self._buffers.resize(state.progress.extra.get("sample_rows", {}))
        self._update = AsynchronousUpdate(
            state.parameters, state.optimizer, state.ema, state.backup, self._buffers, len(self._objective.losses),
            self._batches.frames_per_step,
            takes_buffers and not getattr(state.avatar, "whole_images", False), self._device, self._processes,
            self._shared,
        )  # fmt: skip
        self._phases = StepPhases(self._objective.losses, self._hooks.callbacks)
        self._engine = AsynchronousEngine(
            self._launch, state.optimizer, self._device, self.graph_reason,
            [*state.avatar.modules(), *self._objective.losses], self._decided, tensor_rates=not self.graph_reason,
        )  # fmt: skip
        if self.graph_reason:
            monitor.event("graph", captured=False, reason=self.graph_reason)
        if self._batches.draws_rays_alone:
            self._pixels = DevicePixels.where_they_fit(self._capture, self._device)
        try:
            self._ahead = DrawnAhead(self._draw, self._batches.drawn_from)
            with self._engine.active(), self._ahead, decoding_ahead(self._capture):
                yield
                self._read(monitor)
        finally:
            self._engine = self._buffers = self._drawn = self._pixels = None
            if takes_buffers:
                renderer.sample_buffers = None

    def resized(self) -> None:
        """Takes note of parameters and buffers of other sizes; the step is captured anew."""
        super().resized()
        if self._engine is not None:
            self._update.resized(self._state.parameters, self._state.backup, self._shared)
            if self._engine.graph is not None:
                self._engine.graph.forget("the number of Gaussians")

    def step(self, decay: float, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """One step, whose metrics are read when many have been launched, or before a checkpoint.

        Which steps those are follows from their numbers alone: a resumed run takes the steps of an unbroken one.

        Raises:
            NanLossError: ten steps in a row were not finite; none of these has changed a weight.
        """
        assert self._engine is not None
        state, progress, several = self._state, self._state.progress, self._processes.several
        if not several or self._engine.is_due(progress.step):  # where one process reads, all have
            self._outputs.make_due(monitor, lambda: self._read(monitor))
        batch, frames, own_state, first, rays, missing = self._ahead.take(self._rays.now, state.random.generator)
        if self._pixels is not None and missing is not None:
            self._pixels.put(missing)
        sent, sent_state = batch.to(self._device), own_state.to(self._device)
        self._prepare(sent_state, decay)
        seconds, rate = progress.seconds, self._learning_rate * decay
        drawn = isinstance(batch, DrawnPixels)
        pixels = 1 if drawn else max(batch.alpha[:1].numel(), 1)  # of an image, or one of a ray
        kept = None if drawn else batch
        pending = PendingStep(progress.step, frames, own_state, kept, rays * pixels, seconds, rate)
        self._fraction = len(batch) / max(rays, 1) if several else 1.0
        with state.random.share(first, rays) if several else contextlib.nullcontext():
            self._engine.launch(sent, sent_state, progress.step, pending)
        if not self._engine.is_due(progress.step + 1):  # there the number of rays may change
            self._ahead.start(self._rays.now, state.random.generator)
        self._report_graph(monitor)
        progress.step += 1
        if progress.step == 1 and self._outputs.has_folder:
            checkpoint.check_optimizer_state(state.trained, state.optimizer)  # now, and not after a minute
        if self._engine.is_due(progress.step):
            self._read(monitor)
            self._adapt_sizes()
        outcome = StepOutcome({}, math.nan, rays * pixels, seconds, False)
        if several and self._engine.is_due(progress.step):
            outcome = self._agreed(outcome, monitor, interrupt)
        self._hooks.call_after_step(outcome)
        return outcome

    def _agreed(self, outcome: StepOutcome, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """What all processes know after they have told each other; the error of one callback is raised on all."""
        status = [self._state.progress.seconds, bool(interrupt), self._hooks.error is not None]
        status.append(self._hooks.stop_reason is not None)
        rows = self._processes.gather(send_numbers(status, torch.double, self._device)).tolist()
        if any(row[2] for row in rows):
            self._processes.raise_on_all(self._hooks.error)
        monitor.share_seconds(rows[0][0])
        interrupted, stopped = any(row[1] for row in rows), any(row[3] for row in rows)
        return dataclasses.replace(outcome, interrupted=interrupted, stopped=stopped)

    def _draw(self, rays: int, generator: torch.Generator) -> tuple[Any, Tensor, Any, int, int, Any]:
        """This process's share of a step's batch, its frames, their state, the rays (or images) before it, the number
        of rays (or images) of all, and the frames whose pixels the device lacks; called from a thread."""
        if self._pixels is not None:
            before = generator.get_state()
            drawn, frames, first, count = self._batches.draw_indices(rays, generator)
            missing = self._pixels.missing(frames.tolist())
            if missing is not None:
                return drawn, frames, self._capture.state(frames), first, count, missing
            self._pixels = None  # from here on the host makes the batches
            generator.set_state(before)
        batch, frames, first, count = self._batches.draw(rays, generator)
        return batch, frames, self._capture.state(frames), first, count, None

    def _set_rates(self, rates: list[float]) -> None:
        """Sets the learning rates of the optimizer's groups, in tensors where steps may be captured."""
        if not isinstance(self._state.optimizer.param_groups[0]["lr"], Tensor):
            return super()._set_rates(rates)
        for group, rate in zip(self._state.optimizer.param_groups, rates, strict=True):
            group["lr"].fill_(rate)
        return None

    def _launch(self, batch: Any, frames_state: Any, step: int) -> Any:
        """The device's part of a step."""
        if isinstance(batch, DrawnPixels):
            assert self._pixels is not None
            batch = self._pixels.batch(batch)
        losses = self._differentiate(batch, frames_state, frames_state.frame_id, step, self._fraction)
        assert self._drawn is not None
        rendering, self._drawn = self._drawn.rendering, None
        every = isinstance(batch, ImageBatch) and not self._processes.several  # an image of each row of the state
        metrics = self._update.take(losses, rendering, None if every else batch.frame)
        self._hooks.call_launched(rendering, self._update.taken, step)
        return metrics

    def _decided(self, step: int) -> Mapping[str, Any]:
        """What the host decides in a step besides the attributes of parts and losses."""
        share = {"the share of rays": self._fraction} if self._processes.several else {}
        return {"the number of samples": self._sample_rows, **share, **self._phases(step)}

    def _report_graph(self, monitor: TrainingMonitor) -> None:
        """Writes to the log that steps are not captured any more, and why."""
        assert self._engine is not None
        if self._engine.graph_reason != self.graph_reason:
            self.graph_reason = self._engine.graph_reason
            monitor.event("graph", captured=False, reason=self.graph_reason)

    def _read(self, monitor: TrainingMonitor) -> None:
        """Reads the metrics of the steps that were launched since the last time, and does what they ask for."""
        assert self._engine is not None
        names, extra = [loss.name for loss in self._objective.losses], self._state.progress.extra
        for step, row in self._engine.read():
            metrics = self._update.read(row)
            terms = dict(zip(names, metrics.losses, strict=True))
            bad = [f"loss {name}" for name, value in terms.items() if not math.isfinite(value)]
            norms = zip(self._state.parameters, metrics.norms, strict=True)
            bad = bad or [f"gradient of {name}" for name, value in norms if not math.isfinite(value)]
            if metrics.overflow:
                extra["overflowed"] = extra.get("overflowed", 0) + 1
                monitor.event("overflow", step=step.step, samples=metrics.needed, rows=self._sample_rows)
            most = extra.setdefault("needed", {})
            most |= {name: max(needed, most.get(name, 0)) for name, needed in metrics.needed.items()}
            if bad:
                self._skip(step, metrics, ", ".join(bad), monitor)
                monitor.after_skipped_step(step.rays)
                continue
            self._state.skipped.accept()
            extra["samples"] = extra.get("samples", 0.0) + metrics.samples
            extra["sampled_rays"] = extra.get("sampled_rays", 0) + step.rays
            monitor.after_step(terms, metrics.squared_error, step.rays, step.rate, step.step + 1)

    def _skip(self, step: PendingStep, metrics: StepMetrics, what: str, monitor: TrainingMonitor) -> None:
        """Counts a step that the device has not taken."""
        suspects = step.suspects(metrics.seen[: len(step.frames)])
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
