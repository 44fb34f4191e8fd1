"""What can be seen of the training of a prior while it goes on: a bar, and log.csv."""

import csv
import io
import math
import sys
import time
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from headfields.priors.losses import PriorWeights
from headfields.runs.checkpoint import Progress
from headfields.runs.disk_names import to_disk
from headfields.runs.folder import RunFolder, replace_text, writing

LOG_SECONDS = 1.0
COLUMNS = ("step", "seconds", "loss", "rates", *to_disk(PriorWeights.__dataclass_fields__))


class PriorTrainingLog:
    """Bar and log of one call of `PriorTrainer.fit`; a context manager, so that the bar is closed whatever happens.

    log.csv gets a line about once a second: step, seconds, the loss, what learning rates are multiplied by, and each
    term, weighted. Lines about steps that a resumed run takes again are dropped first.

    Args:
        progress: kept up to date: its seconds run while the monitor is open.
        steps, minutes: the limits of the run.
        folder: where the log goes; None for none.
        bar: whether the bar is shown.

    Attributes:
        loss: smoothed over about fifty steps; NaN before the first.
    """

    def __init__(
        self, progress: Progress, steps: int | None, minutes: float | int | None, folder: RunFolder | None, bar: bool
    ) -> None:
        self.progress, self.steps, self.minutes = progress, steps, minutes
        self.loss = float(progress.extra.get("loss", math.nan))
        self._path = None if folder is None else folder.path / "log.csv"
        self._before, self._began, self._due = progress.seconds, time.perf_counter(), 0.0
        self._first = progress.step
        if self._path is not None:
            self._rewind()
        looks: dict[str, Any] = {"disable": not bar, "dynamic_ncols": True}
        if not sys.stderr.isatty():
            looks |= {"mininterval": 10.0, "maxinterval": 60.0}
        if minutes is None:
            self._bar = tqdm(total=steps, initial=progress.step, unit="step", **looks)
        else:
            layout = "{percentage:3.0f}%|{bar}| {elapsed} ({remaining} left){postfix}"
            self._bar = tqdm(
                total=60 * minutes, initial=min(progress.seconds, 60 * minutes), bar_format=layout, **looks
            )

    def __enter__(self) -> "PriorTrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def clock(self) -> None:
        """Brings `progress.seconds` up to now."""
        self.progress.seconds = self._before + time.perf_counter() - self._began

    def after_step(self, terms: dict[str, float], rates: float) -> None:
        """Counts a step with these weighted terms and this factor of the learning rates."""
        self.clock()
        loss = sum(terms.values())
        self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
        self.progress.extra["loss"] = self.loss
        place = self.progress.step if self.minutes is None else min(self.progress.seconds, 60 * self.minutes)
        self._bar.update(place - self._bar.n)
        now = time.perf_counter()
        if now < self._due:
            return
        self._due = now + LOG_SECONDS
        pace = (self.progress.step - self._first) / max(now - self._began, 1e-9)
        self._bar.set_postfix_str(f"step {self.progress.step}, loss {self.loss:.4f}, {pace:.1f} steps/s", refresh=False)
        if self._path is not None:
            row = {"step": self.progress.step, "seconds": round(self.progress.seconds, 2), "loss": loss, "rates": rates}
            with writing(self._path), open(self._path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, COLUMNS, restval="").writerow(row | to_disk(terms))

    def _rewind(self) -> None:
        """The log as it was at this step, with its header."""
        assert self._path is not None
        kept = []
        if self._path.exists():
            with open(self._path, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    whole = set(row) == set(COLUMNS) and None not in row.values()
                    if whole and row["step"].isdigit() and int(row["step"]) <= self.progress.step:
                        kept.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        replace_text(self._path, text.getvalue())
