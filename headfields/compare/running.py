"""Running a study: trials and cells here or through an executor, looks, the report; a second try of a cell."""

import concurrent.futures
import contextlib
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from headfields.compare.cells import (
    Cell,
    ChangedCodeError,
    InterruptedCell,
    cells_of,
    check_primary,
    chosen_factors,
    misfits,
    run_cell,
    trials_of,
)
from headfields.compare.report import content, summary, write_report
from headfields.compare.statistics import Difference, is_narrow
from headfields.compare.study import Study
from headfields.runs.interrupts import end_with_parent
from headfields.runs.lock import RunLockedError

_WAIT = 2.0
"""Seconds between looks at cells that another coordinator has."""
_POLL = 0.1
"""Seconds between looks at cells that an executor runs."""
MOST_DEATHS = 3
"""Times in a row that workers may die without a cell done in between."""
_DEATHS = ("UncompletedJobError", "KilledWorker")
"""Errors by which submitit and Dask say that a worker has died."""


def run_study(
    study: Study,
    out: Path | str,
    executor: Any = None,
    workers: int = 1,
    device: str = "cpu",
    bar: bool = True,
) -> dict[str, Any]:
    """Trains and measures the cells of a study that are not done, and writes its report.

    A cell that is done is never done again, and one that was stopped goes on from its checkpoint, so that a killed call
    is simply made again. Several calls on one folder share the cells. A cell that fails is reported, and the others go
    on.

    Args:
        study: the study.
        out: folder of cells and report.
        executor: a `concurrent.futures.Executor`, or what has its `submit`, such as submitit's; see
            `headfields.compare.executors`. None: `workers` processes, or this one.
        workers: number of processes here; a script with more than one calls this below `if __name__ == "__main__":`.
        device: of the cells.
        bar: show progress on stderr.

    Returns:
        What report.json holds. `failed` has the reason by cell.

    Raises:
        ValueError: no row can be built, or the baseline cannot; or no cell will have the primary measure.
        InterruptedCell: Ctrl-C; what is done is kept.
        ChangedCodeError: code has changed while the study ran.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker reads the script that started it
        raise SystemExit('run_study: workers read this script; put the call below `if __name__ == "__main__":`')
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    check_primary(study)
    without = dict(misfits(study))
    for name, reason in without.items():
        print(f"headfields: row {name!r} cannot be built: {reason}", file=sys.stderr)
    if study.baseline in without:
        raise ValueError(f"the baseline {study.baseline!r} cannot be built: {without[study.baseline]}")
    failed: dict[str, str] = {}
    trials = [cell for cell in trials_of(study, device) if cell.row not in without]
    factors = None
    with _engine(executor, workers) as engine:
        if trials:
            failed |= _run(trials, out, engine, bar, "trials")
            factors = chosen_factors(study, trials, out)
        for look, seeds in enumerate(study.looks):
            cells = [cell for cell in cells_of(study, device, factors, seeds) if cell.row not in without]
            failed |= _run(cells, out, engine, bar, "cells")
            if look + 1 < len(study.looks) and _is_narrow(study, content(study, cells, out, without)):
                break
    return write_report(study, cells, out, without, trials, failed)


def _is_narrow(study: Study, found: dict[str, Any]) -> bool:
    """Whether every row's interval of the primary measure is narrower than the margin to either side."""
    rows = [row["differences"].get(study.primary) for row in found["rows"].values() if "verdict" in row]
    assert study.margin is not None
    return None not in rows and is_narrow([Difference(**row) for row in rows], study.margin)


def _start_worker(threads: int) -> None:
    """A worker computes with this many threads, and ends when the coordinator does: its cell goes on the next time."""
    end_with_parent()
    torch.set_num_threads(threads)


