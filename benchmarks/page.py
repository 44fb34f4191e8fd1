"""The benchmarks page of the documentation, from the figures: `python -m benchmarks.page JSON_DIR docs/benchmarks.md`.

Reads every JSON file that `python -m benchmarks` wrote into JSON_DIR; draws the plots into `images/benchmarks` next to
the page.
"""

import argparse
from pathlib import Path

from benchmarks import report
from benchmarks.operations import OPERATIONS
from benchmarks.report import Report

_HEAD = """# Benchmarks

Generated from the figures of `python -m benchmarks`; not edited by hand.

Every contestant gets the same input and the same number of threads, in one process, one after another in every round;
times are medians over the rounds, with half the distance between the quartiles. *cores busy* is CPU time over wall
time; *peak memory* the growth of the resident set during a call (on CUDA: of PyTorch's allocations), beyond what the
process held after a call before it; *difference* the largest between a contestant's answer and ours; *ours is* how many
times as fast ours is for the same work; *goal* what we mean that to be at least (or, our own time at most).
"""


def page(reports: list[Report], images: str | None) -> str:
    """The whole page. `images` is the folder of the plots, relative to the page."""
    parts = [_HEAD, _summary(reports)]
    for one in reports:
        parts.append(report.markdown(one, f"{images}/{one.name}.png" if images else None, heading="##"))
    return "\n".join(parts)


def _summary(reports: list[Report]) -> str:
    """A table of the rows that have a goal, if there are any."""
    if all(row.met is None for one in reports for row in one.rows):
        return ""
    lines = ["## Goals", "", "| operation | case | compared with | ours is | goal |", "|---|---|---|---|---|"]
    for one in reports:
        for row in one.rows:
            if row.met is None:
                continue
            cells = report.cells(row)
            ours = cells["ours is"] or f"{cells['ms']} ms"
            beside = row.contestant if row.ratio is not None else ""
            lines.append(f"| {one.title} | {row.label}: {report.size(row)} | {beside} | {ours} | {cells['goal']} |")
    return "\n".join(lines) + "\n"


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
    options.page.write_text(page(reports, "images/benchmarks"))


if __name__ == "__main__":
    main()
