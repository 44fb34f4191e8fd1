"""The report of a study: table with intervals and verdicts, cost, pictures; as HTML, CSV, LaTeX and JSON."""

import base64
import csv
import html
import io
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headfields import data
from headfields.avatar.splat_avatar import load_avatar
from headfields.compare.cells import Cell, footing, gathered
from headfields.compare.statistics import Difference, holm, paired_difference, seeds_needed, verdicts
from headfields.compare.strata import choose_training, frames_of
from headfields.compare.study import HIGHER, Study, kind_of
from headfields.compare.yaw_curve import draw_yaw_curve, yaw_curve
from headfields.data.noise_ceiling import noise_ceiling
from headfields.files.atomic import write_text
from headfields.runs.folder import RunFolder, versions, write_json, write_picture
from headfields.training.evaluation import picture

MOST = 120.0
"""dB of equal images, which are infinitely many."""


def summary(result: Mapping[str, Any], measure: str) -> float:
    """Mean of a measure over the frames of a cell that have it; NaN if none has."""
    values = [value for value in frame_scores(result, measure).values() if value is not None]
    return float(np.mean(values)) if values else math.nan


def frame_scores(result: Mapping[str, Any], measure: str) -> dict[int, float | None]:
    """A measure by frame; None for a frame without what it is measured on."""
    return {
        row["frame"]: None if row[measure] is None else min(float(row[measure]), MOST)
        for row in result["frames"]
        if measure in row
    }


def measures_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures that some frame has, in the order of the first."""
    names = [name for result in results for row in result["frames"] for name, value in row.items() if value is not None]
    return [name for name in dict.fromkeys(names) if kind_of(name) in HIGHER]


def differences_of(
    row: Mapping[tuple[str, int], Mapping[str, Any]], base: Mapping[tuple[str, int], Mapping[str, Any]], measure: str
) -> dict[str, np.ndarray]:
    """By capture, (seeds, frames): how much better a row is than the baseline, of the same capture, seed and frame."""
    sign = 1.0 if HIGHER[kind_of(measure)] else -1.0
    found = {}
    for capture in dict.fromkeys(capture for capture, _ in row):
        seeds = sorted(seed for place, seed in row if place == capture and (capture, seed) in base)
        pairs = [[frame_scores(side[capture, seed], measure) for side in (row, base)] for seed in seeds]
        frames = [
            frame
            for frame in (pairs[0][0] if pairs else {})
            if all(scores.get(frame) is not None for pair in pairs for scores in pair)
        ]
        if frames:
            gains = [[sign * (own[frame] - other[frame]) for frame in frames] for own, other in pairs]  # type: ignore[operator]
            found[capture] = np.array(gains)
    return found


def content(study: Study, cells: Sequence[Cell], out: Path, without: Mapping[str, str]) -> dict[str, Any]:
    """What report.json holds.

    Raises:
        ValueError: no cell has the primary measure.
    """
    done = gathered(cells, out)
    results = [result for row in done.values() for result in row.values()]
    measures = measures_of(results)
    if study.primary not in measures:
        raise ValueError(
            f"the primary measure {study.primary!r} is in no cell; they have {', '.join(measures)} (regions need a "
            "capture with labels, LPIPS its package and weights)"
        )
    baseline = study.baseline or ""
    rows: dict[str, dict[str, Any]] = {}
    primary: dict[str, Difference] = {}
    for name, runs in done.items():
        scores = {measure: _spread([summary(run, measure) for run in runs.values()]) for measure in measures}
        costs = [run["cost"] for run in runs.values()]
        rows[name] = {
            "cells": len(runs),
            "scores": scores,
            "cost": {what: float(np.median([cost[what] for cost in costs])) for what in costs[0] if what != "diverged"},
            "diverged": sum(cost["diverged"] is not None for cost in costs),
            "differences": {},
        }
        if name == baseline or baseline not in done:
            continue
        for measure in measures:
            gains = differences_of(runs, done[baseline], measure)
            if not gains:
                continue
            margin = study.margin if measure == study.primary else None
            found = paired_difference(gains, margin, study.level)
            rows[name]["differences"][measure] = vars(found)
            if measure == study.primary:
                primary[name] = found
    decided = verdicts(primary, study.level)
    corrected = holm({name: found.p for name, found in primary.items()})
    for name, found in primary.items():
        rows[name] |= {"verdict": decided[name], "p": corrected[name]}
        if decided[name] == "undetermined" and found.deviation > 0:
            wanted = study.margin or 0.2
            rows[name]["seeds to see it"] = _needed(found.deviation, wanted, found.captures, len(primary), study.level)
    source = data.load_capture(Path(str(study.captures[0])), mouth=study.mouth)  # type: ignore[arg-type]
    return {
        "name": study.name, "study": study.data(), "key": study.key(), "baseline": baseline, "primary": study.primary,
        "level": study.level, "margin": study.margin, "rows": rows, "left out": dict(without), "measures": measures,
        "noise ceiling": {Path(folder).name: noise_ceiling(folder) for folder in study.captures},
        "over yaw": yaw_curve(done, study.primary) or yaw_curve(done, study.primary, "test"),
        "footing": {"mouth": study.mouth, **footing(study, source), "split": study.split,
                    "background": study.background, "steps": study.steps, "seconds": study.seconds},
        "machine": {**versions(), "processor": platform.machine(), "threads": torch.get_num_threads(),
                    "device": cells[0].device if cells else ""},
    }  # fmt: skip


def _needed(deviation: float, difference: float, captures: int, rows: int, level: float) -> int | None:
    try:
        return seeds_needed(deviation, difference, captures, rows, level)
    except ValueError:
        return None


def _spread(values: Sequence[float]) -> dict[str, float]:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return {"mean": math.nan, "deviation": math.nan}
    return {"mean": float(np.mean(known)), "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else math.nan}


def write_report(study: Study, cells: Sequence[Cell], out: Path, without: Mapping[str, str]) -> dict[str, Any]:
    """Writes report.json, report.html, table.tex and frames.csv into `out`, and returns what report.json holds."""
    found = content(study, cells, out, without)
    write_json(out / "report.json", _finite(found))
    write_text(out / "table.tex", latex(found))
    write_text(out / "frames.csv", raw_rows(cells, out, found["measures"]))
    write_text(out / "report.html", page(found, worst_frame(study, cells, out)))
    return found


def raw_rows(cells: Sequence[Cell], out: Path, measures: Sequence[str]) -> str:
    """Every frame of every cell as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "capture", "seed", "condition", "stratum", "frame", "yaw", *measures])
    for cell in cells:
        for frame in (cell.done(out) or {"frames": []})["frames"]:
            scores = [frame.get(measure) for measure in measures]
            place = [cell.row, Path(cell.capture).name, cell.seed, cell.condition, frame["stratum"], frame["frame"]]
            writer.writerow([*place, frame["yaw"], *scores])
    return file.getvalue()


