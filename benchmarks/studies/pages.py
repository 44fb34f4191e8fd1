"""Pages of the documentation from the figures of studies: `python -m benchmarks.studies.pages`.

What stands in a page between `<!-- figures STUDY KIND ... -->` and `<!-- end of figures -->` is written anew from the
figures that the repository keeps, `benchmarks/studies/STUDY.json`:

- `table`: all rows, with intervals and verdicts;
- `spread`: how far the cells of each row lie apart that differ by their seed alone;
- `verdicts`: what is decided, and what is not; `summary` the same in numbers;
- `difference MEASURE ROW`: of one row, within a sentence or a cell of a table;
- `claim better|worse MEASURE "ROW"`: whether the row is what a claim says, beside the study's baseline. A study without
  kept figures has not run, which the page then says, with the study's file.

`--keep OUT --study STUDY --commit COMMIT` first takes the figures from the folder of a study that has run, or from one
that `headfields compare --export` wrote; some of the cells are enough. `--check` writes nothing, and fails where a page
says something else.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies import picture
from benchmarks.studies.figures import FOLDER, all_kept, keep, kept_findings
from headfields.compare import Study
from headfields.compare.pace import pace_line
from headfields.compare.page import bounds_of, ceilings, gain, ranked
from headfields.compare.study import measure_in
from headfields.files.atomic import write_text

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- figures (\w+) (\w+)(?: ([^\n]*?))? -->)(.*?)(<!-- end of figures -->)", re.DOTALL)
UNITS = {"psnr": "dB", "ssim": "", "lpips": "", "flip": "", "depth": "mm", "normal": "°", "flicker": "levels"}
PICTURED = {"primitives": ROOT / "docs" / "images" / "primitives.png"}
"""Studies with a picture of quality over cost, and where it is."""


def written(text: str, findings: Mapping[str, Mapping[str, Any]]) -> str:
    """A page with its blocks written anew.

    Raises:
        ValueError: a block is of a study without kept figures, of an unknown kind, or of a row that has no figures.
    """

    def block(match: re.Match[str]) -> str:
        begin, study, kind, rest, _, end = match.groups()
        if kind == "claim":
            return f"{begin}{claim(study, findings.get(study), rest or '')}{end}"
        if study not in findings or kind not in KINDS:
            raise ValueError(
                f"{begin}: figures are kept of {', '.join(findings) or 'no study'}, kinds are {', '.join(KINDS)}"
            )
        inside = KINDS[kind](findings[study], rest or "")
        return f"{begin}{inside}{end}" if kind == "difference" else f"{begin}\n{inside}\n{end}"

    return BLOCK.sub(block, text)


def table(found: Mapping[str, Any], _: str = "") -> str:
    """The rows in Markdown, the best first: primary measure, difference, verdict, other strata and measures, costs."""
    primary, rows = found["primary"], found["rows"]
    measure = primary.partition("@")[0]
    further = [measure_in(measure, stratum) for stratum in found["strata"]]
    further += [
        name for name in ("psnr_face", "psnr_mouth", "ssim_head", "flip_head", "lpips") if name in found["measures"]
    ]
    columns = [primary, *(name for name in dict.fromkeys(further) if name != primary and name in found["measures"])]
    head = ["row", columns[0], "difference", "verdict", *columns[1:], "frame, s", "steps", "memory, MB", "pairs"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in ranked(found):
        row = rows[name]
        scores = [_score(row["scores"][column]["mean"]) for column in columns]
        cost = row["cost"]
        cells = [
            f"**{name}**" if name == found["baseline"] else name, scores[0], gain(row, primary).replace("-", "−"),
            row.get("verdict", "baseline" if name == found["baseline"] else "–"), *scores[1:],
            f"{cost['seconds per frame']:.3f}", f"{cost['steps']:,.0f}", _megabytes(cost.get("peak memory, bytes")),
            str(pairs_of(found, name)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(found: Mapping[str, Any], _: str = "") -> str:
    """By row: the primary measure, its deviation over the seeds of a capture, and the number of cells."""
    primary = found["primary"]
    lines = [f"| row | {primary}, {_unit(primary)} | deviation over seeds | cells |", "|---|---|---|---|"]
    for name, row in found["rows"].items():
        lines.append(
            f"| {name} | {_score(row['scores'][primary]['mean'])} | {found['spread'][name]:.2f} | {row['cells']} |"
        )
    return "\n".join(lines)


def verdicts(found: Mapping[str, Any], _: str = "") -> str:
    """What is decided and what is not, in sentences, and what the figures are of."""
    primary, base, rows = found["primary"], found["baseline"], found["rows"]
    groups: dict[str, list[str]] = {}
    for name in ranked(found):
        if "verdict" in rows[name]:
            groups.setdefault(rows[name]["verdict"], []).append(name)
    total = len(found["all rows"])
    captures = len({capture for row in rows.values() for capture in row["captures"]})
    margin = found["margin"]
    said = [
        f"{found['cells']} of {found['cells in all']} cells have run, of {len(rows)} of {total} rows, on {captures} "
        f"capture{'s' if captures > 1 else ''}, {found['budget']} each; code of {found['commit']}. A pair is a capture "
        f"and a seed. Measured is {primary}, beside *{base}*; intervals are of {100 * (1 - found['level']):g} %, and "
        "verdicts are corrected for the number of rows (Holm)."
    ]
    known = {capture: ceiling for capture, ceiling in found["noise ceiling"].items() if ceiling}
    if known:
        said.append(f"Noise in the images leaves at most this to an avatar that is right: {ceilings(known)}.")
    if pace := pace_line(found):
        said.append(f"**{pace}.**")
    for verdict in ("better", "worse", "equivalent"):
        names = groups.get(verdict)
        if names:
            within = f", within ±{margin:g} {_unit(primary)}," if verdict == "equivalent" else ""
            said.append(f"**Decided: {verdict}**{within} are {_listed(found, names)}.")
    if len(groups.keys() - {"undetermined"}) == 0:
        said.append("**Nothing is decided yet.**")
    open_rows = groups.get("undetermined", [])
    single = [name for name in open_rows if pairs_of(found, name) < 2]
    several = [name for name in open_rows if name not in single]
    if several:
        said.append(f"**Undetermined** are {_listed(found, several)}.")
    if single:
        said.append(
            f"**Undetermined with one pair, which decides nothing**, are {len(single)} rows: {_listed(found, single)}."
        )
    missing = [name for name in found["all rows"] if name not in rows]
    if missing:
        said.append(f"**Not run yet**: {'; '.join(missing)}.")
    return "\n\n".join(said)


def summary(found: Mapping[str, Any], _: str = "") -> str:
    """What is decided and what is not, in numbers of rows, with the best and the worst."""
    primary, rows = found["primary"], found["rows"]
    others = [name for name in ranked(found) if name != found["baseline"]]
    groups: dict[str, list[str]] = {}
    for name in others:
        groups.setdefault(rows[name].get("verdict", "undetermined"), []).append(name)
    said = []
    for verdict, which in (("better", 0), ("worse", -1), ("equivalent", None), ("undetermined", None)):
        names = groups.get(verdict, [])
        example = f" (most: {_listed(found, [names[which]])})" if names and which is not None else ""
        if names:
            said.append(f"{len(names)} {'is' if len(names) == 1 else 'are'} {verdict}{example}")
    missing = len(found["all rows"]) - len(rows)
    return (
        f"{found['cells']} of {found['cells in all']} cells have run, {found['budget']} each. Of {len(others)} rows "
        f"beside *{found['baseline']}*, by {primary}: {'; '.join(said) or 'none'}."
        + (f" {missing} row{' has' if missing == 1 else 's have'} not run yet." if missing else "")
    )


def difference(found: Mapping[str, Any], rest: str) -> str:
    """A row's difference in a measure, with its interval, and its verdict in the primary one.

    Raises:
        ValueError: the row or the measure has no figures.
    """
    measure, _, name = rest.strip().partition(" ")
    name = name.strip('"')
    if name not in found["rows"] or measure not in found["rows"][name]["differences"]:
        raise ValueError(
            f"difference {rest}: kept figures have {', '.join(found['rows'])}, {', '.join(found['measures'])}"
        )
    row = found["rows"][name]
    tail = f", {row['verdict']}" if measure == found["primary"] else ""
    return f"{gain(row, measure)} {_unit(measure)}".replace("-", "−").rstrip() + tail


def claim(study: str, found: Mapping[str, Any] | None, rest: str) -> str:
    """What a study has to say of a claim about one of its rows: holds, does not hold, undetermined, or not run.

    Args:
        study: its name.
        found: what its kept figures say; None if there are none.
        rest: `better|worse MEASURE "ROW"`. Only the study's primary measure decides.

    Raises:
        ValueError: there is no such study, or it lacks the row.
    """
    asked = re.fullmatch(r'(\w+) (.+) "(.+)"', rest.strip())
    expected, measure, name = asked.groups() if asked else ("", "", "")
    path = FOLDER / f"{study}.toml"
    rows = Study.load(path).rows if path.is_file() else {}
    if expected not in ("better", "worse") or name not in rows:
        raise ValueError(f"claim {rest}: expected better or worse, a measure, and a row of {path.name}: {list(rows)}")
    own = (found or {"rows": {}})["rows"].get(name, {"differences": {}})["differences"].get(measure)
    if found is None or own is None:
        return f"not run (`benchmarks/studies/{path.name}`)"
    row = found["rows"][name]
    pairs = f"{own['pairs']} pair{'s' if own['pairs'] > 1 else ''} on {own['captures']} capture"
    figure = f"{gain(row, measure)} {_unit(measure)}".replace("-", "−").rstrip()
    said = f"{name} {figure} in {measure}, {pairs}{'s' if own['captures'] > 1 else ''}, {found['budget']} each"
    verdict = row["verdict"] if measure == found["primary"] else "undetermined"
    other = "better" if expected == "worse" else "worse"
    words = {expected: "**holds**", other: "**the other way around**", "equivalent": "**no difference**"}
    return f"{words.get(verdict, 'undetermined')}: {said}"


KINDS = {"table": table, "spread": spread, "verdicts": verdicts, "summary": summary, "difference": difference}


def pairs_of(found: Mapping[str, Any], name: str) -> int:
    """Pairs of a row and the baseline; of the baseline, its cells."""
    row = found["rows"][name]
    own = row["differences"].get(found["primary"])
    return int(row["cells"] if name == found["baseline"] else 0 if own is None else own["pairs"])


def _listed(found: Mapping[str, Any], names: list[str]) -> str:
    said = []
    for name in names:
        row = found["rows"][name]
        bounds = bounds_of(row, found["primary"])
        low, mean, high = bounds if bounds is not None else (math.nan,) * 3
        span = f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else ""
        needed = row.get("seeds to see it")
        more = f", {needed} seeds would see {found['margin'] or 0.2:g}" if needed else ""
        gain = f"{mean:+.2f}{span}".replace("-", "−")
        said.append(f"{name} ({gain}{more})")
    return "; ".join(said)


def _unit(measure: str) -> str:
    return UNITS[re.split("[_@]", measure, maxsplit=1)[0]]


def _score(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{2 if abs(value) >= 2 else 3}f}"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:,.0f}"


def pages() -> list[Path]:
    """Pages that have blocks."""
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if BLOCK.search(path.read_text())
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.studies.pages", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="OUT", help="take the figures of finished cells from here first")
    parser.add_argument(
        "--study", choices=sorted(path.stem for path in FOLDER.glob("*.toml")), help="that has run there"
    )
    parser.add_argument("--commit", help="of the code that ran")
    parser.add_argument("--capture", type=Path, nargs="+", default=(), help="that it ran on, in place of the study's")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page says something else")
    options = parser.parse_args(arguments)
    if (options.keep is None) != (options.study is None) or (options.keep is None) != (options.commit is None):
        parser.error("--keep, --study and --commit go together")
    if options.keep is not None:
        study = Study.load(FOLDER / f"{options.study}.toml", options.capture)
        count = keep(study, options.keep, FOLDER / f"{options.study}.json", options.commit)
        print(f"kept the figures of {count} cells of {options.study}")
    findings = {name: kept_findings(path) for name, path in all_kept().items()}
    stale = []
    for path in pages():
        before = path.read_text()
        after = written(before, findings)
        if after != before:
            stale.append(str(path.relative_to(ROOT)))
            if not options.check:
                write_text(path, after)
    for name, path in PICTURED.items():
        if name in findings and not options.check:
            picture.draw(findings[name], path)
    print(f"{'not of the kept figures' if options.check else 'written'}: {', '.join(stale) or 'no page'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
