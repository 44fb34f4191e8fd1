"""Quality over the yaw of the camera around the head, of frames by cameras that training never saw."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from headfields.compare.study import measure_in

STEP = 15.0
"""Degrees of yaw that a point of the curve stands for."""


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
