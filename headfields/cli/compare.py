"""`headfields compare`: a study of rows that differ in one thing each, with verdicts."""

import tempfile
from pathlib import Path
from typing import Annotated

import tyro

from headfields.cli.argument_types import Folder
from headfields.cli.errors import CommandError, Interrupted


def compare(
    study: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY.toml")],
    /,
    out: Folder,
    capture: tuple[Path, ...] = (),
    plan: bool = False,
    verify: bool = False,
    workers: int = 1,
    device: str = "cpu",
) -> None:
    """Compare avatars on equal footing: train every row of a study on every capture with every seed, and decide.

    OUT gets report.html with table, verdicts and pictures, report.json, table.tex and frames.csv with every frame's
    scores. A cell that is done is not done again, so the same command goes on after it was stopped, and several
    machines that share OUT share the work. A cell is done again when the library's or the study's code, its options or
    the capture change.

    Args:
        study: The study; see the page on comparisons.
        out: Folder of cells and report.
        capture: Folders of captures, in place of the study's.
        plan: Print the cells and rows that cannot be built, and train nothing.
        verify: Run a random finished cell again and say whether its score comes back.
        workers: Processes that train side by side.
        device: cpu, cuda, cuda:1, ...
    """
    from headfields.compare import Study
    from headfields.compare.cells import InterruptedCell, cells_of, misfits
    from headfields.compare.running import run_study
    from headfields.compare.running import verify as verify_cell

    if workers < 1:
        raise CommandError(f"--workers is {workers}; expected 1 or more")
    asked = Study.load(study, capture)
    if plan:
        cells = cells_of(asked, device)
        waiting = [cell for cell in cells if cell.done(out) is None]
        for name, reason in misfits(asked).items():
            print(f"cannot be built: {name}: {reason}")
        for cell in waiting:
            print(cell)
        budget = f"{asked.steps} steps" if asked.steps else f"{asked.seconds} s"
        print(f"{len(waiting)} of {len(cells)} cells to run, {budget} each")
        return
    if verify:
        with tempfile.TemporaryDirectory() as scratch:
            print(verify_cell(asked, out, scratch, device=device))
        return
    try:
        found = run_study(asked, out, workers=workers, device=device)
    except InterruptedCell as interruption:
        raise Interrupted(str(interruption)) from interruption
    for name, row in found["rows"].items():
        difference = row["differences"].get(found["primary"])
        by = "" if difference is None else f", {difference['mean']:+.3f}: {row['verdict']}"
        print(f"{name}: {found['primary']} {row['scores'][found['primary']]['mean']:.3f}{by}")
    print(out / "report.html")
