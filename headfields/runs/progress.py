"""Progress of a training run: steps and seconds so far, its limits, and a progress bar."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 1.0
"""How often metrics are written to the log."""


class NanLossError(RuntimeError):
    """A loss or a gradient is not finite; the message names the step, the term or parameters, the last checkpoint."""


@dataclass
class Progress:
    """Progress of a training run; part of a checkpoint.

    Attributes:
        step: optimizer steps taken.
        seconds: wall time of training so far, over all resumptions.
        best_psnr: best PSNR of the watched validation frame in dB; None before the first picture.
        extra: whatever else the trainer restores (must be JSON).
        processor_seconds: processor time of this process in training so far, over all its threads and resumptions.
        rays: rays (or pixels of whole images) that steps have rendered so far.
    """

    step: int = 0
    seconds: float = 0.0
    best_psnr: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def processor_seconds(self) -> float:
        return float(self.extra.get("processor_seconds", 0.0))

    @property
    def rays(self) -> int:
        return int(self.extra.get("rays_rendered", 0))

    def count_rays(self, rays: int) -> None:
        """Adds the rays of a step."""
        self.extra["rays_rendered"] = self.rays + rays


class ProgressMonitor:
    """Clock and progress bar of one call of `fit`; a context manager, so that the bar is closed in any case.

    Args:
        progress: its `step` is kept up to date by the trainer, its `seconds` by `tick`.
        steps, minutes: the limits of the run, counted over resumptions; at least one limit is given.
        bar: whether the bar is shown on stderr.
        rays, processor_minutes: further limits; see `Trainer.fit`.
    """

    def __init__(
        self,
        progress: Progress,
        steps: int | None,
        minutes: float | int | None,
        bar: bool,
        rays: int | None = None,
        processor_minutes: float | int | None = None,
    ) -> None:
        self.progress, self.steps, self.minutes = progress, steps, minutes
        self.rays, self.processor_minutes = rays, processor_minutes
        self._started, self._seconds_before, self._clock_runs = time.perf_counter(), progress.seconds, True
        self._processor_before = progress.processor_seconds - time.process_time()
        self._log_due = 0.0
        # There may be no stderr: a closed one, or a program without a console.
        options: dict[str, Any] = {"disable": not bar or sys.stderr is None, "dynamic_ncols": True}
        # A file of a batch system gets a line every ten seconds, not ten per second.
        if sys.stderr is None or not sys.stderr.isatty():
            options |= {"mininterval": 10.0, "maxinterval": 60.0}
        if minutes is rays is processor_minutes is None:
            self._bar = tqdm(total=steps, initial=min(progress.step, steps or 0), unit="step", **options)
        else:
            layout = "{percentage:3.0f}%|{bar}| {elapsed} ({remaining} left){postfix}"
            total = 60.0 if minutes is None else 60 * minutes
            self._bar = tqdm(total=total, initial=self._position(), bar_format=layout, **options)

    def __enter__(self) -> "ProgressMonitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        """The seconds that count against `minutes`."""
        return self.progress.seconds

    @property
    def fraction(self) -> float:
        """Fraction of the run done, in [0, 1]: the largest of those of its limits."""
        progress = self.progress
        shares = (
            (progress.step, self.steps),
            (self.seconds / 60, self.minutes),
            (progress.rays, self.rays),
            (progress.processor_seconds / 60, self.processor_minutes),
        )
        return min(max(0.0 if most is None else spent / most if most else 1.0 for spent, most in shares), 1.0)

    @property
    def elapsed(self) -> float:
        """Seconds since this call of `fit` began; more than 0."""
        return max(time.perf_counter() - self._started, 1e-9)

    def tick(self) -> None:
        """Brings `progress.seconds` up to now, unless the clock is stopped."""
        if self._clock_runs:
            self.progress.seconds = self._seconds_before + time.perf_counter() - self._started
            self.progress.extra["processor_seconds"] = self._processor_before + time.process_time()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within the `with` block takes no time of the run's."""
        self.tick()
        clock, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._started += time.perf_counter() - clock
            self._processor_before -= time.process_time() - processor

    def stop_clock(self) -> None:
        """Ends the training time; `tick` changes nothing from now on."""
        self.tick()
        self._clock_runs = False

    def move_bar(self) -> None:
        """Moves the bar to the current step or second."""
        self._bar.update(self._position() - self._bar.n)

    def caption(self, text: str) -> None:
        """The text behind the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def log_due(self, at_end: bool = False) -> bool:
        """Whether a line of the log is due: once per second, and with `at_end` also when the run is over."""
        now = time.perf_counter()
        if now < self._log_due and not (at_end and self.fraction >= 1):
            return False
        self._log_due = now + LOG_SECONDS
        return True

    def _position(self) -> float | int:
        if self.minutes is self.rays is self.processor_minutes is None:
            return self.progress.step
        return self.fraction * (60.0 if self.minutes is None else 60 * self.minutes)


def smoothed(average: float, value: float, weight: float) -> float:
    """An exponential moving average, (1 - weight) · average + weight · value; NaN stands for no average yet.

    >>> from headfields.runs.progress import smoothed
    >>> smoothed(float("nan"), 2.0, 0.1), smoothed(2.0, 4.0, 0.5)
    (2.0, 3.0)
    """
    return value if math.isnan(average) else (1 - weight) * average + weight * value
