"""The report of a study: table with intervals and verdicts, cost, pictures; as HTML, CSV, LaTeX and JSON."""

import csv
import io
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headfields.avatar.splat_avatar import load_avatar
from headfields.compare.cells import Cell, chosen_factors, footing, gathered, opened
from headfields.compare.pace import pace_line, uneven_pace
from headfields.compare.page import gain, page
from headfields.compare.statistics import Difference, holm, paired_difference, seeds_needed, verdicts
from headfields.compare.strata import stratum_frames
from headfields.compare.study import HIGHER, Study, kind_of, trial_factors
from headfields.compare.yaw_curve import yaw_curve
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
    differences = {}
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
            differences[capture] = np.array(gains)
    return differences


def findings(study: Study, done: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]]) -> dict[str, Any]:
    """What the figures of finished cells say, whatever code made them and wherever their captures are.

    Args:
        study: what was asked: its baseline, primary measure, margin and level.
        done: results of cells by row, and by capture and seed.

    Returns:
        Scores, costs, differences and verdicts of the rows, curves, and quality over yaw.

    Raises:
        ValueError: no cell has the primary measure.
    """
    measures = measures_of([result for row in done.values() for result in row.values()])
    if study.primary not in measures:
        raise ValueError(
            f"the primary measure {study.primary!r} is in no cell; they have {', '.join(measures)} (regions need a "
            "capture with labels, LPIPS its package and weights)"
        )
    baseline = study.baseline or ""
    level = study.level / len(study.looks)
    rows: dict[str, dict[str, Any]] = {}
    primary: dict[str, Difference] = {}
    for name, runs in done.items():
        scores = {measure: _spread([summary(run, measure) for run in runs.values()]) for measure in measures}
        costs = [run["cost"] for run in runs.values()]
        rows[name] = {
            "cells": len(runs),
            "scores": scores,
            "cost": {what: _median([cost.get(what) for cost in costs]) for what in costs[0] if what != "diverged"},
            "diverged": sum(cost["diverged"] is not None for cost in costs),
            "captures": {
                Path(capture).name: _spread(
                    [summary(run, study.primary) for (place, _), run in runs.items() if place == capture]
                )["mean"]
                for capture in dict.fromkeys(capture for capture, _ in runs)
            },
            "differences": {},
        }
        if name == baseline or baseline not in done:
            continue
        for measure in measures:
            gains = differences_of(runs, done[baseline], measure)
            if not gains:
                continue
            margin = study.margin if measure == study.primary else None
            difference = paired_difference(gains, margin, level)
            rows[name]["differences"][measure] = vars(difference)
            if measure == study.primary:
                primary[name] = difference
    unequal = uneven_pace(study, done)
    # Rows that did not have the baseline's seconds are on no equal footing, whatever their figures are.
    decided = {name: "undetermined" if name in unequal else v for name, v in verdicts(primary, level).items()}
    corrected = holm({name: difference.p for name, difference in primary.items()})
    for name, difference in primary.items():
        rows[name] |= {"verdict": decided[name], "p": corrected[name]}
        if decided[name] == "undetermined" and name not in unequal and difference.deviation > 0:
            effect, asked = study.margin or 0.2, len(primary)
            rows[name]["seeds to see it"] = _needed(difference.deviation, effect, difference.captures, asked, level)
    return {
        "name": study.name, "study": study.data(), "key": study.key(), "baseline": baseline, "primary": study.primary,
        "level": study.level, "margin": study.margin, "rows": rows, "measures": measures, "looks": study.looks,
        "uneven pace": unequal,
        "over yaw": yaw_curve(done, study.primary) or yaw_curve(done, study.primary, "test"),
        "curves": {name: mean_curve(runs.values()) for name, runs in done.items()},
    }  # fmt: skip


