"""Rows as a table (Markdown), a plot (PNG) and figures (JSON)."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.case import OURS, Row

_COLUMNS = ("case", "contestant", "ms", "rate", "cores busy", "peak memory", "difference", "ours is", "goal", "")
_COLORS = {OURS: "black"}


@dataclass(frozen=True)
class Report:
    """The rows of one operation's run, its title and text, and the machine."""

    name: str
    title: str
    text: str
    machine: dict[str, Any]
    date: str
    quick: bool
    seconds: float
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}

    @staticmethod
    def from_json(record: dict[str, Any]) -> "Report":
        known = {field.name for field in fields(Row)}  # derived entries are computed again
        rows = [Row(**{key: value for key, value in row.items() if key in known}) for row in record["rows"]]
        return Report(**{**record, "rows": rows})


def write(report: Report, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{report.name}.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")
    (out / f"{report.name}.md").write_text(markdown(report, f"{report.name}.png"))
    plot(report, out / f"{report.name}.png")


def read(path: Path) -> Report:
    return Report.from_json(json.loads(path.read_text()))


def size(row: Row) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in row.size.items())


def cells(row: Row) -> dict[str, str]:
    """The table's cells of a row, by column."""

    def show(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    difference = show(row.difference, ".1e")
    if row.unmatched:
        difference += f", {row.unmatched:,} apart"
    goal = ""
    if row.goal is not None:
        goal = f"≥ {row.goal:g}×"
    elif row.limit is not None:
        goal = f"≤ {row.limit:g} ms"
    if row.met is not None:
        goal += " ✓" if row.met else " ✗"
    measured = row.milliseconds is not None
    full = max(row.work, 1)
    return {
        "contestant": row.contestant,
        "ms": milliseconds(row.milliseconds) + (f" ±{row.spread:.0%}" if row.spread else ""),
        "rate": f"{magnitude(row.rate)} {row.unit}/s" if row.rate and full > 1 else "",
        "cores busy": show(row.busy, ".1f"),
        "peak memory": f"{row.memory / 2**20:.1f} MB" if row.memory is not None else "",
        "difference": difference,
        "ours is": f"{row.ratio:.2f}×" if row.ratio is not None else "",
        "goal": goal,
        "": _note(row) if measured else f"not measured: {row.note}",
    }


def _note(row: Row) -> str:
    """The row's note; of a floor also its bandwidth, and how near ours comes to it."""
    notes = [row.note] if row.note else []
    if row.moved is not None and row.milliseconds:
        notes.append(f"{row.moved / 1e6:,.0f} MB at {row.moved / row.milliseconds / 1e6:.1f} GB/s")
        if row.ratio is not None:
            notes.append(f"ours is at {row.ratio:.0%} of this floor")
    return "; ".join(notes)


def milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def magnitude(rate: float) -> str:
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= bound:
            return f"{rate / bound:.3g} {letter}"
    return f"{rate:.3g}"


def line(row: Row) -> str:
    """One row on the terminal."""
    cell = cells(row)
    ratio = f"{cell['ours is']:>8s} {cell['goal']}" if row.ratio is not None or row.limit is not None else ""
    return f"  {row.label:32s} {size(row):32s} {row.contestant:20s} {cell['ms']:>14s}  {ratio}  {cell['']}".rstrip()


def markdown(report: Report, picture: str | None = None, heading: str = "#") -> str:
    """The table under its heading, text and machine; `picture` is the path of the plot."""
    machine = report.machine
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    lines = [
        f"{heading} {report.title}",
        "",
        report.text,
        "",
        f"{machine['device']}, {machine['threads']} threads, {report.date[:10]}"
        f"{', quick run' if report.quick else ''}; {packages}; Python {machine['python']}.",
        "",
    ]
    if picture:
        lines += [f"![{report.title}]({picture})", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    last = None
    for row in report.rows:
        cell = cells(row)
        case = f"{row.label}: {size(row)}" if size(row) else row.label
        cell["case"], last = ("" if case == last else case), case
        lines.append(f"| {' | '.join(cell[column].replace('|', '/') for column in _COLUMNS)} |")
    return "\n".join(lines) + "\n"


def plot(report: Report, path: Path) -> None:
    """One panel per label: lines over the growing size, or bars for a single size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = list(dict.fromkeys(row.label for row in report.rows))
    columns = min(3, max(len(labels), 1))
    lines = -(-len(labels) // columns) or 1
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.4 * lines), squeeze=False, dpi=110)
    names = list(dict.fromkeys(row.contestant for row in report.rows))
    palette = plt.get_cmap("tab10")
    colors = {name: _COLORS.get(name, palette(index % 10)) for index, name in enumerate(names)}
    for panel in axes.flat[len(labels) :]:
        panel.set_visible(False)
    for panel, label in zip(axes.flat, labels, strict=False):
        rows = [row for row in report.rows if row.label == label and row.rate]
        axis = _growing(rows)
        panel.set_title(label, fontsize=10)
        if axis is None:
            _bars(panel, rows, colors)
        else:
            _lines(panel, rows, axis, colors)
    figure.suptitle(f"{report.title}: {report.machine['device']}, {report.machine['threads']} threads", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _growing(rows: Iterable[Row]) -> str | None:
    """The name of the size that differs between the rows, if any."""
    values: dict[str, set[int]] = {}
    for row in rows:
        for name, value in row.size.items():
            values.setdefault(name, set()).add(value)
    return next((name for name, distinct in values.items() if len(distinct) > 1), None)


def _per_work(row: Row) -> float:
    """Microseconds per unit of work, so that contestants with less work compare."""
    return 1e6 / row.rate if row.rate else float("nan")


def _bars(panel: Any, rows: list[Row], colors: dict[str, Any]) -> None:
    names = [row.contestant for row in rows]
    values = [_per_work(row) for row in rows]
    panel.barh(names, values, color=[colors[name] for name in names])
    panel.locator_params(axis="x", nbins=4)  # numbers of many digits must not overlap
    for index, value in enumerate(values):
        panel.text(value, index, f" {value:.3g}", va="center", fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.2)
    panel.set_xlabel(f"µs a {_one(rows[0].unit)}" if rows else "", fontsize=8)
    panel.tick_params(labelsize=8)


def _lines(panel: Any, rows: list[Row], axis: str, colors: dict[str, Any]) -> None:
    for name in dict.fromkeys(row.contestant for row in rows):
        own = sorted((row.size[axis], _per_work(row)) for row in rows if row.contestant == name)
        panel.plot(*zip(*own, strict=True), marker="o", markersize=4, label=name, color=colors[name])
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel(axis, fontsize=8)
    panel.set_ylabel(f"µs a {_one(rows[0].unit)}", fontsize=8)
    panel.tick_params(which="both", labelsize=7)
    panel.legend(fontsize=7)


def _one(unit: str) -> str:
    return "query" if unit == "queries" else unit.removesuffix("s")