def worst_frame(study: Study, cells: Sequence[Cell], out: Path) -> dict[str, bytes]:
    """Truth | rendering | error as PNG by row, first capture and seed, of the frame where the baseline is worst."""
    stratum, _, condition = study.primary.partition("@")[2].partition(", ")
    if stratum in study.conditions:
        stratum, condition = "", stratum
    place = (study.captures[0], 0, condition)
    first = [cell for cell in cells if (cell.pair or cell.capture, cell.seed, cell.condition) == place]
    base = next((cell.done(out) for cell in first if cell.row == study.baseline), None)
    if base is None:
        return {}
    scores = {frame: value for frame, value in frame_scores(base, study.primary).items() if value is not None}
    if not scores:
        return {}
    pick = min if HIGHER[kind_of(study.primary)] else max
    frame = pick(scores, key=lambda index: scores[index])
    source = data.load_capture(Path(first[0].capture), mouth=study.mouth)  # type: ignore[arg-type]
    choose_training(source, first[0].study.share, first[0].study.held_out, first[0].study.front)
    source, _ = frames_of(first[0].study, stratum or "test", source)
    pictures = {}
    for cell in first:
        if cell.done(out) is None:
            continue
        path = cell.folder(out) / f"{stratum or 'test'}_{frame:06d}.png"
        if not path.exists():
            avatar = load_avatar(RunFolder(cell.folder(out) / "run").avatar).to(cell.device).eval()
            write_picture(path, picture(avatar, source, frame, study.background)[0])
        pictures[f"{cell.row} (frame {frame})"] = path.read_bytes()
    return pictures


def latex(found: Mapping[str, Any]) -> str:
    """The table for a paper, with booktabs: means, and the interval of the difference in the primary measure."""
    shown = found["measures"][:4]
    lines = [
        rf"% {found['name']}, study {found['key']}; level {found['level']}, Holm over {len(found['rows']) - 1} rows",
        rf"\begin{{tabular}}{{l{'r' * len(shown)}rl}}",
        r"\toprule",
        " & ".join(["", *map(_tex, shown), rf"$\Delta$ {_tex(found['primary'])}", "verdict"]) + r" \\",
        r"\midrule",
    ]
    for name, row in found["rows"].items():
        cells = [f"{row['scores'][measure]['mean']:.3g}" if measure != found["primary"] else
                 f"{row['scores'][measure]['mean']:.2f}" for measure in shown]  # fmt: skip
        lines.append(" & ".join([_tex(name), *cells, _interval(row, found["primary"]), row.get("verdict", "baseline")])
                     + r" \\")  # fmt: skip
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(rf"\{letter}" if letter in "&%$#_{}" else letter for letter in text)


def _interval(row: Mapping[str, Any], measure: str) -> str:
    difference = row["differences"].get(measure)
    if difference is None:
        return "–"
    low = min(difference["interval"][0], difference["bootstrap"][0])
    high = max(difference["interval"][1], difference["bootstrap"][1])
    span = f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else ""
    return f"{difference['mean']:+.2f}{span}"


