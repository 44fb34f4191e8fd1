"""Progress bar and log.csv of the training of a prior."""

import csv
import io
import math
import re
from collections.abc import Mapping

from headfields.apps.priors.losses import PriorWeights
from headfields.files.reading import reading
from headfields.runs.folder import RunFolder, replace_text, writing
from headfields.runs.progress import Progress, ProgressMonitor, smoothed

COLUMNS = ("step", "seconds", "loss", "rates", *PriorWeights.__dataclass_fields__)


class PriorTrainingLog(ProgressMonitor):
    """Bar and log of one call of `PriorTrainer.fit`.

    log.csv gets a line about once per second: step, seconds, the loss, the factor on the learning rates, and each term,
    weighted. Lines about steps that a resumed run takes again are dropped first.

    Args:
        progress: its `step` is kept up to date by the trainer.
        steps, minutes: the limits of the run.
        folder: folder of the log; None for no log.
        bar: whether the bar is shown.

    Attributes:
        loss: smoothed over about fifty steps; NaN before the first.
    """

    def __init__(
        self, progress: Progress, steps: int | None, minutes: float | int | None, folder: RunFolder | None, bar: bool
    ) -> None:
        super().__init__(progress, steps, minutes, bar)
        self.loss = float(progress.extra.get("loss", math.nan))
        self._path = None if folder is None else folder.path / "log.csv"
        self._first_step = progress.step
        if self._path is not None:
            self._rewind()

    def after_step(self, terms: Mapping[str, float], rates: float, step: int | None = None) -> None:
        """Counts a step with these weighted terms and this factor on the learning rates.

        Args:
            step: how many had been taken after it, if its metrics are read later; None: as many as now.
        """
        self.tick()
        loss = sum(terms.values())
        self.loss = smoothed(self.loss, loss, 0.02)
        self.progress.extra["loss"] = self.loss
        self.move_bar()
        if not self.log_due():
            return
        pace = (self.progress.step - self._first_step) / self.elapsed
        self.caption(f"step {self.progress.step}, loss {self.loss:.4f}, {pace:.1f} steps/s")
        if self._path is not None:
            row = {
                "step": self.progress.step if step is None else step,
                "seconds": round(self.progress.seconds, 2),
                "loss": loss,
                "rates": rates,
            }
            with writing(self._path), open(self._path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, COLUMNS, restval="").writerow(row | dict(terms))

    def after_skipped_step(self) -> None:
        """Counts a step that was not taken, and moves the bar."""
        self.tick()
        self.move_bar()

    def _rewind(self) -> None:
        """Drops the lines after the current step and writes the header."""
        assert self._path is not None
        rows = []
        if self._path.exists():
            with reading(self._path, "a log of training"), open(self._path, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    whole = set(row) == set(COLUMNS) and None not in row.values()
                    if whole and re.fullmatch("[0-9]{1,18}", row["step"]) and int(row["step"]) <= self.progress.step:
                        rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        replace_text(self._path, text.getvalue())
