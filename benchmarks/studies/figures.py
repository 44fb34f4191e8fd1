"""Figures that the repository keeps of a study that has run: `STUDY.json` beside `STUDY.toml`.

One line a cell: costs, the curve, and of every frame the measures that pages need, to four digits. What pages say of
them is computed anew, so that the figures stay what they are when the library's code changes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headfields.compare import Study
from headfields.compare.cells import cells_of, joined, named
from headfields.compare.report import findings, summary
from headfields.data.noise_ceiling import noise_ceiling
from headfields.files.atomic import write_text

FOLDER = Path(__file__).parent
KEPT = ("psnr", "psnr_head", "psnr_face", "psnr_hair", "psnr_mouth", "ssim_head", "flip_head", "lpips", "depth")
"""Measures that are kept, beside the study's primary one."""


def keep(study: Study, out: Path, target: Path, commit: str) -> int:
    """Writes the figures of the finished cells below a study's folder, or below one that `--export` wrote.

    Cells of another budget, split or options than the study's, of an earlier version of it, are left out. Cells that
    the file has of the same commit stay where the folder lacks them: each machine's folder is kept in turn.

    Args:
        study: what has run.
        out: has `cells/*/result.json`.
        target: the file to write.
        commit: of the code that ran.

    Returns:
        The number of cells that the file has then.

    Raises:
        ValueError: no cell is finished, cells are of two versions of the code, or of rows that the study lacks.
    """
    results, described = [], []
    shared = json.loads(json.dumps(cells_of(study, seeds=1)[0].shared(), default=str))
    for path in sorted(out.glob("cells/*/result.json")):
        result, about = json.loads(path.read_text()), path.with_name("cell.json")
        if about.exists() and not result.get("condition"):  # figures alone have none
            made = json.loads(about.read_text())
            steps = study.steps_by_row.get(result["row"])
            if made["shared"] != shared or made.get("row", {}).get("steps") != steps:
                continue  # of another budget, or other options: an earlier version of the study
            described.append(made)
        if not result["trial"]:
            results.append(result)
    unknown = sorted({result["row"] for result in results} - set(study.rows))
    if unknown or not results:
        raise ValueError(f"{out} has {len(results)} finished cells, of rows that {study.name!r} lacks: {unknown}")
    origins = {json.dumps([each["code"], each["versions"], each["device"]]) for each in described}
    if len(origins) > 1:
        raise ValueError(f"{out} has cells of {len(origins)} versions of the code or of libraries; keep those of one")
    measures = [*dict.fromkeys((study.primary.partition("@")[0], *KEPT))]
    lines = []
    for result in results:
        strata: dict[str, list[Any]] = {}
        for frame in result["frames"]:
            row = [frame["frame"], frame["yaw"], *(_short(frame.get(measure)) for measure in measures)]
            strata.setdefault(frame["stratum"], []).append(row)
        lines.append({
            "row": result["row"], "capture": Path(result.get("pair", result["capture"])).name, "seed": result["seed"],
            "condition": result.get("condition", ""), "factor": result["factor"],
            "cost": {what: _short(value, 7) for what, value in result["cost"].items()},
            "curve": [[_short(value, 6) for value in point] for point in result["curve"]], "frames": strata,
        })  # fmt: skip
    new = {_place(line) for line in lines}
    lines += [line for line in _kept_of(target, commit, measures) if _place(line) not in new]
    lines.sort(key=lambda line: (list(study.rows).index(line["row"]), line["capture"], line["seed"], line["condition"]))
    head = {
        "commit": commit, "measures": measures, "noise ceiling": {Path(f).name: _ceiling(f) for f in study.captures},
        "versions": described[0]["versions"] if described else {}, "cells in all": len(study),
        "steps by row": dict(study.steps_by_row),
    }  # fmt: skip
    cells = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
    write_text(target, f'{json.dumps(head)[:-1]}, "cells": [\n{cells}\n]}}\n')
    return len(lines)


def _kept_of(target: Path, commit: str, measures: list[str]) -> list[dict[str, Any]]:
    """The cells that a file of figures has, if they are of this commit and of the same measures."""
    kept = json.loads(target.read_text()) if target.exists() else {}
    return kept["cells"] if kept and kept["commit"] == commit and kept["measures"] == measures else []


def _place(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["row"], line["capture"], line["seed"], line["condition"]


def _ceiling(folder: str) -> dict[str, Any]:
    return noise_ceiling(folder) if Path(folder).is_dir() else {}


def _short(value: Any, digits: int = 4) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def kept_findings(path: Path) -> dict[str, Any]:
    """What the kept figures of a study say: `headfields.compare.report.findings`, with their commit and versions.

    Args:
        path: `STUDY.json`, beside `STUDY.toml`.

    Raises:
        ValueError: a cell is of a row that the study lacks.
    """
    study, kept = Study.load(path.with_suffix(".toml")), json.loads(path.read_text())
    unknown = sorted({cell["row"] for cell in kept["cells"]} - set(study.rows))
    if unknown:
        raise ValueError(f"{path.name} has rows that {study.name!r} lacks: {', '.join(unknown)}; keep its figures anew")
    study = replace(study, steps_by_row=kept.get("steps by row", {}))  # as the cells ran, whatever the study says now
    results = kept_results(path)
    found = findings(study, results)
    found["spread"] = {name: _spread(runs, study.primary) for name, runs in results.items()}
    found["rows"] = {name: found["rows"][name] for name in study.rows if name in found["rows"]}
    about = {what: kept[what] for what in ("commit", "noise ceiling", "versions", "cells in all")}
    seeds = {(cell["capture"], cell["seed"]) for cell in kept["cells"]}
    return {**found, **about, "cells": len(kept["cells"]), "pairs in all": len(seeds), "all rows": list(study.rows),
            "budget": study.stated_budget, "strata": list(study.strata)}  # fmt: skip


def _spread(runs: Mapping[tuple[str, int], Mapping[str, Any]], measure: str) -> float:
    """Deviation of a measure over the seeds of a capture, of all captures; NaN where none has two."""
    captures: dict[str, list[float]] = {}
    for (capture, _), run in runs.items():
        captures.setdefault(capture, []).append(summary(run, measure))
    freedom = sum(len(scores) - 1 for scores in captures.values())
    squares = sum(len(scores) * float(np.var(scores)) for scores in captures.values())
    return math.sqrt(squares / freedom) if freedom else math.nan


def kept_results(path: Path) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """The kept results of a study, `STUDY.json`, by row, and by capture and seed, with the scores of every frame."""
    kept = json.loads(path.read_text())
    return joined(_result(cell, kept["measures"]) for cell in kept["cells"])


def _result(cell: Mapping[str, Any], measures: list[str]) -> tuple[str, str, int, dict[str, Any]]:
    """A cell's row, capture and seed, and its figures as a cell of a study has them."""
    frames = [
        {"stratum": stratum, "frame": row[0], "yaw": row[1], **dict(zip(measures, row[2:], strict=True))}
        for stratum, rows in cell["frames"].items()
        for row in rows
    ]
    result = {**cell, "frames": frames}
    return cell["row"], cell["capture"], cell["seed"], named(result, cell["condition"])


def all_kept() -> dict[str, Path]:
    """Files of kept figures, by the name of their study."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
