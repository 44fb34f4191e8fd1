"""Progress of a training run: steps and seconds so far, its limits, and a progress bar."""

import math
import sys
import time
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
    """

    step: int = 0
    seconds: float = 0.0
    best_psnr: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class ProgressMonitor:
    """Clock and progress bar of one call of `fit`; a context manager, so that the bar is closed in any case.

    Args:
        progress: its `step` is kept up to date by the trainer, its `seconds` by `tick`.
        steps, minutes: the limits of the run, counted over resumptions; at least one is given.
        bar: whether the bar is shown on stderr.
    """

    def __init__(self, progress: Progress, steps: int | None, minutes: float | int | None, bar: bool) -> None:
        self.progress, self.steps, self.minutes = progress, steps, minutes
        self._started, self._seconds_before, self._clock_runs = time.perf_counter(), progress.seconds, True
        self._log_due = 0.0
        # There may be no stderr: a closed one, or a program without a console.
        options: dict[str, Any] = {"disable": not bar or sys.stderr is None, "dynamic_ncols": True}
        # A file of a batch system gets a line every ten seconds, not ten per second.
        if sys.stderr is None or not sys.stderr.isatty():
            options |= {"mininterval": 10.0, "maxinterval": 60.0}
        if minutes is None:
            self._bar = tqdm(total=steps, initial=min(progress.step, steps or 0), unit="step", **options)
        else:
            layout = "{percentage:3.0f}%|{bar}| {elapsed} ({remaining} left){postfix}"
            self._bar = tqdm(total=60 * minutes, initial=self._position(), bar_format=layout, **options)

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
        """Fraction of the run done, in [0, 1]: the larger of steps and time."""
        by_steps = 0.0 if self.steps is None else self.progress.step / self.steps if self.steps else 1.0
        by_time = 0.0 if self.minutes is None else self.seconds / (60 * self.minutes) if self.minutes else 1.0
        return min(max(by_steps, by_time), 1.0)

    @property
    def elapsed(self) -> float:
        """Seconds since this call of `fit` began; more than 0."""
        return max(time.perf_counter() - self._started, 1e-9)

    def tick(self) -> None:
        """Brings `progress.seconds` up to now, unless the clock is stopped."""
        if self._clock_runs:
            self.progress.seconds = self._seconds_before + time.perf_counter() - self._started

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
        return self.progress.step if self.minutes is None else self.fraction * 60 * self.minutes


def smoothed(average: float, value: float, weight: float) -> float:
    """An exponential moving average, (1 - weight) · average + weight · value; NaN stands for no average yet.

    >>> from headfields.runs.progress import smoothed
    >>> smoothed(float("nan"), 2.0, 0.1), smoothed(2.0, 4.0, 0.5)
    (2.0, 3.0)
    """
    return value if math.isnan(average) else (1 - weight) * average + weight * value
