"""Tables of the ablation of priors: what several seeds say about the differences between rows.

Runs of one seed are compared with the baseline's run of the same seed. A difference is called determined if Student's
t-test of these pairs rejects at 95 % that there is none; with one seed nothing is.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

Figures = Mapping[str, float]


def difference(own: Sequence[Figures], baseline: Sequence[Figures], column: str) -> tuple[float, float, bool]:
    """Mean and deviation of the difference to the baseline over the seeds, and whether it is determined.

    >>> from benchmarks.rows import difference
    >>> own, base = [{"dB": 30.0}, {"dB": 30.2}, {"dB": 30.1}], [{"dB": 29.0}, {"dB": 29.1}, {"dB": 29.2}]
    >>> mean, deviation, determined = difference(own, base, "dB")
    >>> round(mean, 2), round(deviation, 2), determined
    (1.0, 0.1, True)
    """
    pairs = [a[column] - b[column] for a, b in zip(own, baseline, strict=False) if column in a and column in b]
    if len(pairs) < 2:
        return (pairs[0] if pairs else math.nan), math.nan, False
    mean, deviation = statistics.mean(pairs), statistics.stdev(pairs)
    bound = float(stats.t.ppf(0.975, len(pairs) - 1)) * deviation / math.sqrt(len(pairs))
    return mean, deviation, abs(mean) > bound


def summary(
    rows: Mapping[str, Sequence[Figures]], columns: Sequence[str], baseline: Mapping[str, str]
) -> dict[str, dict[str, dict[str, float | bool]]]:
    """By row and column: mean, deviation and number of seeds; for a row with a baseline also how it differs from it.

    Args:
        rows: the figures of each row's seeds, in the order of the seeds.
        columns: names of figures; a column that a row lacks is left out.
        baseline: the row that a row is compared with, of those that are.
    """
    table: dict[str, dict[str, dict[str, float | bool]]] = {}
    for name, runs in rows.items():
        table[name] = {}
        for column in columns:
            values = [run[column] for run in runs if column in run]
            if not values:
                continue
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            cell: dict[str, float | bool] = {"mean": statistics.mean(values), "deviation": spread, "seeds": len(values)}
            if name in baseline and baseline[name] in rows:
                mean, deviation, determined = difference(runs, rows[baseline[name]], column)
                cell |= {"difference": mean, "difference's deviation": deviation, "determined": determined}
            table[name][column] = cell
    return table


def markdown(table: Mapping[str, Mapping[str, Mapping[str, float | bool]]], columns: Sequence[str]) -> str:
    """The table in Markdown: mean ± deviation, and in brackets the difference to the baseline, bold if determined."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in table.items():
        texts = []
        for column in columns:
            if column not in cells:
                texts.append("–")
                continue
            cell = cells[column]
            text = f"{cell['mean']:.2f} ± {cell['deviation']:.2f}".replace(" ± nan", "")
            if "difference" in cell:
                by = f"{cell['difference']:+.2f}"
                text += f" (**{by}**)" if cell["determined"] else f" ({by})"
            texts.append(text)
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)
