"""The plain training step: draw, render, differentiate, check, update; by one process or several."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records.device_copy import send_numbers
from headfields.runs import checkpoint
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.progress import NanLossError
from headfields.training.monitor import TrainingMonitor
from headfields.training.results import StepOutcome
from headfields.training.steps import Steps

MOST_OVERFLOWS = 25
"""At most this many steps in a row may have gradients that overflow float16; each halves the scale."""


class SynchronousSteps(Steps):
    """A step at a time: its losses are known before the next one begins.

    With several processes a step is: the same batch drawn by all; a share of it rendered and differentiated by each;
    metrics, gradients and buffers combined; the same update made by all. A process that fails still takes part in the
    exchange, so that none waits for it, and the step ends with an error on all.
    """

    _overflows = 0
    """Steps in a row whose gradients overflowed float16."""

    def step(self, decay: float, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """One step, its line in the log, and the callbacks after it."""
        progress = self._state.progress
        outcome = self._optimize(decay, monitor, interrupt)
        if outcome.not_finite:
            self._skip(outcome.not_finite, monitor)
        elif self._drawn is not None:
            outcome = dataclasses.replace(outcome, rendering=self._drawn.rendering)
            is_taken = torch.ones((), dtype=torch.bool, device=self._device)
            self._hooks.call_launched(outcome.rendering, is_taken, progress.step)
        self._drawn = None
        progress.step += 1
        monitor.share_seconds(outcome.seconds)
        if outcome.not_finite:
            monitor.after_skipped_step(outcome.rays)
        else:
            self._state.skipped.accept()
            rate = self._learning_rate * decay
            monitor.after_step(outcome.terms, outcome.mean_squared_error, outcome.rays, rate)
        self._hooks.call_after_step(outcome)
        return outcome

    def _optimize(self, decay: float, monitor: TrainingMonitor, interrupt: InterruptFlag) -> StepOutcome:
        """Due pictures and checkpoints, then one optimizer step of all processes.

        Raises:
            NanLossError: float16 overflows at any scale.
            PeerError: another process failed.
        """
        state, several = self._state, self._processes.several
        seconds, count = state.progress.seconds, len(self._objective.losses) + 2
        failure: Exception | None = None
        self._drawn = None
        try:
            if self._hooks.error is not None:
                raise self._hooks.error
            self._outputs.make_due(monitor)
            metrics, rays = self._own_share(decay)
        except Exception as error:
            if not several:
                raise
            failure, rays = error, 0
            metrics = torch.zeros(count, dtype=torch.double, device=self._device)
            state.optimizer.zero_grad(set_to_none=True)
            self._shared.snapshot()
        parameters = state.parameters
        has_gradient = [p.grad is not None for p in parameters.values()]
        status = [seconds, bool(interrupt), failure is not None, self._hooks.stop_reason is not None, *has_gradient]
        row = torch.cat([metrics, send_numbers(status, torch.double, self._device)])
        table = self._processes.gather(row)
        self._processes.sum_gradients(list(parameters.values()))
        self._shared.merge()
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        if state.scaler is not None and gradients:
            state.scaler.unscale_(state.optimizer)
        # The 2-norm runs at memory speed; a norm that overflows is as good a reason to skip as a NaN.
        norms = [n.double() for n in torch._foreach_norm(list(gradients.values()))] if gradients else []
        numbers = torch.cat([table.flatten(), *(norm[None] for norm in norms)]).tolist()  # the one wait for the device
        width = table.shape[1]
        rows = [numbers[rank * width : (rank + 1) * width] for rank in range(self._processes.count)]
        norms_by_name = dict(zip(gradients, numbers[table.numel() :], strict=True))
        return self._apply(rows, norms_by_name, rays, failure, monitor)

    def _own_share(self, decay: float) -> tuple[Float[Tensor, " l"], int]:
        """Draws a batch, renders this process's share and computes its gradients.

        Returns:
            The metrics: weighted losses, squared error, number of samples; and the number of rays of all processes.
        """
        random, several = self._state.random, self._processes.several
        batch, frames, first, rays = self._batches.draw(self._rays.now, random.generator)
        batch, frames_state = batch.to(self._device), self._capture.state(frames).to(self._device)
        self._prepare(frames_state, decay)
        own_numbers = random.share(first, rays) if several else contextlib.nullcontext()
        with own_numbers:
            step = self._state.progress.step
            metrics = self._differentiate(batch, frames_state, frames, step, len(batch) / max(rays, 1))
        assert self._drawn is not None
        samples = self._drawn.rendering.samples
        count = metrics.new_full((1,), 0.0 if samples is None else float(len(samples)))
        pixels = batch.alpha[:1].numel()  # of an image, or one of a ray
        return torch.cat([metrics, count]), rays * max(pixels, 1)

    def _apply(
        self,
        rows: list[list[float]],
        norms: Mapping[str, float],
        rays: int,
        failure: Exception | None,
        monitor: TrainingMonitor,
    ) -> StepOutcome:
        """Checks the step of all processes and updates the parameters.

        Args:
            rows: one per process: L weighted losses, squared error, samples; seconds, whether interrupted, failed,
                stopped; and for each trained parameter whether it has a gradient.
            norms: gradient norms, by parameter.
            rays: number of rays of all processes.
            failure: this process's error.
            monitor: writes the log.
        """
        state, names = self._state, [loss.name for loss in self._objective.losses]
        count = len(names) + 2
        metrics = [math.fsum(row[i] for row in rows) for i in range(count)]
        seconds, interrupted = rows[0][count], any(row[count + 1] for row in rows)
        if any(row[count + 2] for row in rows):
            self._processes.raise_on_all(failure)
        for i, parameter in enumerate(state.parameters.values()):
            if not any(row[count + 4 + i] for row in rows):
                parameter.grad = None  # unused on every process, so the optimizer skips it
        terms = dict(zip(names, metrics, strict=False))
        stopped = any(row[count + 3] for row in rows)
        outcome = StepOutcome(terms, metrics[len(terms)], rays, seconds, interrupted, stopped=stopped)
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        place = _processes_not_finite(rows, [names.index(name) for name in bad])
        not_finite = f"loss {', '.join(bad)}{place}" if bad else ""
        bad = [name for name, value in norms.items() if not math.isfinite(value)]
        if bad and not not_finite and state.scaler is None:
            not_finite = f"gradient of {', '.join(bad)}"
        if not_finite:
            if state.scaler is not None and norms:
                state.scaler.update()  # a NaN lowers the scale as an overflow does
            return dataclasses.replace(outcome, not_finite=not_finite)
        self._overflows = self._overflows + 1 if bad else 0
        if self._overflows > MOST_OVERFLOWS:
            what = f"gradient of {', '.join(bad)}"
            monitor.event("nan", what=what)
            raise NanLossError(
                f"step {state.progress.step}: {what} overflows float16 at any scale; {state.last_good}. Train with "
                "precision='bf16-mixed' or '32-true', or a lower learning rate"
            )
        self._update(has_gradients=bool(norms), checks=self._outputs.has_folder)
        self._rays.follow(rays, metrics[len(terms) + 1])
        return outcome

    def _update(self, has_gradients: bool, checks: bool) -> None:
        """The optimizer's step, and the average's; `checks`: whether the first one's state can be saved."""
        state = self._state
        if state.scaler is None:
            state.optimizer.step()
            if checks and not state.progress.step:
                checkpoint.check_optimizer_state(state.trained, state.optimizer)  # now, and not after a minute
        elif has_gradients:
            state.scaler.step(state.optimizer)  # does nothing where float16 overflowed
            state.scaler.update()
        if state.ema is not None:
            state.ema.update()

    def _skip(self, what: str, monitor: TrainingMonitor) -> None:
        """Undoes and counts a step that is not finite; all processes call it together.

        Raises:
            NanLossError: it is one too many in a row.
        """
        state = self._state
        state.backup.restore()
        state.optimizer.zero_grad(set_to_none=True)
        assert self._drawn is not None
        suspects = self._processes.maximum(self._drawn.suspects())
        frames = self._drawn.frames[(suspects > 0).cpu()] if bool(suspects.any()) else self._drawn.frames
        monitor.event("skipped", what=what, frames=frames.tolist())
        self._count_skipped(state.progress.step, what, frames.tolist(), monitor)


def _processes_not_finite(rows: list[list[float]], columns: list[int]) -> str:
    """The processes with a number that is not finite in one of the columns, for a message."""
    if len(rows) == 1 or not columns:
        return ""
    ranks = [str(rank) for rank, row in enumerate(rows) if any(not math.isfinite(row[i]) for i in columns)]
    return f" (on process {', '.join(ranks)})"
