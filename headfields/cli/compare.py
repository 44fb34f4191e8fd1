"""`headfields compare`: a study of rows that differ in one thing each, with verdicts."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import Folder
from headfields.cli.errors import CommandError, Interrupted


def compare(
    study: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY.toml")],
    /,
    out: Folder,
    capture: tuple[Path, ...] = (),
    plan: bool = False,
    steps: bool = False,
    verify: bool = False,
    workers: int = 1,
    device: str = "cpu",
    engine: Literal["here", "submitit", "dask"] = "here",
    engine_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = (),
    figures_from: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None,
    figures_to: Annotated[Path | None, tyro.conf.arg(name="export", metavar="FOLDER")] = None,
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
        plan: Print cells, rows that cannot be built, what the cells cost by a short trial, and the seeds that would see
            a difference of 0.2; train nothing.
        steps: Print the steps of each row's finished cells, as a table [steps_by_row] for a study in seconds that then
            takes as many on any machine; train nothing.
        verify: Run a random finished cell again and say whether its score comes back: to the bit with a budget of steps
            or rays; with one of seconds, as near as seeds are. Fails if it does not.
        workers: Processes that train side by side.
        device: cpu, cuda, cuda:1, ...
        engine: What runs the cells: processes here, jobs of SLURM (submitit), or a cluster of Dask.
        engine_options: Of the engine, as timeout_min=60 slurm_partition=gpu, or address=tcp://host:8786 of Dask.
        figures_from: Take over finished cells from this folder first, as --export wrote them.
        figures_to: Write the figures of finished cells to this folder, without what was trained, and train nothing.
    """
    from headfields.compare import Study
    from headfields.compare.cells import ChangedCodeError, InterruptedCell
    from headfields.compare.exported_cells import export_figures, import_figures
    from headfields.compare.plan import plan_of
    from headfields.compare.report import lines
    from headfields.compare.running import run_study
    from headfields.compare.running import verify as verify_cell

    if workers < 1:
        raise CommandError(f"--workers is {workers}; expected 1 or more")
    options = dict(_option(text) for text in engine_options)
    if options and engine == "here":
        raise CommandError("--engine-options are those of --engine submitit or dask")
    asked = Study.load(study, capture)
    if figures_from is not None:
        imported, unknown = import_figures(asked, figures_from, out, device)
        rest = f"; {unknown} are of other code, options, data or versions" if unknown else ""
        print(f"{imported} finished cells taken over from {figures_from}{rest}")
    if figures_to is not None:
        print(f"{export_figures(asked, out, figures_to, device)} finished cells written to {figures_to}")
        return
    if plan:
        for line in plan_of(asked, out, device):
            print(line)
        return
    if steps:
        print(_steps_table(asked, out, device))
        return
    if verify:
        with tempfile.TemporaryDirectory() as scratch:
            verification = verify_cell(asked, out, scratch, device=device)
        if verification.same is False:
            raise CommandError(verification.line)
        print(verification.line)
        return
    try:
        with contextlib.ExitStack() as stack:
            executor: Any = None
            if engine != "here":
                from headfields.compare.executors import executor_of

                try:
                    executor = stack.enter_context(executor_of(engine, out, workers, options))
                except ModuleNotFoundError as error:
                    raise CommandError(str(error)) from error
            report = run_study(asked, out, executor, workers=workers, device=device)
    except InterruptedCell as interruption:
        raise Interrupted(str(interruption)) from interruption
    except ChangedCodeError as error:
        raise CommandError(str(error)) from error
    for line in lines(report):
        print(line)
    print(out / "report.html")
    if report["failed"]:
        raise CommandError(f"{len(report['failed'])} cells failed; the report lists them")


def _steps_table(study: Any, out: Path, device: str) -> str:
    """TOML of what a budget in seconds was in steps."""
    from headfields.compare.cells import gathered
    from headfields.compare.pace import steps_by_row
    from headfields.compare.running import done_cells, nothing_done

    if not study.is_timed:
        raise CommandError("--steps says what a budget in seconds was; this study's is none")
    done = [cell for cell in done_cells(study, out, device) if cell.done(out) is not None]
    if not done:
        raise CommandError(nothing_done(out, device))
    steps = steps_by_row(gathered(done, out))
    missing = [name for name in study.rows if name not in steps]
    if missing:
        raise CommandError(f"no cell is finished of {', '.join(missing)}; --steps needs one of each row")
    return "\n".join(["[steps_by_row]", *(f"{json.dumps(name)} = {steps[name]}" for name in study.rows)])


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, whose value is a number, true, false or text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise CommandError(f"--engine-options has {text!r}; expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
