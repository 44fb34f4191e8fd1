"""The picture of a study of parts: quality over time a frame on two strata, and while training; the best in color."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from headfields.compare.charts import dominated
from headfields.compare.page import bounds_of
from headfields.compare.study import measure_in

COLORS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#0b7285", "#b08800", "#5c3d2e", "#c2255c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GRAY, INK = "#c4cad0", "#343a40"
DEPTH = 8.0
"""dB below the best row that a chart shows; rows below are counted."""
ROOM = 0.35
"""For labels at the right, as a share of the points' logarithmic range."""


def parts_of(name: str) -> tuple[str, str]:
    """What colors a row and what its marker stands for: its deformer, and its encoder and decoder.

    >>> from benchmarks.studies.picture import parts_of
    >>> parts_of("surface length, hash grid, NeRF"), parts_of("Gaussians, RGBAvatar")
    (('surface length', 'hash grid, NeRF'), ('Gaussians', 'RGBAvatar'))
    """
    first, _, rest = name.partition(", ")
    return first, rest


def quality(found: Mapping[str, Any], name: str, measure: str) -> tuple[float, float, float]:
    """A row's mean in a measure, and the ends of its interval: the baseline's mean and the difference of the pairs.

    So rows that lack a capture or a seed stand where they would beside the others. Ends are NaN for one pair.
    """
    base = found["rows"][found["baseline"]]["scores"][measure]["mean"]
    if name == found["baseline"]:
        return base, math.nan, math.nan
    bounds = bounds_of(found["rows"][name], measure)
    if bounds is None:
        return math.nan, math.nan, math.nan
    low, mean, high = bounds
    return base + mean, base + low, base + high


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draws a study's findings (`benchmarks.studies.figures.kept_findings`) as PNG.

    Left and middle: the primary measure on test frames and on those of held-out cameras, where there are any, over the
    seconds of a frame, with the intervals of verdicts. Right: PSNR on validation frames over the processor seconds of
    training. Gray are rows that another one beats in both.
    """
    measure = found["primary"].partition("@")[0]
    strata = [each for each in (found["strata"][0], "cameras") if measure_in(measure, each) in found["measures"]]
    strata = list(dict.fromkeys(strata))
    firsts = list(dict.fromkeys(parts_of(name)[0] for name in found["all rows"]))
    rests = list(dict.fromkeys(parts_of(name)[1] for name in found["all rows"]))
    colors = {first: COLORS[index % len(COLORS)] for index, first in enumerate(firsts)}
    markers = {rest: MARKERS[index % len(MARKERS)] for index, rest in enumerate(rests)}
    style = {"font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": "#adb5bd", "axes.linewidth": 0.8,
             "xtick.color": INK, "ytick.color": INK, "axes.labelcolor": INK, "text.color": INK}  # fmt: skip
    with plt.rc_context(style):
        count = len(strata) + 1
        figure, axes = plt.subplots(1, count, figsize=(5.6 * count, 5.6), constrained_layout=True)
        best: set[str] = set()
        for axis, stratum in zip(axes, strata, strict=False):
            best |= _scatter(axis, found, measure_in(measure, stratum), colors, markers)
            where = {"test": "Test frames", "cameras": "Cameras that training never saw"}.get(stratum, stratum)
            axis.set_title(where, loc="left", fontsize=11, fontweight="bold")
        best |= _curves(axes[-1], found, colors)
        axes[-1].set_title("While training", loc="left", fontsize=11, fontweight="bold")
        used = [(parts_of(name)) for name in found["rows"]]
        shown = [first for first in firsts if first in {parts_of(name)[0] for name in best}]
        signs = [rest for rest in rests if rest in {pair[1] for pair in used}]
        handles = [Line2D([], [], marker="o", ls="", color=colors[first], label=first) for first in shown]
        handles += [Line2D([], [], marker="o", ls="", color=GRAY, label="beaten in both")]
        handles += [Line2D([], [], marker=markers[rest], ls="", mfc="white", mec=INK, label=rest) for rest in signs]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9
        )
        pairs = [row["cells"] for row in found["rows"].values()]
        span = f"{min(pairs)}" if min(pairs) == max(pairs) else f"{min(pairs)} to {max(pairs)}"
        figure.suptitle(
            f"{found['name']}: {len(found['rows'])} of {len(found['all rows'])} rows, {found['budget']} each, {span} "
            f"cell{'s' if max(pairs) > 1 else ''} a row"
            + (f"; bars: intervals of the difference to {found['baseline']}" if max(pairs) > 1 else ", no intervals"),
            fontsize=10, x=0.01, ha="left",
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def _scatter(
    axis: Axes, found: Mapping[str, Any], measure: str, colors: Mapping[str, str], markers: Mapping[str, str]
) -> set[str]:
    """Quality over seconds a frame; gives the rows in color."""
    points = {}
    for name, row in found["rows"].items():
        mean, low, high = quality(found, name, measure)
        if math.isfinite(mean):
            points[name] = (row["cost"]["seconds per frame"], mean, low, high)
    beaten = dominated({name: (point[0], point[1]) for name, point in points.items()})
    best = [name for name in points if name not in beaten]
    for name in [*beaten, *best]:
        cost, mean, low, high = points[name]
        first, rest = parts_of(name)
        color, above = (GRAY, 2) if name in beaten else (colors[first], 4)
        if math.isfinite(low):
            axis.plot([cost, cost], [low, high], color=color, lw=1.1 if name in best else 0.6, zorder=above - 1,
                      alpha=1.0 if name in best else 0.6)  # fmt: skip
        axis.plot(cost, mean, marker=markers[rest], color=color, ms=8 if name in best else 5, mec="white", mew=0.6,
                  zorder=above)  # fmt: skip
    steps = sorted((points[name][0], points[name][1]) for name in best)
    axis.step([x for x, _ in steps], [y for _, y in steps], where="post", color="#ced4da", lw=1, zorder=1)
    _cut(axis, [points[name][1] for name in points])
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** ROOM)
    axis.set_xlabel("seconds a frame")
    axis.set_ylabel(f"{measure.partition('@')[0]}, dB")
    axis.grid(axis="y", color="#eef0f2", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    spots = [(points[name][0], points[name][1], name, colors[parts_of(name)[0]]) for name in best]
    base = found["baseline"]
    if base in beaten:
        spots.append((*points[base][:2], f"{base} (baseline)", "#868e96"))
    _label(axis, spots)
    return set(best)


def _curves(axis: Axes, found: Mapping[str, Any], colors: Mapping[str, str]) -> set[str]:
    """Validation PSNR over processor seconds; in color, and given, the rows that are the best at some time."""
    lines = {name: [(point[3], point[-1]) for point in line] for name, line in found["curves"].items() if line}
    best = leading(lines)
    for name in [*(name for name in lines if name not in best), *best]:
        color = colors[parts_of(name)[0]] if name in best else GRAY
        axis.plot(*zip(*lines[name], strict=True), color=color, lw=1.8 if name in best else 0.7,
                  zorder=3 if name in best else 1)  # fmt: skip
    axis.set_xlabel("processor seconds of training")
    axis.set_ylabel("psnr of validation frames, dB")
    axis.grid(axis="y", color="#eef0f2", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    if lines:
        end = max(x for line in lines.values() for x, _ in line)
        axis.set_xlim(0, end * 1.85)
        axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= end * 1.05])
    _cut(axis, [line[-1][1] for line in lines.values()])
    spots = [(*lines[name][-1], name, colors[parts_of(name)[0]]) for name in best]
    base = found["baseline"]
    if base in lines and base not in best:
        axis.plot(*zip(*lines[base], strict=True), color="#868e96", lw=1.4, zorder=2)
        spots.append((*lines[base][-1], f"{base} (baseline)", "#868e96"))
    _label(axis, spots)
    return set(best)


def _cut(axis: Axes, values: Sequence[float]) -> None:
    """Leaves what is far below the best value out of a chart, and says how many rows that are."""
    least = max(values, default=0.0) - DEPTH
    below = sum(value < least for value in values)
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, top + 0.06 * (top - max(bottom, least)))  # for labels above the best
    if below:
        axis.set_ylim(least - 0.3, axis.get_ylim()[1])
        rows = f"{below} row{'s' if below > 1 else ''}"
        axis.text(0.02, 0.015, f"{rows} below {least:.0f} dB", transform=axis.transAxes, color="#868e96", fontsize=8)


def leading(lines: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Names of the lines that are the highest at one of their points, of those that have begun there.

    >>> from benchmarks.studies.picture import leading
    >>> leading({"fast": [(1, 20), (9, 21)], "slow": [(1, 10), (9, 25)], "never": [(1, 9), (9, 20)]})
    ['fast', 'slow']
    """
    best = []
    for x in sorted({point[0] for line in lines.values() for point in line}):
        at = {name: _at(line, x) for name, line in lines.items() if line[0][0] <= x <= line[-1][0] * 1.02}
        if at:
            best.append(max(at, key=lambda name: at[name]))
    return list(dict.fromkeys(best))


