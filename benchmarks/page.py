"""The benchmarks page of the documentation, from the figures: `python -m benchmarks.page JSON_DIR docs/benchmarks.md`.

Reads every JSON file that `python -m benchmarks` wrote into JSON_DIR; draws the plots into `images/benchmarks` next to
the page. Operations without a file there keep what the page says of them.
"""

import argparse
import re
from pathlib import Path

from benchmarks import report
from benchmarks.operations import OPERATIONS
from benchmarks.report import Report

_HEAD = """# Benchmarks

Generated from the figures of `python -m benchmarks`; not edited by hand.

Every contestant gets the same input and the same number of threads, in one process, one after another in every round;
times are medians over the rounds, with half the distance between the quartiles. For rays and the hash grid, and for all
that is measured after 23 November 2026, each sample follows a call that is not timed, as in a loop of training.
*cores busy* is CPU time over wall time; *peak memory* the growth of the resident set during a call (on CUDA: of
PyTorch's allocations), beyond what the process held after a call before it; *difference* the largest between a
contestant's answer and ours; *ours is* how many times as fast ours is for the same work; *goal* what we mean that to be
at least (or, our own time at most).
"""


def page(reports: list[Report], images: str | None, before: str = "") -> str:
    """The whole page. `images` is the folder of the plots, relative to the page; `before` a page whose sections of
    other operations are kept."""
    sections, goals = _kept(before)
    for one in reports:
        picture = f"{images}/{one.name}.png" if images else None
        sections[one.name] = report.markdown(one, picture, heading="##")
        goals[one.name] = _goals(one)
    named = [name for name in OPERATIONS if name in sections]
    return "\n".join([_HEAD, _summary([goals[name] for name in named]), *(sections[name] for name in named)])


def _kept(before: str) -> tuple[dict[str, str], dict[str, str]]:
    """The sections of a page, and their rows of the table of goals, by operation, as its plot is named."""
    sections, goals = {}, {}
    parts = [f"## {part.rstrip()}\n" for part in before.split("\n## ")[1:]]
    for part in parts:
        title, plot = part[3:].partition("\n")[0], re.search(r"/(\w+)\.png\)", part)
        if plot and plot[1] in OPERATIONS:
            sections[plot[1]] = part
            goals[plot[1]] = "".join(f"{line}\n" for line in parts[0].splitlines() if line.startswith(f"| {title} |"))
    return sections, goals


def _goals(one: Report) -> str:
    """Lines of the table of goals: the rows that have one."""
    lines = []
    for row in one.rows:
        if row.met is not None:
            cells = report.cells(row)
            ours = cells["ours is"] or f"{cells['ms']} ms"
            beside = row.contestant if row.ratio is not None else ""
            lines.append(f"| {one.title} | {row.label}: {report.size(row)} | {beside} | {ours} | {cells['goal']} |\n")
    return "".join(lines)


def _summary(goals: list[str]) -> str:
    """A table of the rows that have a goal, if there are any."""
    if not any(goals):
        return ""
    lines = ["## Goals", "", "| operation | case | compared with | ours is | goal |", "|---|---|---|---|---|", ""]
    return "\n".join(lines) + "".join(goals)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.page", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("figures", type=Path, help="folder of JSON files")
    parser.add_argument("page", type=Path, help="the Markdown file to write")
    options = parser.parse_args(arguments)
    paths = {path.stem: path for path in options.figures.glob("*.json") if path.stem in OPERATIONS}
    if not paths:
        parser.error(f"{options.figures} holds no figures of {', '.join(OPERATIONS)}")
    reports = [report.read(paths[name]) for name in OPERATIONS if name in paths]
    images = options.page.parent / "images" / "benchmarks"
    images.mkdir(parents=True, exist_ok=True)
    for one in reports:
        report.plot(one, images / f"{one.name}.png")
    before = options.page.read_text() if options.page.exists() else ""
    options.page.write_text(page(reports, "images/benchmarks", before))


if __name__ == "__main__":
    main()
