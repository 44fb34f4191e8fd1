"""The report of a study as one HTML page that needs no other file and no network."""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headfields.compare import charts
from headfields.compare.pace import pace_line
from headfields.compare.study import HIGHER, kind_of

COSTS = {
    "processor seconds": ("training, s", 1.0, "{:.0f}"),
    "steps": ("steps", 1.0, "{:,.0f}"),
    "rays": ("rays, millions", 1e-6, "{:.2f}"),
    "seconds per frame": ("frame, s", 1.0, "{:.3f}"),
    "peak memory, bytes": ("memory, MB", 1e-6, "{:,.0f}"),
    "file, bytes": ("file, MB", 1e-6, "{:.1f}"),
    "parameters": ("parameters, millions", 1e-6, "{:.2f}"),
}
"""Costs by their name in report.json: the heading of the column, the factor, and how the number is written."""


def page(found: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of what report.json holds, and of pictures (PNG) by their caption."""
    name, primary = _escape(found["name"]), _escape(found["primary"])
    rows, captures = found["rows"], found["study"]["captures"]
    looks = len(found["looks"])
    looked = (
        f" Seeds were added at {looks} looks fixed beforehand, each at level {found['level']} / {looks}."
        if looks > 1
        else ""
    )
    margin = f", equivalent within ±{found['margin']:g}" if found["margin"] else ""
    failed = "".join(f"<li><b>{_escape(cell)}</b>: {_escape(why)}" for cell, why in found["failed"].items())
    left = "".join(f"<li><b>{_escape(row)}</b>: {_escape(why)}" for row, why in found["left out"].items())
    sections = [
        f"<h1>{name}</h1>",
        f"<p class=lead>{len(rows)} rows × {_count(len(captures), 'capture')} × {_count(found['seeds'], 'seed')}, "
        f"{_escape(found['footing']['budget'])} a cell. Primary measure <b>{primary}</b>; every row against "
        f"<b>{_escape(found['baseline'])}</b>.</p>",
        f"<p class=note>Noise ceiling of the captures: {_escape(ceilings(found['noise ceiling']))}.</p>",
        *(f"<p class=note>{_escape(line)}.</p>" for line in filter(None, [pace_line(found)])),
        _table(found),
        "<p class=note>Differences are over the same captures, seeds and frames, and positive is better, in measures "
        "of which less is better, too (FLIP, LPIPS, errors). The interval is the wider one of "
        f"Student’s and the hierarchical bootstrap’s; a verdict needs both, at level {found['level']:g} over all rows "
        f"(Holm){margin}.{looked} ± is the deviation of a row’s runs. Further measures of all strata are in "
        "report.json and frames.csv.</p>",
        f"<h2>Failed cells</h2><ul>{failed}</ul>" if failed else "",
        f"<h2>Left out</h2><p class=note>What cannot be built, or does not fit the captures.</p><ul>{left}</ul>"
        if left
        else "",
        "<h2>Quality and cost</h2>"
        "<p class=note>Gray inside: another row is at least as good in both; the ring has the row’s color in the other "
        "charts. Costs are medians over cells.</p>"
        f"<div class=charts>{_scatters(found)}</div>{_costs(found)}",
        _curves(found),
        _over_yaw(found),
        "<h2>By region and capture</h2>" + _regions(found),
        _pictures(pictures),
        _trials(found),
        "<h2>Footing</h2>" + _list(found["footing"]),
        "<h2>Machine</h2>" + _list({**found["machine"], "study": found["key"]}),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>"
        f'<meta name=viewport content="width=device-width"><style>{_STYLE}</style>'
        f"<main>{''.join(sections)}</main></html>\n"
    )


_BREAKS = re.compile("(?=[_@])")
"""Where a measure's name may be broken."""
_STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;color:#212529;background:#fff;margin:0}
main{max-width:74rem;margin:2.5rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.4rem 0 .6rem}
.lead{margin:0 0 1rem}.note{color:#6c757d;font-size:.87rem;max-width:56rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th{font-weight:500;color:#6c757d;font-size:.82rem;vertical-align:bottom;text-align:right}
td,th{padding:.32rem .33rem;white-space:nowrap;text-align:right;border-bottom:1px solid #e9ecef}
th{white-space:normal}
td:first-child,th:first-child{text-align:left;padding-left:0}
td:first-child{white-space:normal;min-width:8rem}
td small{color:#868e96;display:block;line-height:1.1}
tr.baseline td{background:#f8f9fa}
.verdict{text-align:left}
.verdict span{border-radius:1rem;padding:.08rem .55rem;font-size:.82rem;background:#f1f3f5;color:#495057}
.better span{background:#d3f9d8;color:#2b8a3e}.worse span{background:#ffe3e3;color:#c92a2a}
.equivalent span{background:#d0ebff;color:#1864ab}
.interval{width:96px;height:18px;vertical-align:middle}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(27rem,1fr));gap:1.2rem 1.6rem}
.charts + .scroll{margin-top:1.2rem}
.charts svg{width:100%;overflow:visible}svg text{font:11px system-ui,"DejaVu Sans",sans-serif}
td.bar{min-width:6.5rem;background-repeat:no-repeat;background-position:0 100%;background-size:var(--w) 3px;
background-image:linear-gradient(#74a9f7,#74a9f7)}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(21rem,1fr));gap:1.2rem 1.6rem}
figure{margin:0}img{width:100%;image-rendering:pixelated;display:block}figcaption{font-size:.85rem;padding-top:.25rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:0;font-size:.9rem}
dt{color:#6c757d}dd{margin:0;overflow-wrap:anywhere}
@media print{main{max-width:none;margin:0}}
"""


def _escape(value: Any) -> str:
    return html.escape(str(value))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def ranked(found: Mapping[str, Any]) -> list[str]:
    """The rows, the best in the primary measure first."""
    sign = 1.0 if HIGHER[kind_of(found["primary"])] else -1.0

    def key(name: str) -> float:
        mean = found["rows"][name]["scores"][found["primary"]]["mean"]
        return -sign * mean if math.isfinite(mean) else math.inf

    return sorted(found["rows"], key=key)


def bounds_of(row: Mapping[str, Any], measure: str) -> tuple[float, float, float] | None:
    """Low end, mean and high end of a row's difference: the wider one of both intervals; None for the baseline."""
    difference = row["differences"].get(measure)
    if difference is None:
        return None
    low = min(difference["interval"][0], difference["bootstrap"][0])
    return low, difference["mean"], max(difference["interval"][1], difference["bootstrap"][1])


def gain(row: Mapping[str, Any], measure: str) -> str:
    """A row's difference and its interval, in figures."""
    bounds = bounds_of(row, measure)
    if bounds is None:
        return "–"
    low, mean, high = bounds
    span = f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else ""
    return f"{mean:+.2f}{span}"


def ceilings(known: Mapping[str, Mapping[str, Any]]) -> str:
    """What noise in the images leaves to an avatar that is right, of each capture, in words."""
    said = []
    for capture, ceiling in known.items():
        figures = [f"{name} {value:.1f} dB" for name, value in ceiling.items() if name != "source"]
        source = f" ({ceiling['source']})" if ceiling.get("source") else ""
        said.append(f"{capture}: {', '.join(figures) + source if figures else 'not known'}")
    return "; ".join(said)


def _mean(score: Mapping[str, float]) -> str:
    if not math.isfinite(score["mean"]):
        return "–"
    digits = 2 if abs(score["mean"]) >= 2 else 4
    spread = f"<small>± {score['deviation']:.{digits}f}</small>" if math.isfinite(score["deviation"]) else ""
    return f"{score['mean']:.{digits}f}{spread}"


def _table(found: Mapping[str, Any]) -> str:
    """Verdicts, and measures over the image and the head."""
    primary, rows = found["primary"], found["rows"]
    measures = [primary, *(name for name in found["measures"] if name != primary and _is_shown(name, primary))]
    ends = [bounds_of(row, primary) for row in rows.values()]
    reach = max((abs(value) for end in ends if end for value in end if math.isfinite(value)), default=1.0)
    reach = max(reach, 1.5 * (found["margin"] or 0.0)) or 1.0
    head = ["row", "", f"Δ {primary}", "verdict", *measures, "cells"]
    body = []
    for name in ranked(found):
        row, bounds = rows[name], bounds_of(rows[name], primary)
        verdict = row.get("verdict", "baseline")
        needed = row.get("seeds to see it")
        more = f" <small>{needed} seeds</small>" if needed else ""
        drawn = "" if bounds is None else charts.interval(*bounds, (-reach, reach), found["margin"])
        failed = f" <small>{row['diverged']} diverged</small>" if row["diverged"] else ""
        cells = [
            _escape(name), drawn, _stacked(gain(row, primary).replace("-", "−")), f"<span>{verdict}</span>{more}",
            *(_mean(row["scores"][measure]) for measure in measures),
            f"{row['cells']}{failed}",
        ]  # fmt: skip
        kinds = ["", "", "", f"class='verdict {verdict}'"]
        body.append(
            f"<tr class={verdict}>"
            + "".join(f"<td {kinds[index] if index < 4 else ''}>{text}</td>" for index, text in enumerate(cells))
        )
    return _in_table(head, body)


def _is_shown(measure: str, primary: str) -> bool:
    """Whether a measure is in the first table: of the image and the head; elsewhere than in test frames, that of the
    primary one's kind alone."""
    name, _, place = measure.partition("@")
    return _region(name) in ("", "head") and (not place or kind_of(name) == kind_of(primary))


def _stacked(difference: str) -> str:
    """A difference with its interval on a line of its own."""
    mean, space, span = difference.partition(" ")
    return f"{mean}<small>{span}</small>" if space else mean


def _in_table(head: Sequence[str], body: Sequence[str]) -> str:
    """A table of a heading and rows, which scrolls where it is too wide."""
    names = "".join(
        f"<th{' class=verdict' if text == 'verdict' else ''}>{_BREAKS.sub('<wbr>', _escape(text))}</th>"
        for text in head
    )
    return f"<div class=scroll><table><thead><tr>{names}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def _costs(found: Mapping[str, Any]) -> str:
    """Medians of what cells cost."""
    rows = found["rows"]
    costs = [cost for cost in COSTS if any(row["cost"].get(cost) is not None for row in rows.values())]
    body = []
    for name in ranked(found):
        cells = [_escape(name), *(_cost(rows[name]["cost"].get(cost), cost) for cost in costs)]
        body.append("<tr>" + "".join(f"<td>{text}</td>" for text in cells))
    return _in_table(["row", *(COSTS[cost][0] for cost in costs)], body)


def _region(measure: str) -> str:
    return measure.partition("_")[2]


def _cost(value: float | int | None, name: str) -> str:
    _, factor, form = COSTS[name]
    return "–" if value is None else form.format(value * factor)


def row_colors(found: Mapping[str, Any]) -> dict[str, str]:
    """Colors of the rows: of all, if there are few, else of the baseline and the best."""
    order = ranked(found)
    chosen = order if len(order) <= len(charts.COLORS) else [*order[: len(charts.COLORS) - 1], found["baseline"]]
    return dict(zip(dict.fromkeys(chosen), charts.COLORS, strict=False))


def _scatters(found: Mapping[str, Any]) -> str:
    primary, colors = found["primary"], row_colors(found)
    drawn = []
    for cost, factor, label in (
        ("processor seconds", 1.0, "processor seconds of training"),
        ("seconds per frame", 1.0, "seconds a frame"),
        ("peak memory, bytes", 1e-6, "peak memory of training, MB"),
    ):
        points = {
            name: (row["cost"][cost] * factor, row["scores"][primary]["mean"])
            for name, row in found["rows"].items()
            if row["cost"].get(cost) is not None
        }
        drawn.append(charts.scatter(points, label, primary, HIGHER[kind_of(primary)], colors))
    return "".join(drawn)


def _curves(found: Mapping[str, Any]) -> str:
    """Validation PSNR over steps and over processor seconds."""
    lines = found["curves"]
    if not any(lines.values()):
        return ""
    colors = row_colors(found)
    drawn = [
        charts.curves({name: [(point[axis], point[-1]) for point in line] for name, line in lines.items()},
                      label, "validation PSNR, dB", colors)
        for axis, label in ((0, "steps"), (3, "processor seconds"))
    ]  # fmt: skip
    return (
        "<h2>While training</h2><p class=note>On validation frames, which no row trains on; mean over captures and "
        f"seeds.</p><div class=charts>{''.join(drawn)}</div>"
    )


def _over_yaw(found: Mapping[str, Any]) -> str:
    """Quality over the direction that the head is seen from."""
    curve = found["over yaw"]
    if not curve:
        return ""
    lines = {name: [(yaw, value) for yaw, value, _ in row] for name, row in curve["rows"].items()}
    drawn = charts.curves(lines, "yaw of the camera around the head, degrees", curve["measure"], row_colors(found))
    return f"<h2>Over yaw</h2><div class=charts>{drawn}</div>"


def _regions(found: Mapping[str, Any]) -> str:
    """Bars: the primary measure by capture, and its kind by region."""
    primary, rows = found["primary"], found["rows"]
    kind = kind_of(primary)
    columns: dict[str, dict[str, float]] = {}
    if len(found["study"]["captures"]) > 1:
        for name, row in rows.items():
            for capture, score in row["captures"].items():
                columns.setdefault(f"{primary} on {capture}", {})[name] = score
    for measure in found["measures"]:
        if kind_of(measure) == kind:
            columns[measure] = {name: row["scores"][measure]["mean"] for name, row in rows.items()}
    scales = {}
    for column, values in columns.items():
        finite = [value for value in values.values() if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        scales[column] = (low - 0.25 * (high - low), high) if high > low else (0.0, high or 1.0)
    body = []
    for name in ranked(found):
        cells = []
        for column, values in columns.items():
            value, (low, high) = values.get(name, math.nan), scales[column]
            share = 100 * (value - low) / (high - low) if math.isfinite(value) and high > low else 0
            text = f"{value:.{2 if abs(value) >= 2 else 4}f}" if math.isfinite(value) else "–"
            cells.append(f'<td class=bar style="--w:{share:.0f}%">{text}</td>')
        body.append(f"<tr><td>{_escape(name)}</td>{''.join(cells)}")
    return _in_table(["row", *columns], body) + (
        "<p class=note>Bars span the rows of a column; they do not start at zero.</p>"
    )


def _pictures(pictures: Mapping[str, bytes]) -> str:
    if not pictures:
        return ""
    images = "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(image).decode()}" alt="{_escape(title)}">'
        f"<figcaption>{_escape(title)}</figcaption></figure>"
        for title, image in pictures.items()
    )
    return (
        "<h2>Where the baseline is worst</h2><p class=note>Truth, rendering, and four times the mean absolute error, "
        f"of the first seed.</p><div class=pictures>{images}</div>"
    )


def _trials(found: Mapping[str, Any]) -> str:
    """Which factors on the learning rates were tried, and which one was chosen."""
    trials: Sequence[Mapping[str, Any]] = found["trials"]
    if not trials:
        return ""
    factors = list(trials[0]["scores"])
    body = []
    for trial in trials:
        scores = (trial["scores"][factor] for factor in factors)
        cells = ["–" if score is None or not math.isfinite(score) else f"{score:.2f}" for score in scores]
        edge = "at the edge of the grid: a better one may lie beyond" if trial["at the edge"] else ""
        texts = [
            trial["row"],
            trial["capture"],
            *cells,
            f"× {trial['factor']:g}",
            f"{trial['processor seconds']:.0f}",
            edge,
        ]
        body.append("<tr>" + "".join(f"<td>{_escape(text)}</td>" for text in texts))
    head = ["row", "capture", *(f"× {factor}" for factor in factors), "chosen", "training, s", ""]
    return (
        "<h2>Learning rates</h2><p class=note>Factors on all learning rates of a row, each trained with the whole "
        f"budget from a seed of its own; {_escape(found['primary'])} on validation frames.</p>"
    ) + _in_table(head, body)


def _list(entries: Mapping[str, Any]) -> str:
    shown = "".join(f"<dt>{_escape(name)}<dd>{_escape(value)}" for name, value in entries.items())
    return f"<dl>{shown}</dl>"
