"""Running a study: its cells here or through an executor, the report, and a second look at one cell."""

import concurrent.futures
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from headfields.compare.cells import Cell, cells_of, misfits, run_cell
from headfields.compare.report import summary, write_report
from headfields.compare.study import Study
from headfields.runs.lock import RunLockedError

_WAIT = 2.0
"""Seconds between looks at cells that another coordinator has."""


def run_study(
    study: Study,
    out: Path | str,
    executor: concurrent.futures.Executor | None = None,
    workers: int = 1,
    device: str = "cpu",
    bar: bool = True,
) -> dict[str, Any]:
    """Trains and measures the cells of a study that are not done, and writes its report.

    A cell that is done is never done again, and one that was stopped goes on from its checkpoint, so that a killed call
    is simply made again. Several calls on one folder share the cells.

    Args:
        study: the study.
        out: folder of cells and report.
        executor: runs `run_cell`; processes of a cluster, say. None: `workers` processes, or this one.
        workers: number of processes here.
        device: of the cells.
        bar: show progress on stderr.

    Returns:
        What report.json holds.

    Raises:
        ValueError: no row can be built, or the baseline cannot.
        InterruptedCell: Ctrl-C; what is done is kept.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    without = dict(misfits(study))
    for name, reason in without.items():
        print(f"headfields: row {name!r} cannot be built: {reason}", file=sys.stderr)
    if study.baseline in without:
        raise ValueError(f"the baseline {study.baseline!r} cannot be built: {without[study.baseline]}")
    cells = [cell for cell in cells_of(study, device) if cell.row not in without]
    todo = [cell for cell in cells if cell.done(out) is None]
    with tqdm(total=len(cells), initial=len(cells) - len(todo), unit="cell", disable=not bar) as progress:
        if executor is None and workers > 1:
            context = multiprocessing.get_context("spawn")
            threads = max(1, torch.get_num_threads() // workers)
            with concurrent.futures.ProcessPoolExecutor(
                workers, context, initializer=torch.set_num_threads, initargs=(threads,)
            ) as own:
                _through(own, todo, out, progress)
        elif executor is not None:
            _through(executor, todo, out, progress)
        else:
            _here(todo, out, progress)
    return write_report(study, cells, out, without)


def _here(todo: list[Cell], out: Path, progress: Any) -> None:
    """Runs cells one after the other; those of another coordinator at the end, if it has left them."""
    while todo:
        taken = []
        for cell in todo:
            progress.set_postfix_str(str(cell), refresh=False)
            try:
                run_cell(cell, out)
                progress.update()
            except RunLockedError:
                taken.append(cell)
        if len(taken) == len(todo):
            time.sleep(_WAIT)
        todo = taken


def _through(executor: concurrent.futures.Executor, todo: list[Cell], out: Path, progress: Any) -> None:
    """Gives cells to an executor, those again that another coordinator had."""
    while todo:
        running = {executor.submit(run_cell, cell, out): cell for cell in todo}
        taken = []
        for future in concurrent.futures.as_completed(running):
            try:
                future.result()
                progress.update()
            except RunLockedError:
                taken.append(running[future])
        if len(taken) == len(todo):
            time.sleep(_WAIT)
        todo = taken


def verify(study: Study, out: Path | str, scratch: Path | str, seed: int | None = None, device: str = "cpu") -> str:
    """Runs a random cell again, in an empty folder, and says whether its score comes back.

    Args:
        study, out: a study that has run.
        scratch: an empty folder.
        seed: chooses the cell; None: any.
        device: of the cell.

    Raises:
        ValueError: no cell is done.
    """
    done = [
        cell
        for cell in cells_of(study, device)
        if any(study.primary in row for row in (cell.done(Path(out)) or {"frames": []})["frames"])
    ]
    if not done:
        raise ValueError(f"{out} has no finished cell of this study on {device}; run it first")
    cell = random.Random(seed).choice(done)
    before = summary(cell.done(Path(out)) or {}, study.primary)
    again = summary(run_cell(cell, scratch), study.primary)
    same = "the same" if before == again else f"{again - before:+.4f} apart"
    return f"{cell}: {study.primary} was {before:.4f} and is {again:.4f}: {same}"
