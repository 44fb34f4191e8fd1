"""Progress bar and log of the training of an avatar."""

import math

from headfields.metrics.image import decibels
from headfields.runs.folder import RunFolder
from headfields.runs.progress import Progress, ProgressMonitor, smoothed
from headfields.training.loggers import Loggers
from headfields.training.processes import Processes


class TrainingMonitor(ProgressMonitor):
    """Bar and log of one call of `Trainer.fit`.

    Args:
        progress: kept up to date by the trainer.
        steps, minutes, rays, processor_minutes: the limits of the run; at least one is given.
        folder: folder of the log; None for no log.
        bar: whether the bar is shown.
        processes: with several, time is that of process 0 as of the last step: a learning rate that follows the clock
            must be the same on all.
        loggers: further logs of the metrics.

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
        processes: Processes,
        loggers: Loggers,
        rays: int | None = None,
        processor_minutes: int | float | None = None,
    ) -> None:
        self._processes, self._shared_seconds = processes, progress.seconds
        super().__init__(progress, steps, minutes, bar, rays, processor_minutes)
        self.folder, self._loggers = folder, loggers
        self.psnr = progress.extra.get("psnr", math.nan)
        self._rays = 0

    @property
    def seconds(self) -> float:
        """The seconds that count against `minutes`, the same on all processes."""
        return self._shared_seconds if self._processes.several else self.progress.seconds

    @property
    def stepped(self) -> bool:
        """Whether this call has taken a step yet."""
        return self._rays > 0

    @property
    def rays_per_second(self) -> float:
        """Over this call."""
        return self._rays / self.elapsed

    def share_seconds(self, seconds: float) -> None:
        """Takes over the seconds of process 0 at the last step."""
        self._shared_seconds = seconds
        if not self._processes.is_first:
            self.progress.seconds = seconds

    def tick(self) -> None:
        """Brings `progress.seconds` up to now, on process 0 alone, unless the clock is stopped."""
        if self._processes.is_first:
            super().tick()

    def after_step(
        self,
        terms: dict[str, float],
        mean_squared_error: float,
        rays: int,
        learning_rate: float,
        step: int | None = None,
    ) -> None:
        """Counts a step, moves the bar, and about once per second writes to the log.

        Args:
            terms: weighted losses by name.
            mean_squared_error: mean squared error of the color, for the training PSNR.
            rays: number of rays.
            learning_rate: learning rate of the step.
            step: number of steps with this one; that of the progress, unless it is read late.
        """
        step = self.progress.step if step is None else step
        self.tick()
        self._rays += rays
        psnr = decibels(mean_squared_error, most=120.0)
        self.psnr = smoothed(self.psnr, psnr, 0.05)
        extra = self.progress.extra
        extra["psnr"] = self.psnr
        extra["best_training_psnr"] = max(self.psnr, extra.get("best_training_psnr", -math.inf))
        extra.setdefault("first_psnr", psnr)
        self.move_bar()
        if not self.log_due(at_end=step == self.progress.step):
            return
        loss, rate = sum(terms.values()), self.rays_per_second
        self.caption(f"loss {loss:.4f}, {self.psnr:.2f} dB, {rate / 1000:.1f}k rays/s")
        metrics = {"psnr": round(self.psnr, 3), "rays_per_second": round(rate), "learning_rate": learning_rate}
        seconds = round(self.progress.seconds, 2)
        if self.folder is not None:
            self.folder.log(step=step, seconds=seconds, loss=loss, terms=terms, **metrics)
        if self._processes.is_first:
            by_name = {f"terms/{name}": value for name, value in terms.items()}
            self._loggers.metrics(step, {"seconds": seconds, "loss": loss, **by_name, **metrics})

    def after_skipped_step(self, rays: int) -> None:
        """Counts a step that was not taken, with its number of rays, and moves the bar."""
        self.tick()
        self._rays += rays
        self.move_bar()

    def event(self, name: str, **entry: object) -> None:
        """Writes an event to the log, with the step, unless `entry` has another, and the seconds."""
        if self.folder is not None:
            own = {"event": name, "step": self.progress.step, "seconds": round(self.progress.seconds, 2)}
            self.folder.log(**own | entry)
