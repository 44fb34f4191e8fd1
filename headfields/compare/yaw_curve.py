"""Quality over the yaw of the camera around the head, of frames by cameras that training never saw."""

import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from headfields.compare.study import kind_of, measure_in

STEP = 15.0
"""Degrees of yaw that a point of the curve stands for."""
_COLORS = ("#06c", "#c33", "#2a8", "#b60", "#82c", "#099", "#777", "#c5a")


def yaw_curve(
    runs: Mapping[str, Mapping[Any, Mapping[str, Any]]], primary: str, stratum: str = "cameras"
) -> dict[str, Any]:
    """A row's scores in the stratum by yaw: `{"measure": ..., "rows": {row: [[yaw, mean, frames], ...]}}`.

    Args:
        runs: results by row, then by capture and seed.
        primary: the study's primary measure; the curve is of the same measure and region.
        stratum: whose frames count.

    Returns:
        The curve, with yaws in degrees, 0 before the face and 90 at the head's left, rounded to `STEP`; empty without
        such frames.
    """
    measure = measure_in(primary.partition("@")[0], stratum)
    rows = {}
    for name, results in runs.items():
        bins: dict[float, list[float]] = {}
        for result in results.values():
            for frame in result["frames"]:
                value = frame.get(measure)
                if value is not None and math.isfinite(value):
                    bins.setdefault(STEP * round(frame["yaw"] / STEP), []).append(value)
        if bins:
            rows[name] = [[yaw, float(np.mean(values)), len(values)] for yaw, values in sorted(bins.items())]
    return {"measure": measure, "rows": rows} if rows else {}


def draw_yaw_curve(curve: Mapping[str, Any]) -> str:
    """The curve as SVG; empty without one."""
    if not curve:
        return ""
    points = [point for row in curve["rows"].values() for point in row]
    yaws, values = [point[0] for point in points], [point[1] for point in points]
    wide, low, tall = max(max(yaws) - min(yaws), 1), min(values), max(max(values) - min(values), 0.1)

    def place(yaw: float | int, value: float | int) -> tuple[float, float]:
        return 60 + 340 * (yaw - min(yaws)) / wide, 230 - 190 * (value - low) / tall

    lines = []
    for index, (name, row) in enumerate(curve["rows"].items()):
        color = _COLORS[index % len(_COLORS)]
        at = [place(yaw, value) for yaw, value, _ in row]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
        lines.append(f'<text x="410" y="{44 + 16 * index}" font-size="11" fill="{color}">{html.escape(name)}</text>')
    ticks = [(place(yaw, low)[0], 262, f"{yaw:.0f}°") for yaw in sorted({min(yaws), 0.0, max(yaws)})]
    ticks += [(8, place(0.0, value)[1] + 4, f"{value:.1f}") for value in (low, low + tall)]
    texts = "".join(f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" fill="currentColor">{t}</text>' for x, y, t in ticks)
    title = html.escape(f"{kind_of(curve['measure'])}, {curve['measure'].partition('@')[0]} over yaw")
    return (
        f'<svg viewBox="0 0 620 285" role="img" aria-label="{title}"><path d="M50 30V245H400" fill="none" '
        f'stroke="#888"/>{"".join(lines)}{texts}<text x="170" y="280" font-size="12" fill="currentColor">yaw of the '
        f'camera around the head</text><text x="8" y="20" font-size="12" fill="currentColor">'
        f"{html.escape(curve['measure'])}</text></svg>"
    )