def page(found: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The report as one HTML page that needs no other file."""
    name, primary = html.escape(found["name"]), found["primary"]
    columns = ("row", "cells", *found["measures"], f"Δ {primary}", "verdict", "training, s", "frame, s", "parameters")
    head = "".join(f"<th>{html.escape(text)}</th>" for text in columns)
    body = []
    for title, row in found["rows"].items():
        means = [_mean(row["scores"][measure]) for measure in found["measures"]]
        verdict = row.get("verdict", "baseline")
        more = f" ({row['seeds to see it']} seeds to see it)" if row.get("seeds to see it") else ""
        cost = row["cost"]
        texts = [title, row["cells"], *means, _interval(row, primary), verdict + more, f"{cost['seconds']:.0f}",
                 f"{cost['seconds per frame']:.3f}", f"{cost['parameters']:,.0f}"]  # fmt: skip
        body.append(f"<tr class={verdict}>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in texts) + "</tr>")
    left = "".join(f"<li><b>{html.escape(row)}</b>: {html.escape(why)}</li>" for row, why in found["left out"].items())
    images = "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(image).decode()}" alt="{html.escape(title)}">'
        f"<figcaption>{html.escape(title)}: truth, rendering, error</figcaption></figure>"
        for title, image in pictures.items()
    )
    shared = "".join(f"<dt>{html.escape(str(what))}<dd>{html.escape(str(value))}" for what, value in
                     {**found["footing"], **found["machine"], "study": found["key"]}.items())  # fmt: skip
    margin = f", equivalent within {found['margin']}" if found["margin"] else ""
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>
<meta name=viewport content="width=device-width"><style>{_STYLE}</style>
<h1>{name}</h1>
<p>Primary measure: <b>{html.escape(primary)}</b>, differences to <b>{html.escape(found["baseline"])}</b> over the same
captures, seeds and frames; the wider one of Student's interval and the hierarchical bootstrap's. Verdicts at level
{found["level"]} over all rows (Holm){margin}; the other measures are described, not decided.</p>
<p>Noise ceiling of the captures: {html.escape(ceilings(found["noise ceiling"]))}.</p>
<table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>
{f"<h2>Left out</h2><ul>{left}</ul>" if left else ""}
<h2>Quality and cost</h2>
{_pareto(found, "seconds per frame", "seconds a frame")}{_pareto(found, "seconds", "seconds of training")}
{draw_yaw_curve(found["over yaw"])}
<h2>Where the baseline is worst</h2><div class=pictures>{images}</div>
<h2>Footing and machine</h2><dl>{shared}</dl></html>
"""


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color-scheme:light dark}
table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{padding:.25rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid #8884}
td:first-child,th:first-child{text-align:left}
.better td{background:#2a82}.worse td{background:#c332}.equivalent td{background:#27c2}
img{max-width:100%;image-rendering:pixelated}figure{margin:1rem 0}svg{max-width:34rem;width:100%;margin-right:1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}
"""


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
    spread = f" ± {score['deviation']:.2f}" if math.isfinite(score["deviation"]) else ""
    return f"{score['mean']:.2f}{spread}" if abs(score["mean"]) >= 2 else f"{score['mean']:.4f}"


def _pareto(found: Mapping[str, Any], cost: str, label: str) -> str:
    """Quality over a cost, logarithmic, as SVG; rows that another one beats in both are gray."""
    sign = 1 if HIGHER[kind_of(found["primary"])] else -1
    points = {
        name: (row["cost"][cost], row["scores"][found["primary"]]["mean"])
        for name, row in found["rows"].items()
        if row["cost"][cost] > 0 and math.isfinite(row["scores"][found["primary"]]["mean"])
    }
    if not points:
        return ""
    across = [math.log10(x) for x, _ in points.values()]
    up = [y for _, y in points.values()]
    wide, tall = max(max(across) - min(across), 0.1), max(max(up) - min(up), 0.1)
    marks = []
    for name, (x, y) in points.items():
        beaten = any(a <= x and sign * b >= sign * y and (a, b) != (x, y) for a, b in points.values())
        left = 60 + 330 * (math.log10(x) - min(across)) / wide
        top = 230 - 190 * (y - min(up)) / tall
        color = "#999" if beaten else "#06c"
        marks.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5" fill="{color}"/>'
            f'<text x="{left + 8:.1f}" y="{top + 4:.1f}" font-size="11" fill="{color}">{html.escape(name)}</text>'
        )
    ends = [(60, f"{10 ** min(across):.3g}"), (390, f"{10 ** max(across):.3g}")]
    ticks = "".join(f'<text x="{x}" y="262" font-size="11" fill="currentColor">{text}</text>' for x, text in ends)
    ticks += "".join(f'<text x="8" y="{y}" font-size="11" fill="currentColor">{value:.2f}</text>'
                     for y, value in ((234, min(up)), (44, max(up))))  # fmt: skip
    return (
        f'<svg viewBox="0 0 520 285" role="img" aria-label="{html.escape(found["primary"])} over {label}">'
        f'<path d="M50 30V245H470" fill="none" stroke="#888"/>{"".join(marks)}{ticks}'
        f'<text x="200" y="280" font-size="12" fill="currentColor">{label}</text>'
        f'<text x="8" y="20" font-size="12" fill="currentColor">{html.escape(found["primary"])}</text></svg>'
    )


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
