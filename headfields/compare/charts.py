"""Charts of a study's report as SVG, which need no other file: quality over cost, curves, intervals."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

COLORS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285", "#b08800", "#495057")
"""Of rows that stand out; the others are gray."""
GRAY = "#adb5bd"
_INK, _FAINT, _RULE = "#495057", "#868e96", "#e9ecef"
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 26, 42


SAME_COST = 0.02
"""Costs that differ by a smaller share count as equal: cells of one budget in seconds end within a step of it."""


def dominated(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names of the points (cost, quality) that another one equals or beats in both, and beats in one; costs that differ
    by less than `SAME_COST` are equal.

    >>> from headfields.compare.charts import dominated
    >>> dominated({"cheap": (1.0, 20.0), "good": (2.0, 30.0), "neither": (2.0, 20.0)})
    {'neither'}
    >>> dominated({"a step later": (60.2, 21.0), "a step less": (60.0, 20.0)})
    {'a step less'}
    """
    return {
        name
        for name, (cost, quality) in points.items()
        if any(
            a <= cost * (1 + SAME_COST) and b >= quality and (b > quality or a * (1 + SAME_COST) < cost)
            for a, b in points.values()
        )
    }


def ticks(low: float | int, high: float | int, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them.

    >>> from headfields.compare.charts import ticks
    >>> ticks(18.2, 23.9, 6)
    [19.0, 20.0, 21.0, 22.0, 23.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float | int, high: float | int) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`; round numbers where they span less than a factor of 4."""
    if high / low < 4:
        return ticks(low, high, 3)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [unit * 10.0**power for power in powers for unit in (1, 2, 5)]
    within = [value for value in candidates if low * 0.999 <= value <= high * 1.001]
    return within if len(within) <= 6 else [value for value in within if f"{value:e}"[0] == "1"]


class _Frame:
    """Axes of a chart, and where values lie on them."""

    def __init__(
        self, across: Sequence[float], up: Sequence[float], label: str, title: str, logarithmic: bool, right: int
    ) -> None:
        low, high = min(across), max(across)
        if logarithmic:
            low, high = low / 1.15, high * 1.15
        elif high <= low:
            low, high = low - 0.5, high + 0.5
        bottom, top = min(up), max(up)
        room = max(0.06 * (top - bottom), 1e-3 * max(abs(top), 1e-9))
        self.x, self.y, self.logarithmic = (low, high), (bottom - room, top + room), logarithmic
        self.right = _WIDTH - right
        marks = log_ticks(*self.x) if logarithmic else ticks(*self.x)
        lines = [
            f'<path d="M{_LEFT} {self.down(value):.1f}H{self.right}" stroke="{_RULE}"/>'
            + _text(_LEFT - 7, self.down(value) + 3.5, f"{value:g}", "end")
            for value in ticks(*self.y)
        ]
        base = _HEIGHT - _BOTTOM
        lines += [
            f'<path d="M{self.along(value):.1f} {base}v4" stroke="{GRAY}"/>'
            + _text(self.along(value), base + 17, f"{value:g}", "middle")
            for value in marks
        ]
        lines.append(f'<path d="M{_LEFT} {base}H{self.right}" stroke="{GRAY}"/>')
        lines.append(_text((_LEFT + self.right) / 2, _HEIGHT - 6, label, "middle"))
        lines.append(_text(_LEFT, 14, title, "start", weight=600))
        self.axes = "".join(lines)

    def along(self, value: float | int) -> float:
        low, high = self.x
        share = math.log(value / low) / math.log(high / low) if self.logarithmic else (value - low) / (high - low)
        return _LEFT + share * (self.right - _LEFT)

    def down(self, value: float | int) -> float:
        low, high = self.y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    def svg(self, marks: Sequence[str], name: str) -> str:
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(name)}">{self.axes}'
            f"{''.join(marks)}</svg>"
        )


def scatter(
    points: Mapping[str, tuple[float, float]], label: str, title: str, higher: bool, colors: Mapping[str, str]
) -> str:
    """Quality over a cost, which is logarithmic; dominated rows are gray within a ring of their color, and the others
    have their names."""
    points = {name: point for name, point in points.items() if point[0] > 0 and all(map(math.isfinite, point))}
    if not points:
        return ""
    sign = 1.0 if higher else -1.0
    beaten = dominated({name: (cost, sign * quality) for name, (cost, quality) in points.items()})
    frame = _Frame([x for x, _ in points.values()], [y for _, y in points.values()], label, title, True, _RIGHT)
    marks = []
    free = [name for name in points if name not in beaten]
    for name in [*(name for name in points if name in beaten), *free]:
        x, y = frame.along(points[name][0]), frame.down(points[name][1])
        color = colors.get(name, GRAY if name in beaten else COLORS[0])
        fill = GRAY if name in beaten else color
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{color}" stroke-width="1.5">'
            f"<title>{html.escape(name)}</title></circle>"
        )
    named = free if len(points) > 12 else list(points)
    places = {name: (frame.along(x), frame.down(y)) for name, (x, y) in points.items()}
    spots = _apart([(*places[name], name) for name in named], list(places.values()))
    for name, (x, y, anchor) in spots.items():
        marks.append(_text(x, y, name, anchor, _FAINT if name in beaten else colors.get(name, COLORS[0])))
    return frame.svg(marks, f"{title} over {label}")


def _apart(
    spots: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]]
) -> dict[str, tuple[float, float, str]]:
    """Places of labels beside their points, moved down where they would lie on each other or on a point."""
    placed: dict[str, tuple[float, float, str]] = {}
    boxes = [(x - 6, x + 6, y + 3.5) for x, y in points]
    for x, y, name in sorted(spots, key=lambda spot: spot[1]):
        width = 5.8 * len(name) + 4
        anchor = "start" if x + 9 + width < _WIDTH else "end"
        left = x + 9 if anchor == "start" else x - 9 - width
        top = y + 3.5
        while any(left < b and left + width > a and abs(top - at) < 11 for a, b, at in boxes):
            top += 3
        boxes.append((left, left + width, top))
        placed[name] = (x + 9 if anchor == "start" else x - 9, top, anchor)
    return placed


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], label: str, title: str, colors: Mapping[str, str]
) -> str:
    """Lines by row; those with a color have their name at the end, the others are gray."""
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return ""
    whole = np.array([point for line in lines.values() for point in line], dtype=np.float64)
    if not np.isfinite(whole).all():
        return ""
    longest = max((len(name) for name in lines if name in colors), default=0)
    frame = _Frame(whole[:, 0].tolist(), whole[:, 1].tolist(), label, title, False, min(14 + 6 * longest, 230))
    marks, ends = [], []
    for name in [*(name for name in lines if name not in colors), *(name for name in lines if name in colors)]:
        color = colors.get(name, GRAY)
        path = "L".join(f"{frame.along(x):.1f} {frame.down(y):.1f}" for x, y in lines[name])
        width = 1.8 if name in colors else 1
        marks.append(
            f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="{width}">'
            f"<title>{html.escape(name)}</title></path>"
        )
        if name in colors:
            ends.append((frame.down(lines[name][-1][1]), name))
    last = -math.inf
    for y, name in sorted(ends):
        last = max(y + 3.5, last + 12)
        marks.append(_text(frame.right + 6, last, name, "start", colors[name]))
    return frame.svg(marks, f"{title} over {label}")


def interval(
    low: float | int, mean: float | int, high: float | int, bounds: tuple[float, float], margin: float | int | None
) -> str:
    """A difference and its interval on a line that all rows of a table share, with zero and the margin."""
    left, right = bounds

    def at(value: float | int) -> float:
        return 4 + 132 * (min(max(value, left), right) - left) / (right - left)

    band = (
        ""
        if not margin
        else f'<rect x="{at(-margin):.1f}" width="{at(margin) - at(-margin):.1f}" height="18" fill="{_RULE}"/>'
    )
    span = (
        ""
        if not math.isfinite(low)
        else f'<path d="M{at(low):.1f} 9H{at(high):.1f}" stroke="{_INK}" stroke-width="1.5"/>'
    )
    return (
        f'<svg class=interval viewBox="0 0 140 18" aria-hidden="true">{band}'
        f'<path d="M{at(0):.1f} 0V18" stroke="{GRAY}"/>'
        f'{span}<circle cx="{at(mean):.1f}" cy="9" r="3.2" fill="{_INK}"/></svg>'
    )


def _text(x: float | int, y: float | int, text: str, anchor: str, color: str = _INK, weight: int = 400) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{color}" font-weight="{weight}">{html.escape(text)}</text>'