def _at(line: Sequence[tuple[float, float]], x: float) -> float:
    """The line's value at x, interpolated."""
    before = max((point for point in line if point[0] <= x), key=lambda point: point[0])
    after = min((point for point in line if point[0] >= x), key=lambda point: point[0], default=before)
    share = (x - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
    return before[1] + share * (after[1] - before[1])


def _label(axis: Axes, spots: Sequence[tuple[float, float, str, str]]) -> None:
    """Names to the right of points, moved up where they would lie on one another."""
    axis.figure.canvas.draw()
    pixel = axis.figure.dpi / 72
    points = [axis.transData.transform((x, y)) for x, y, _, _ in spots]
    placed = [(across - 5 * pixel, across + 5 * pixel, up) for across, up in points]
    height = 12 * pixel
    for x, y, name, color in sorted(spots, key=lambda spot: spot[1]):
        across, up = axis.transData.transform((x, y))
        begin, end, at = across + 8 * pixel, across + (8 + 4.6 * len(name)) * pixel, up
        while any(begin < right and end > left and abs(at - other) < height for left, right, other in placed):
            at += 2
        placed.append((begin, end, at))
        axis.annotate(
            name, (x, y), xytext=(9, (at - up) / pixel), textcoords="offset points", va="center",
            color=color, fontsize=8.5, zorder=6,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5} if at - up > 4 else None,
        )  # fmt: skip
