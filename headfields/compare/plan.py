"""What a study will cost, by a short trial of each row, and the seeds that would see a difference, before it runs."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headfields.compare.cells import Cell, cells_of, check_primary, made, misfits, opened, training_options, trials_of
from headfields.compare.report import content
from headfields.compare.running import done_cells
from headfields.compare.statistics import seeds_needed
from headfields.compare.strata import stratum_frames
from headfields.compare.study import Study
from headfields.training.frames import choose_frames, render_frame
from headfields.training.opened_run import trainer_of

STEPS = (3, 8)
"""Steps of a trial: those that only warm up, and those that are timed."""
SEEN = 0.2
"""The difference in the primary measure that a study is planned for."""


def plan_of(study: Study, out: Path | str, device: str = "cpu") -> Iterator[str]:
    """Lines on a study: what cannot be built, cells to run, their cost, and the seeds that see a difference of 0.2.

    The cost is that of finished cells of the row, else of a trial of eleven steps on the first capture, in processor
    seconds (wall time on a GPU). Rates by step change while a field learns what is empty, so it is a rough one.
    """
    out = Path(out)
    check_primary(study)
    without = misfits(study)
    for name, reason in without.items():
        yield f"cannot be built: {name}: {reason}"
    trials = [cell for cell in trials_of(study, device) if cell.row not in without]
    tuned = done_cells(study, out, device)
    factors = {(cell.row, cell.pair): cell.factor for cell in tuned}
    cells = [cell for cell in cells_of(study, device) if cell.row not in without]
    known = [replace(cell, factor=factors.get((cell.row, cell.pair), cell.factor)) for cell in cells]
    finished = [cell.done(out) for cell in (*trials, *known)]
    waiting = [cell for cell, result in zip((*trials, *known), finished, strict=True) if result is None]
    for cell in waiting:
        yield str(cell)
    yield f"{len(waiting)} of {len(finished)} cells to run, {study.stated_budget} each"
    total = 0.0
    for name in study.rows:
        todo = sum(cell.row == name for cell in waiting)
        if name in without or not todo:
            continue
        costs = [_whole(result) for result in finished if result is not None and result["row"] == name]
        if not costs and study.rows[name].run is not None:
            yield f"{name}: {todo} cells, whose cost is known when one of them is finished"
            continue
        if costs:
            seconds, how = sum(costs) / len(costs), f"as {len(costs)} finished"
        else:
            try:
                seconds, how = short_trial(Cell(study, name, str(study.captures[0]), 0, device))
            except Exception as error:  # whatever a composition raises in its first steps
                yield f"{name}: fails in its first steps: {type(error).__name__}: {error}"
                continue
        total += seconds * todo
        yield f"{name}: {todo} cells of about {_duration(seconds)}, {how}"
    if total:
        yield f"about {_duration(total)} of {'processor' if device == 'cpu' else 'GPU'} time"
    yield from _seeds(study, out, [cell for cell in tuned if cell.done(out) is not None], without)


class _Spent:
    """Processor seconds, seconds and rays of a run, after each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, int]] = []

    def on_step(self, trainer: Any, outcome: Any) -> None:
        progress = trainer.progress
        self.steps.append((progress.processor_seconds, progress.seconds, progress.rays + outcome.rays))


def short_trial(cell: Cell) -> tuple[float, str]:
    """Seconds that a cell will take with its measuring, from a few steps and one rendering, and what was seen."""
    study, (what, amount) = cell.study, cell.study.budget_of(cell.row)
    source, _ = opened(study, cell.capture)
    torch.manual_seed(cell.seed)
    avatar, recipe = made(study, cell.spec, source)
    recipe.start(avatar, source)
    options = training_options(cell, recipe, avatar)
    on_gpu, spent = torch.device(cell.device).type == "cuda", _Spent()
    further = {"device": cell.device, "bar": False, "callbacks": [spent]}
    trainer = trainer_of(recipe, avatar, source, options, cell.seed, further)
    trainer.fit(steps=sum(STEPS))
    before, after = spent.steps[STEPS[0] - 1], spent.steps[-1]
    step, rays = (after[on_gpu] - before[on_gpu]) / STEPS[1], (after[2] - before[2]) / STEPS[1]
    count = sum(len(stratum_frames(study, stratum, source)[1]) for stratum in study.strata)
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    first = choose_frames(source, study.split)[0]
    render_frame(trainer.avatar, source, first, study.background, torch.device(cell.device))
    frame = clock() - started
    training = {"steps": amount * step, "rays": amount / max(rays, 1) * step, "seconds": float(amount)}[what]
    return training + count * frame, f"{1000 * step:.0f} ms a step, {frame:.2g} s a frame, by a trial"


def _whole(result: Any) -> float:
    cost = result["cost"]
    return float(cost["processor seconds"] + len(result["frames"]) * cost.get("seconds per frame", 0.0))


def _seeds(study: Study, out: Path, done: list[Cell], without: Any) -> Iterator[str]:
    """The seeds that would see the difference, by the deviation of finished pairs."""
    rows: Any = {}
    if done:
        try:
            rows = content(study, done, out, without)["rows"]
        except ValueError:  # no cell has the primary measure, which the report says
            rows = {}
    known = {name: row["differences"][study.primary] for name, row in rows.items()
             if study.primary in row["differences"] and row["differences"][study.primary]["deviation"] > 0}  # fmt: skip
    if not known:
        yield f"two seeds of a row and the baseline have to be done before it is known how many see {SEEN}"
    for name, difference in known.items():
        needed = seeds_needed(difference["deviation"], SEEN, len(study.captures), len(known), study.level)
        yield f"{name}: {needed} seeds see {SEEN} in {study.primary} (deviation {difference['deviation']:.2f})"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
