"""Whether a budget of seconds was the same for all cells: other work on a machine takes its share of every second."""

import statistics
from collections.abc import Mapping
from typing import Any

from headfields.compare.study import Study

PACE = 1.25
"""Factor between pairs, in steps beside the baseline's, beyond which a row is undetermined. Own choice; alone on a
machine it is some 1.05."""


def uneven_pace(study: Study, done: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]]) -> dict[str, float]:
    """Rows for which a budget of seconds was not the same in all pairs: what else the machine did took its share.

    Returns:
        By row, the largest over the smallest of the steps of a cell beside those of the baseline's in the pair, where
        that is more than `PACE`. None where the budget is no time.
    """
    base = done.get(study.baseline or "", {})
    if not study.is_timed:
        return {}
    uneven = {}
    for name, runs in done.items():
        steps = [(run["cost"]["steps"], base[pair]["cost"]["steps"]) for pair, run in runs.items() if pair in base]
        paces = [own / max(other, 1) for own, other in steps]
        if name != study.baseline and len(paces) > 1 and max(paces) > PACE * min(paces) > 0:
            uneven[name] = max(paces) / min(paces)
    return uneven


def steps_by_row(done: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]]) -> dict[str, int]:
    """The median steps of the finished cells of each row, for `Study.steps_by_row`.

    Args:
        done: results by row and pair, as `headfields.compare.cells.gathered` gives them.
    """
    return {
        name: round(statistics.median(run["cost"]["steps"] for run in runs.values()))
        for name, runs in done.items()
        if runs
    }


def pace_line(found: Mapping[str, Any]) -> str:
    """What a report says of an uneven pace; empty if it is even."""
    rows = found.get("uneven pace", {})
    if not rows:
        return ""
    return (
        f"Seconds were no equal budget: between pairs, steps beside the baseline's differ by a factor of up to "
        f"{max(rows.values()):.1f}, and of more than {PACE:g} in {len(rows)} of {len(found['rows'])} rows, "
        "which are undetermined for it. Run a study in seconds on machines that do nothing else, or give steps_by_row"
    )