class _Processes:
    """Processes of this machine; new ones where one has died, a few times in a row."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def submit(self, function: Any, *arguments: Any) -> Any:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            threads = max(1, torch.get_num_threads() // self.workers)
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.workers, context, initializer=_start_worker, initargs=(threads,)
            )
        return self._pool.submit(function, *arguments)

    def renew(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@contextlib.contextmanager
def _engine(executor: Any, workers: int) -> Iterator[Any]:
    """The given executor, or own processes, or None for this process."""
    if executor is not None or workers == 1:
        yield executor
        return
    processes = _Processes(workers)
    try:
        yield processes
    finally:
        processes.renew()


def _run(cells: Sequence[Cell], out: Path, engine: Any, bar: bool, unit: str) -> dict[str, str]:
    """Runs the cells that are not done; the reasons of those that failed, by cell."""
    todo = [cell for cell in cells if cell.done(out) is None]
    with tqdm(total=len(cells), initial=len(cells) - len(todo), unit=unit[:-1], disable=not bar) as progress:
        return _here(todo, out, progress) if engine is None else _through(engine, todo, out, progress)


def attempt(cell: Cell, out: Path, key: str = "") -> bool:
    """Runs a cell; False if another process has it. For an executor, which may pass errors on as its own.

    Raises:
        ChangedCodeError: the cell has another key here, since its files have changed: its result would not be found.
    """
    if key and key != cell.key():
        raise ChangedCodeError(
            "a file of the library, the study or a capture has changed since the command started, or workers have "
            "another version: what is done is kept; start the command again"
        )
    try:
        run_cell(cell, out)
    except RunLockedError:
        return False
    return True


def _here(todo: list[Cell], out: Path, progress: Any) -> dict[str, str]:
    """Runs cells one after the other; those of another coordinator at the end, if it has left them."""
    failed: dict[str, str] = {}
    while todo:
        elsewhere = []
        for cell in todo:
            progress.set_postfix_str(str(cell), refresh=False)
            try:
                if attempt(cell, out):
                    progress.update()
                else:
                    elsewhere.append(cell)
            except InterruptedCell:
                raise
            except Exception as error:  # whatever a row raises, the other rows go on
                _note(failed, cell, error, progress)
        if len(elsewhere) == len(todo):
            time.sleep(_WAIT)
        todo = elsewhere
    return failed


def _through(engine: Any, todo: list[Cell], out: Path, progress: Any) -> dict[str, str]:
    """Gives cells to an executor, those again that another coordinator had or whose worker has died.

    Futures are polled, because those of submitit are none of `concurrent.futures`.
    """
    failed: dict[str, str] = {}
    deaths = 0
    while todo:
        again: list[Cell] = []
        running: dict[Any, Cell] = {}
        death: BaseException | None = None
        queue, finished, most = list(todo), 0, getattr(engine, "limit", len(todo))
        while running or queue:
            while queue and len(running) < most:
                try:
                    future = engine.submit(attempt, queue[0], out, queue[0].key())
                    running[future] = queue.pop(0)
                except concurrent.futures.BrokenExecutor as error:  # a worker has died meanwhile
                    death, again, queue = error, again + queue, []
            ended = [future for future in running if future.done()]
            for future in ended:
                cell = running.pop(future)
                try:
                    if future.result():
                        progress.update()
                        finished += 1
                    else:
                        again.append(cell)
                except (InterruptedCell, ChangedCodeError):
                    raise
                except Exception as error:
                    if isinstance(error, concurrent.futures.BrokenExecutor) or type(error).__name__ in _DEATHS:
                        again.append(cell)
                        death = error
                    else:
                        _note(failed, cell, error, progress)
            if not ended:
                time.sleep(_POLL)
        if death is not None:
            deaths = 1 if finished else deaths + 1
            if deaths > MOST_DEATHS:
                raise RuntimeError(
                    f"run_study: workers died {deaths} times in a row; what they printed last says why, and a machine "
                    "out of memory kills them in silence (fewer workers)"
                ) from death
            if hasattr(engine, "renew"):
                engine.renew()
        elif again and not finished:
            time.sleep(_WAIT)
        todo = again
    return failed


def _note(failed: dict[str, str], cell: Cell, error: Exception, progress: Any) -> None:
    failed[str(cell)] = f"{type(error).__name__}: {error}"
    progress.write(f"headfields: {cell} failed: {failed[str(cell)]}", file=sys.stderr)


class Verification(NamedTuple):
    """What a second try of a cell has shown.

    Attributes:
        line: the cell, both scores, and what follows from them.
        same: whether the score came back; None if nothing says how far two runs may lie apart.
    """

    line: str
    same: bool | None


_SURE = 0.99
"""Probability with which two runs of one row differ by less than the tolerance of a budget in seconds."""


def verify(
    study: Study, out: Path | str, scratch: Path | str, seed: int | None = None, device: str = "cpu"
) -> Verification:
    """Runs a random cell again, in an empty folder, and says whether its score comes back.

    A budget of steps or rays gives the same bits on the same machine, so the scores have to be equal. One of seconds
    gives another number of steps each time, since that depends on what else the machine does: the scores have to be as
    near as two runs of the row with other seeds are, in 99 of 100 cases by Student's t. With one seed nothing is known
    of that.

    Args:
        study, out: a study that has run.
        scratch: an empty folder.
        seed: chooses the cell; None: any.
        device: of the cell.

    Raises:
        ValueError: no cell is done.
    """
    results = ((cell, cell.done(Path(out))) for cell in done_cells(study, Path(out), device))
    done = [
        (cell, result) for cell, result in results if result and any(study.primary in row for row in result["frames"])
    ]
    if not done:
        raise ValueError(nothing_done(out, device))
    cell, first = random.Random(seed).choice(done)
    second = run_cell(cell, scratch)
    before, again = (summary(result, study.primary) for result in (first, second))
    said = f"{cell}: {study.primary} was {before:.4f} and is {again:.4f}"
    if before == again:
        return Verification(f"{said}: the same", True)
    said += f": {again - before:+.4f} apart"
    if not study.is_timed:
        what = study.budget_of(cell.row)[0]
        return Verification(
            f"{said}; a budget of {what} gives the same bits on one machine with one number of threads", False
        )
    steps = [result["cost"].get("steps") for result in (first, second)]
    if None not in steps:
        said += f" after {steps[0]:,.0f} and {steps[1]:,.0f} steps"
    runs: dict[str, list[float]] = {}
    for other, result in done:
        if (other.row, other.condition) == (cell.row, cell.condition):
            runs.setdefault(other.capture, []).append(summary(result, study.primary))
    freedom = sum(len(scores) - 1 for scores in runs.values())
    if not freedom:
        return Verification(
            f"{said}; a budget of seconds takes another number of steps each time, and one seed does not say how far "
            "two runs of this row lie apart",
            None,
        )
    squares = sum(
        (np.array(scores) - np.mean(scores)) @ (np.array(scores) - np.mean(scores)) for scores in runs.values()
    )
    tolerance = float(stats.t.ppf((1 + _SURE) / 2, freedom) * math.sqrt(2 * squares / freedom))
    same = abs(again - before) <= tolerance
    where, count = "within" if same else "beyond", sum(map(len, runs.values()))
    return Verification(
        f"{said}, {where} the ±{tolerance:.4f} by which two runs of this row differ ({_SURE:.0%}, of {count} cells): "
        "a budget of seconds takes another number of steps each time",
        same,
    )


def nothing_done(out: Path | str, device: str) -> str:
    """What to say of a folder without a finished cell of a study."""
    others = len(list(Path(out).glob("cells/*/result.json")))
    rest = f"; {others} cells there are of other code, options, data or versions" if others else ""
    return f"{out} has no finished cell of this study on {device}{rest}; run it first"


def done_cells(study: Study, out: Path, device: str = "cpu") -> list[Cell]:
    """The cells of a study that there may be results of: those of its last look, with the rates that trials chose."""
    trials = trials_of(study, device)
    factors = chosen_factors(study, trials, out) if trials else None
    return cells_of(study, device, factors, study.looks[-1])