def content(
    study: Study,
    cells: Sequence[Cell],
    out: Path,
    without: Mapping[str, str],
    trials: Sequence[Cell] = (),
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What report.json holds.

    Raises:
        ValueError: no cell has the primary measure.
    """
    done = gathered(cells, out)
    figures = findings(study, done)
    return {
        **figures,
        "left out": dict(without),
        "noise ceiling": {Path(folder).name: noise_ceiling(folder) for folder in study.captures},
        "footing": {**_common(study), "budget": study.stated_budget,
                    **measured_by(done, figures["measures"])},
        "seeds": max((cell.seed for cell in cells), default=-1) + 1,
        "trials": tried(study, trials, out), "failed": dict(failed or {}),
        "machine": {**versions(), "processor": platform.machine(), "threads": torch.get_num_threads(),
                    "device": cells[0].device if cells else ""},
    }  # fmt: skip


def _common(study: Study) -> dict[str, Any]:
    """What all rows share, of rows that train avatars of images."""
    if study.rows[study.baseline or ""].run is not None:
        return dict(study.arguments)
    source = study.load_capture(study.captures[0])
    own = {"mouth": study.mouth, **study.stated, **footing(study, source)}
    return {**own, "split": study.split, "background": study.background}


def measured_by(
    done: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]], measures: Sequence[str]
) -> dict[str, str]:
    """What has taken FLIP and LPIPS, where they were measured: packages, versions, network; all there are."""
    results = [result for row in done.values() for result in row.values()]
    kinds = [kind for kind in ("flip", "lpips") if any(kind_of(measure) == kind for measure in measures)]
    return {
        kind.upper(): "; ".join(
            dict.fromkeys(r["instruments"][kind] for r in results if kind in r.get("instruments", {}))
        )
        for kind in kinds
    }


def tried(study: Study, trials: Sequence[Cell], out: Path) -> list[dict[str, Any]]:
    """By row and capture: the score of each factor on the learning rates, the one chosen, and whether it is at an edge
    of the grid, beyond which a better one may lie."""
    chosen, factors = chosen_factors(study, trials, out), trial_factors(study.trials)
    tuned = []
    measure = study.primary.partition("@")[0]
    for (row, capture), factor in chosen.items():
        own = [cell for cell in trials if (cell.row, cell.pair) == (row, capture)]
        results = {cell.factor: cell.done(out) for cell in own}
        scores = {f"{each:g}": None if result is None else summary(result, measure)
                  for each, result in results.items()}  # fmt: skip
        seconds = sum(result["cost"]["processor seconds"] for result in results.values() if result is not None)
        tuned.append({"row": row, "capture": Path(capture).name, "factor": factor, "scores": scores,
                      "at the edge": factor in (factors[0], factors[-1]), "processor seconds": seconds})  # fmt: skip
    return tuned


def mean_curve(runs: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """The mean of the curves of cells, point by point: [step, rays, wall seconds, processor seconds, PSNR]."""
    known = [run["curve"] for run in runs if run["curve"]]
    shortest = min(map(len, known), default=0)
    return np.mean([curve[:shortest] for curve in known], axis=0).tolist() if shortest else []


def _needed(deviation: float, difference: float, captures: int, rows: int, level: float) -> int | None:
    try:
        return seeds_needed(deviation, difference, captures, rows, level)
    except ValueError:
        return None


def _median(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _spread(values: Sequence[float]) -> dict[str, float]:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return {"mean": math.nan, "deviation": math.nan}
    return {"mean": float(np.mean(known)), "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else math.nan}


def write_report(
    study: Study,
    cells: Sequence[Cell],
    out: Path,
    without: Mapping[str, str],
    trials: Sequence[Cell] = (),
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes report.json, report.html, table.tex and frames.csv into `out`, and returns what report.json holds."""
    report = content(study, cells, out, without, trials, failed)
    write_json(out / "report.json", _finite(report))
    write_text(out / "table.tex", latex(report))
    write_text(out / "frames.csv", raw_rows(cells, out, report["measures"]))
    write_text(out / "report.html", page(report, worst_frame(study, cells, out)))
    return report


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
    if study.rows[study.baseline or ""].run is not None:
        return {}
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
    source, _ = opened(first[0].study, first[0].capture)
    source, _ = stratum_frames(first[0].study, stratum or "test", source)
    pictures = {}
    for cell in first:
        result = cell.done(out)
        path, saved = (
            cell.folder(out) / f"{stratum or 'test'}_{frame:06d}.png",
            RunFolder(cell.folder(out) / "run").avatar,
        )
        if result is None or not (path.exists() or saved.exists()):  # of figures alone, without the avatar
            continue
        if not path.exists():
            avatar = load_avatar(saved).to(cell.device).eval()
            write_picture(path, picture(avatar, source, frame, study.background)[0])
        score = frame_scores(result, study.primary).get(frame)
        figure = "" if score is None else f", {study.primary} {score:.2f}"
        pictures[f"{cell.row}: frame {frame}{figure}"] = path.read_bytes()
    return pictures


def lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each row of what `run_study` returns: its score, the difference to the baseline, the verdict."""
    primary, said = found["primary"], []
    for name, row in found["rows"].items():
        difference = row["differences"].get(primary)
        by = "" if difference is None else f", {difference['mean']:+.3f}: {row['verdict']}"
        said.append(f"{name}: {primary} {row['scores'][primary]['mean']:.3f}{by}")
    return [*said, *filter(None, [pace_line(found)])]


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
        lines.append(" & ".join([_tex(name), *cells, gain(row, found["primary"]), row.get("verdict", "baseline")])
                     + r" \\")  # fmt: skip
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(rf"\{letter}" if letter in "&%$#_{}" else letter for letter in text)


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
