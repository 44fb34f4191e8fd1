"""Pages made from the figures of studies: they say what the kept figures say, of whole and of unfinished studies."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies import figures, pages, picture
from headfields.compare import Study
from headfields.compare.cells import cells_of

STUDY = """
name = "Parts"
captures = ["one", "two"]
steps = 3
seeds = 4
primary = "psnr_head"
margin = 0.2
strata = ["test", "cameras"]

[rows."surface, grid"]
[rows."none, grid"]
arguments = { scaling = "length" }
[rows."surface, codes"]
arguments = { scaling = "none" }
[rows."same, grid"]
arguments = { levels = 3 }
[rows."never, run"]
arguments = { levels = 2 }
"""
GAINS = {"surface, grid": 0.0, "none, grid": 1.0, "surface, codes": -1.0, "same, grid": 0.0}


def write_cells(out: Path, only: int | None = None) -> None:
    """result.json of every cell of four rows: scores with their gain beside the baseline, and little noise."""
    for row, gain in GAINS.items():
        for capture in ("one", "two"):
            for seed in range(4):
                if only is not None and (capture, seed) != ("one", 0):
                    continue
                noise = np.random.default_rng([len(row), len(capture), seed])
                frames = [
                    {"stratum": stratum, "frame": frame, "yaw": 5.0 * frame, "psnr": 26.0,
                     "psnr_head": 20 + gain - 3 * (stratum == "cameras") + 0.02 * float(noise.standard_normal())}
                    for stratum in ("test", "cameras") for frame in range(5)
                ]  # fmt: skip
                cost: dict[str, Any] = {"processor seconds": 9.0, "seconds per frame": 0.1 * (2 + gain), "steps": 3,
                                        "peak memory, bytes": 5e8, "diverged": None}  # fmt: skip
                result = {"row": row, "capture": f"/somewhere/{capture}", "seed": seed, "factor": 1.0, "trial": False,
                          "frames": frames, "cost": cost,
                          "curve": [[1, 9, 1.0, 2.0, 15.0], [3, 27, 3.0, 9.0, 20.0 + gain]]}  # fmt: skip
                folder = out / "cells" / f"{row}{capture}{seed}"
                folder.mkdir(parents=True)
                (folder / "result.json").write_text(json.dumps(result))


def kept(folder: Path, **which: Any) -> dict[str, Any]:
    (folder / "parts.toml").write_text(STUDY)
    write_cells(folder / "out", **which)
    study = Study.load(folder / "parts.toml")
    figures.keep(study, folder / "out", folder / "parts.json", "abc123")
    assert "/somewhere" not in (folder / "parts.json").read_text()
    return figures.kept_findings(folder / "parts.json")


def test_the_repositorys_pages_say_what_its_figures_say() -> None:
    findings = {name: figures.kept_findings(path) for name, path in figures.all_kept().items()}
    blocks = pages.pages()
    for path in blocks:
        text = path.read_text()
        assert pages.written(text, findings) == text, f"{path}: run python -m benchmarks.studies.pages"
    shown = {match[1] for path in blocks for match in pages.BLOCK.findall(path.read_text())}
    assert set(findings) <= shown, "figures that no page shows"


def test_kept_figures_have_the_budget_that_their_cells_had(tmp_path: Path) -> None:
    """A study that says later what its seconds are in steps makes no steps of cells that ran in seconds."""
    steps = "\n[steps_by_row]\n" + "".join(f'"{row}" = 3\n' for row in (*GAINS, "never, run"))
    for kept_with, read_with, said in (("", steps, "9 seconds"), (steps, "", "the steps that 9 seconds took")):
        out = tmp_path / said[:5]
        write_cells(out / "out")
        (out / "parts.toml").write_text(STUDY.replace("steps = 3", "seconds = 9") + kept_with)
        figures.keep(Study.load(out / "parts.toml"), out / "out", out / "parts.json", "abc123")
        (out / "parts.toml").write_text(STUDY.replace("steps = 3", "seconds = 9") + read_with)
        assert figures.kept_findings(out / "parts.json")["budget"].startswith(said)


def test_verdicts_and_tables_of_kept_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = kept(tmp_path)
    found["noise ceiling"] = {"one": {"psnr": 30.21, "psnr_head": 26.5, "source": "two drawings"}, "two": {}}
    said = pages.verdicts(found)
    assert "to an avatar that is right: one: psnr 30.2 dB, psnr_head 26.5 dB (two drawings)." in said
    assert "32 of 40 cells have run, of 4 of 5 rows, on 2 captures" in said and "code of abc123" in said
    assert re.search(r"\*\*Decided: better\*\* are none, grid \(\+(0\.9|1\.0)", said)
    assert re.search(r"\*\*Decided: worse\*\* are surface, codes \(−(0\.9|1\.0)", said)
    assert "**Decided: equivalent**, within ±0.2 dB, are same, grid" in said
    assert "**Not run yet**: never, run." in said and "Undetermined" not in said
    assert re.search(r"\| none, grid \| 2\d\.\d\d \| 0\.0\d \| 8 \|", pages.spread(found))
    lines = pages.table(found).splitlines()
    assert lines[2].startswith("| none, grid | 2") and "| **surface, grid** | " in lines[3] + lines[4]
    assert "psnr_head@cameras" in lines[0] and lines[2].endswith("| 8 |")
    page = 'a <!-- figures parts difference psnr_head "none, grid" -->old<!-- end of figures --> b'
    once = pages.written(page, {"parts": found})
    assert ", better<!--" in once and ">old<" not in once and pages.written(once, {"parts": found}) == once
    monkeypatch.setattr(pages, "FOLDER", tmp_path)
    (tmp_path / "later.toml").write_text(STUDY)
    for study, claim, says in (
        (
            "parts",
            'better psnr_head "none, grid"',
            r"\*\*holds\*\*: none, grid \+\S+ \[.*\] dB in psnr_head, 8 pairs on 2 capt",
        ),
        ("parts", 'worse psnr_head "none, grid"', r"\*\*the other way around\*\*: none, grid \+"),
        ("parts", 'worse psnr_head "same, grid"', r"\*\*no difference\*\*: same, grid .*, 3 steps each$"),
        (
            "parts",
            'better psnr_head@cameras "none, grid"',
            "undetermined: none, grid",
        ),  # another measure than the primary
        ("parts", 'better psnr_head "never, run"', r"not run \(`benchmarks/studies/parts.toml`\)"),
        ("later", 'better psnr_head "none, grid"', r"not run \(`benchmarks/studies/later.toml`\)"),
    ):
        page = f"| a <!-- figures {study} claim {claim} --><!-- end of figures --> |"
        (inside,) = re.findall(r"-->(.*)<!-- end", pages.written(page, {"parts": found}))
        assert re.match(says, inside), inside
    for claim in ('bigger psnr "none, grid"', 'better psnr "nobody"'):
        with pytest.raises(ValueError, match="expected better or worse, a measure, and a row of"):
            pages.written(f"<!-- figures parts claim {claim} --><!-- end of figures -->", {"parts": found})
    block = "<!-- figures parts table -->\nold\n<!-- end of figures -->"
    assert "| none, grid |" in pages.written(block, {"parts": found})
    two = pages.written(f"{block} between {block}", {"parts": found})
    assert "between" in two and two.count("| none, grid |") == 2 and "old" not in two


def test_one_pair_decides_nothing(tmp_path: Path) -> None:
    found = kept(tmp_path, only=1)
    said = pages.verdicts(found)
    assert "**Nothing is decided yet.**" in said and "on 1 capture," in said
    assert "**Undetermined with one pair, which decides nothing**, are 3 rows" in said
    picture.draw(found, tmp_path / "parts.png")
    assert (tmp_path / "parts.png").read_bytes().startswith(b"\x89PNG")
    mean, low, _ = picture.quality(found, "none, grid", "psnr_head@cameras")
    assert mean == pytest.approx(18.0, abs=0.1) and np.isnan(low)


def test_what_is_refused(tmp_path: Path) -> None:
    found = kept(tmp_path, only=1)
    for block, says in (
        ("<!-- figures other table --><!-- end of figures -->", "figures are kept of parts"),
        ("<!-- figures parts chart --><!-- end of figures -->", "kinds are table"),
        ("<!-- figures parts difference psnr nobody --><!-- end of figures -->", "kept figures have"),
    ):
        with pytest.raises(ValueError, match=says):
            pages.written(block, {"parts": found})
    study = Study.load(tmp_path / "parts.toml")
    with pytest.raises(ValueError, match="has 0 finished cells"):
        figures.keep(study, tmp_path, tmp_path / "x.json", "abc")
    (tmp_path / "parts.toml").write_text(STUDY.replace('"none, grid"', '"other, grid"'))
    with pytest.raises(ValueError, match="has rows that 'Parts' lacks: none, grid"):
        figures.kept_findings(tmp_path / "parts.json")
    shared = {**cells_of(study)[0].shared(), "budget": ["steps", 3]}
    for number, path in enumerate(sorted((tmp_path / "out" / "cells").iterdir())):
        about = {"code": min(number, 1), "versions": {}, "device": "cpu", "shared": shared}
        (path / "cell.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="cells of 2 versions of the code"):
        figures.keep(study, tmp_path / "out", tmp_path / "x.json", "abc")
    (path / "cell.json").write_text(json.dumps(about | {"shared": shared | {"budget": ["steps", 9]}, "code": 7}))
    for other in set((tmp_path / "out" / "cells").iterdir()) - {path}:
        (other / "cell.json").write_text(json.dumps(about))
    assert figures.keep(study, tmp_path / "out", tmp_path / "x.json", "abc") == 3, "one of an earlier budget"
    (path / "cell.json").write_text(json.dumps(about | {"shared": shared}))
    (tmp_path / "second" / "cells").mkdir(parents=True)
    path.rename(tmp_path / "second" / "cells" / path.name)
    assert figures.keep(study, tmp_path / "second", tmp_path / "x.json", "abc") == 4, "beside another machine's"
    assert figures.keep(study, tmp_path / "second", tmp_path / "x.json", "abd") == 1, "of another commit, none"
