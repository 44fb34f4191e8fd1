"""What can be seen of a run while it goes on: a progress bar, and lines in the log."""

import math
import sys
import time
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from headfields.runs.checkpoint import Progress
from headfields.runs.folder import RunFolder
from headfields.training.ranks import Ranks

LOG_SECONDS = 1.0


class Monitor:
    """Bar and log of one call of `Trainer.fit`; a context manager, so that the bar is closed whatever happens.

    Args:
        progress: kept up to date by the trainer.
        steps, minutes: the limits of the run; at least one is given.
        folder: where the log goes; None for none.
        bar: whether the bar is shown.
        ranks: with several processes, how far the run is counts by the clock of process 0, as of the last step: a
            learning rate that follows the clock must be the same on all.

    Attributes:
        psnr: training PSNR in dB, smoothed over about twenty steps; NaN before the first.
    """

    def __init__(
        self,
        progress: Progress,
        steps: int | None,
        minutes: int | float | None,
        folder: RunFolder | None,
        bar: bool,
        ranks: Ranks,
    ) -> None:
        self.progress, self.folder, self._ranks = progress, folder, ranks
        self.steps, self.minutes = steps, minutes
        self.psnr = progress.extra.get("psnr", math.nan)
        self._began = time.perf_counter()
        self._before = self._agreed = progress.seconds
        self._rays = 0
        self._running = True
        self._log_due = 0.0
        looks: dict[str, Any] = {"disable": not bar, "dynamic_ncols": True}
        if not sys.stderr.isatty():  # a file of a batch system: a line every ten seconds, not ten a second
            looks |= {"mininterval": 10.0, "maxinterval": 60.0}
        if minutes is None:
            self._bar = tqdm(total=steps, initial=min(progress.step, steps or 0), unit="step", **looks)
        else:
            layout = "{percentage:3.0f}%|{bar}| {elapsed} ({remaining} left){postfix}"
            self._bar = tqdm(total=60 * minutes, initial=self._amount(), bar_format=layout, **looks)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def fraction(self) -> float:
        """How much of the run is over, in [0, 1]: by steps or by time, whichever is further."""
        by_steps = 0.0 if self.steps is None else self.progress.step / self.steps if self.steps else 1.0
        seconds = self._agreed if self._ranks.several else self.progress.seconds
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes) if self.minutes else 1.0
        return min(max(by_steps, by_time), 1.0)

    @property
    def stepped(self) -> bool:
        """Whether this call has taken a step yet."""
        return self._rays > 0

    @property
    def rays_per_second(self) -> float:
        """Over this call."""
        return self._rays / max(time.perf_counter() - self._began, 1e-9)

    def agree(self, seconds: float) -> None:
        """What process 0 had in `progress.seconds` when the last step was put together."""
        self._agreed = seconds
        if not self._ranks.first:
            self.progress.seconds = seconds

    def clock(self) -> None:
        """Brings `progress.seconds` up to now, unless the clock has been stopped; it runs on process 0 alone."""
        if self._running and self._ranks.first:
            self.progress.seconds = self._before + time.perf_counter() - self._began

    def stop_clock(self) -> None:
        """What comes now is no longer training time."""
        self.clock()
        self._running = False

    def after_step(self, terms: dict[str, float], mean_squared_error: float, rays: int, learning_rate: float) -> None:
        """Counts a step, moves the bar, and about once a second writes to the log.

        Args:
            terms: weighted losses by name.
            mean_squared_error: of the color, for the training PSNR.
            rays: how many.
            learning_rate: of the step.
        """
        self.clock()
        self._rays += rays
        psnr = -10 * math.log10(max(mean_squared_error, 1e-12))
        self.psnr = psnr if math.isnan(self.psnr) else 0.95 * self.psnr + 0.05 * psnr
        self.progress.extra["psnr"] = self.psnr
        self._bar.update(self._amount() - self._bar.n)
        now = time.perf_counter()
        if now < self._log_due and self.fraction < 1:
            return
        self._log_due = now + LOG_SECONDS
        loss = sum(terms.values())
        rate = self.rays_per_second
        self._bar.set_postfix_str(f"loss {loss:.4f}, {self.psnr:.2f} dB, {rate / 1000:.1f}k rays/s", refresh=False)
        if self.folder is not None:
            self.folder.log(
                step=self.progress.step,
                seconds=round(self.progress.seconds, 2),
                loss=loss,
                terms=terms,
                psnr=round(self.psnr, 3),
                rays_per_second=round(rate),
                learning_rate=learning_rate,
            )

    def event(self, name: str, **entry: object) -> None:
        """Writes an event to the log, with the step and the seconds."""
        if self.folder is not None:
            self.folder.log(event=name, step=self.progress.step, seconds=round(self.progress.seconds, 2), **entry)

    def _amount(self) -> int | float:
        if self.minutes is None:
            return self.progress.step
        return self.fraction * 60 * self.minutes
