"""Studies: what they say, cells that run once, the report, and files that are no studies."""

import concurrent.futures
import json
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headfields as hf
from headfields.cli import main
from headfields.compare import Row, Study, cells, running
from headfields.compare.cells import FORMAT, ChangedCodeError, InterruptedCell, cells_of, misfits, run_cell
from headfields.compare.report import differences_of
from headfields.compare.running import run_study, verify
from headfields.compare.study import digest
from headfields.data.formats.insta_writer import write_insta
from headfields.runs.lock import RunLockedError
from tests.data.tiny import blob, tiny_frames
from tests.tables import table

SIZES = {"levels": 2, "features": 2, "log2_table_size": 8}
OPTIONS = {"rays": 16, "samples": 0, "frames": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "blob"
    write_insta(path, tiny_frames(6), *blob(), test_frames=2)
    return path


def study_of(folder: Path, **changes: Any) -> Study:
    rows = {"affine": Row(), "length": Row(arguments={"scaling": "length"})}
    said = {"rows": rows, "steps": 2, "seeds": 2, "arguments": SIZES, "options": OPTIONS, **changes}
    return Study([folder], **said)


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory) -> tuple[Study, Path, dict[str, Any]]:
    study, out = study_of(folder), tmp_path_factory.mktemp("done")
    return study, out, run_study(study, out, bar=False)


def test_a_study_trains_measures_and_decides(done) -> None:
    study, out, found = done
    assert found["rows"]["affine"]["cells"] == 2 and "verdict" not in found["rows"]["affine"]
    row = found["rows"]["length"]
    assert row["verdict"] in ("better", "worse", "equivalent", "undetermined") and row["cost"]["steps"] == 2
    assert row["differences"]["psnr"]["pairs"] == 2 and found["footing"]["shell"] > 0
    own = [run_cell(cell, out) for cell in cells_of(study)]
    frames = {entry["row"]: entry["frames"] for entry in own}
    assert [frame["frame"] for frame in frames["affine"]] == [frame["frame"] for frame in frames["length"]]
    taken = {measure.partition("_")[0] for measure in found["measures"]} & {"flip", "lpips"}
    assert {name.lower() for name in found["footing"] if name in ("FLIP", "LPIPS")} == taken
    assert all(" 1." in found["footing"][name] for name in ("FLIP",) if "flip" in taken)
    report = (out / "report.html").read_text()
    assert "data:image/png;base64," in report and "http" not in report.replace("https://www.w3.org", "")
    assert len((out / "frames.csv").read_text().splitlines()) == 1 + 4 * len(frames["affine"])
    assert r"\toprule" in (out / "table.tex").read_text()
    assert json.loads((out / "report.json").read_text())["key"] == study.key()


def test_nothing_runs_twice_and_the_report_is_the_same(done, monkeypatch) -> None:
    study, out, _ = done
    before = (out / "report.json").read_bytes()
    monkeypatch.setattr(cells, "_train", None)
    monkeypatch.setattr(cells, "evaluate", None)
    run_study(study, out, bar=False)
    assert (out / "report.json").read_bytes() == before


def test_a_changed_measure_is_taken_without_training(done, monkeypatch) -> None:
    study, out, _ = done
    monkeypatch.setattr(cells, "_train", None)
    monkeypatch.setattr(cells, "measuring_code", lambda: "other")
    cell = cells_of(study)[0]
    assert cell.done(out) is None
    assert run_cell(cell, out)["measured"] != ""


def test_changed_code_options_or_data_are_another_cell(done, folder, tmp_path, monkeypatch) -> None:
    study, _, _ = done
    key = cells_of(study)[0].key()
    assert cells_of(study_of(folder, options={**OPTIONS, "rays": 17}))[0].key() != key
    assert cells_of(study_of(folder, name="another name", margin=0.1))[0].key() == key
    write_insta(tmp_path / "blob", tiny_frames(7), *blob(), test_frames=2)
    assert cells_of(study_of(tmp_path / "blob"))[0].key() != key
    monkeypatch.setattr(cells, "library_code", lambda: "changed")
    assert cells_of(study)[0].key() != key


def test_a_worker_with_other_code_ends_the_study(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cells, "library_code", lambda: threading.current_thread().name)
    changed = pytest.raises(ChangedCodeError, match="start the command again")
    with concurrent.futures.ThreadPoolExecutor(1) as workers, changed:
        run_study(study_of(folder), tmp_path, workers, bar=False)
    assert not list(tmp_path.glob("cells/*/result.json"))


def test_a_cell_that_was_stopped_goes_on_to_the_same_scores(folder, tmp_path, monkeypatch) -> None:
    study = study_of(folder, seeds=1, steps=4)
    cell = cells_of(study)[0]
    whole = run_cell(cell, tmp_path / "whole")
    trainer_of = cells.trainer_of

    class Stop:
        def on_step(self, trainer: Any, outcome: Any) -> None:
            if trainer.progress.step == 2:
                trainer.stop("stopped")

    def with_a_stop(*arguments: Any) -> Any:
        return trainer_of(*arguments[:-1], {**arguments[-1], "callbacks": [Stop()]})

    monkeypatch.setattr(cells, "trainer_of", with_a_stop)
    with pytest.raises(InterruptedCell, match="stopped at step 2; the same call goes on"):
        run_cell(cell, tmp_path / "cut")
    monkeypatch.setattr(cells, "trainer_of", trainer_of)
    again = run_cell(cell, tmp_path / "cut")
    assert [frame["psnr"] for frame in again["frames"]] == [frame["psnr"] for frame in whole["frames"]]


def test_cells_of_another_coordinator_are_left_to_it(done, tmp_path, monkeypatch) -> None:
    study, out, _ = done
    asked: list[str] = []

    def locked_once(cell: Any, place: Path) -> Any:
        asked.append(str(cell))
        if asked.count(str(cell)) == 1:
            raise RunLockedError("another process")
        return run_cell(cell, out)

    monkeypatch.setattr(running, "run_cell", locked_once)
    monkeypatch.setattr(running, "_WAIT", 0.0)
    monkeypatch.setattr(running, "write_report", lambda study, cells, *further: {"cells": len(cells)})
    assert run_study(study, tmp_path / "a", bar=False) == {"cells": 4} and len(asked) == 8
    asked.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        run_study(study, tmp_path / "b", executor=executor, bar=False)
    assert len(asked) == 8


def broken(capture: Any) -> Any:
    raise ValueError("no room for two heads")


def small_field(capture: Any) -> Any:
    return hf.models.insta(capture.template, expression_width=4, **SIZES)


def test_a_composition_of_ones_own_is_a_row_and_what_cannot_be_built_is_named(folder, tmp_path, capsys) -> None:
    study = study_of(folder, seeds=1, rows={"preset": Row(), "own": Row(build=small_field), "odd": Row(build=broken)})
    found = run_study(study, tmp_path, bar=False)
    assert found["left out"] == {"odd": "ValueError: no room for two heads"} and "odd" not in found["rows"]
    assert found["rows"]["own"]["verdict"] == "undetermined"  # one seed decides nothing
    assert "no room for two heads" in capsys.readouterr().err
    assert misfits(study_of(folder, rows={"odd": Row(build=broken)}))
    with pytest.raises(ValueError, match="the baseline 'odd' cannot be built"):
        run_study(study_of(folder, rows={"odd": Row(build=broken)}), tmp_path, bar=False)


def test_a_random_cell_comes_back(done, tmp_path) -> None:
    study, out, _ = done
    line, same = verify(study, out, tmp_path, seed=1)
    assert same and line.endswith("the same")
    with pytest.raises(ValueError, match="no finished cell"):
        verify(study, tmp_path / "nothing", tmp_path)


def test_a_score_comes_back_within_what_the_budget_allows(done, folder: Path, tmp_path, monkeypatch) -> None:
    study, out, _ = done

    def again(psnr: float) -> None:
        frames = [{"frame": 0, "stratum": "test", "psnr": psnr}]
        monkeypatch.setattr(running, "run_cell", lambda cell, scratch: {"frames": frames, "cost": {"steps": 1300}})

    again(11.0)
    line, same = verify(study, out, tmp_path, seed=1)
    assert same is False and "apart; a budget of steps gives the same bits" in line
    for seeds, psnr, expected, says in (
        (3, 20.0, True, "the same"),
        (3, 20.3, True, r"apart after 1,200 and 1,300 steps, within the ±1\.\d+ by .*\(99%, of 3 cells"),
        (3, 25.0, False, "beyond the ±1"),
        (1, 20.3, None, "one seed does not say how far"),
    ):
        timed = study_of(folder, rows={"base": Row()}, steps=None, seconds=60, seeds=seeds, primary="psnr")
        place = tmp_path / str(seeds)
        for cell in cells_of(timed):
            result = {"measured": digest(cell.measuring()), "cost": {"steps": 1200},
                      "frames": [{"frame": 0, "stratum": "test", "psnr": 20.0 + 0.1 * cell.seed}]}  # fmt: skip
            cell.folder(place).mkdir(parents=True, exist_ok=True)
            (cell.folder(place) / "result.json").write_text(json.dumps(FORMAT.stamp(result)))
        again(psnr)
        first = next(seed for seed in range(99) if random.Random(seed).choice(range(seeds)) == 0)
        line, same = verify(timed, place, tmp_path, seed=first)
        assert same is expected and re.search(says, line), line


def test_pairs_are_of_one_capture_seed_and_frame() -> None:
    def run(*scores: float | None) -> dict[str, Any]:
        return {"frames": [{"frame": index, "psnr": value, "lpips": value} for index, value in enumerate(scores)]}

    row = {("a", 0): run(2.0, 3.0, None), ("a", 1): run(4.0, 4.0, 4.0), ("b", 7): run(1.0)}
    base = {("a", 1): run(1.0, 2.0, 3.0), ("a", 0): run(1.0, 1.0, 1.0)}
    found = differences_of(row, base, "psnr")
    assert list(found) == ["a"] and np.array_equal(found["a"], [[1.0, 2.0], [3.0, 2.0]])
    assert np.array_equal(differences_of(row, base, "lpips")["a"], -found["a"])  # a smaller distance is better


def test_the_command(done, folder, tmp_path, capsys) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        f'captures = ["{folder}"]\nsteps = 2\nseeds = 1\n'
        "[arguments]\nlevels = 2\nfeatures = 2\nlog2_table_size = 8\n[options]\nrays = 16\nsamples = 0\nframes = 1\n"
        '[rows.length]\narguments = { scaling = "length" }\n[rows.own]\nbuild = "own_rows.py:mine"\n'
    )
    (tmp_path / "own_rows.py").write_text(
        "import headfields as hf\n\ndef mine(capture):\n"
        "    return hf.models.insta(capture.template, expression_width=4, levels=2, features=2, log2_table_size=8)\n"
    )
    out = tmp_path / "out"
    assert main(["compare", str(file), "--out", str(out), "--plan"]) == 0
    assert "2 of 2 cells to run, 2 steps each" in capsys.readouterr().out and not out.exists()
    assert main(["compare", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "own: psnr" in said and "undetermined" in said and (out / "report.html").exists()
    assert main(["compare", str(file), "--out", str(out), "--workers", "0"]) == 1
    assert "--workers is 0" in capsys.readouterr().err


@table(
    ("changes", "says"),
    [
        ({"rows": {}}, "rows is empty"),
        ({"steps": None}, "as steps, as rays or as seconds, one of them"),
        ({"seconds": 3.0}, "as steps, as rays or as seconds, one of them"),
        ({"trials": 1}, "trials is 1"),
        ({"most_seeds": 6}, "most_seeds is 6 with 2 seeds and margin None"),
        ({"steps": 0}, "steps is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"baseline": "none"}, "baseline is 'none'; rows are affine, length"),
        ({"primary": "beauty"}, "primary is 'beauty'"),
        ({"options": {"ray": 3}}, "no option 'ray'; did you mean"),
        ({"rows": {"a": Row(arguments={"scalings": 1})}}, "no argument 'scalings'"),
        ({"rows": {"a": Row(model="instar")}}, "no model 'instar'"),
        ({"level": 1.0}, "level is 1.0"),
    ],
)
def test_refusals(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        study_of(folder, **changes)


def test_a_capture_named_twice_is_no_evidence(folder: Path) -> None:
    with pytest.raises(ValueError, match="names a folder twice"):
        Study([folder, f"{folder}/../{folder.name}"], {"a": Row()}, steps=1)
    with pytest.raises(ValueError, match="build makes the avatar by itself"):
        Row(model="insta", build=broken)


@table(
    ("text", "says"),
    [
        ("rows = 3\n", "rows is a int"),
        ("captures = 3\nsteps = 1\n[rows.a]\n", "captures is a int"),
        ("nonsense", "is no TOML"),
        ("stepz = 1\n[rows.a]\n", "no entry 'stepz'; did you mean"),
        ("captures = ['a']\nsteps = 1\n[rows.a]\nargument = 1\n", "no entry 'argument' in row 'a'"),
        ("captures = ['a']\nsteps = 1\n[rows.a]\nbuild = 'none.py:f'\n", "build is 'none.py:f'"),
        ("captures = ['a']\nsteps = 'many'\n[rows.a]\n", "study.toml"),
        ("captures = ['a']\nsteps = 1\n[product]\nmake = 'none.py:f'\n", "product.parts is missing"),
        ("captures = ['a']\nsteps = 1\n[product]\nmake = 'none.py:f'\nparts.a = ['b']\n", "make is 'none.py:f'"),
    ],
)
def test_files_that_are_no_studies(tmp_path: Path, text: str, says: str, unchecked) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        Study.load(file)
    with pytest.raises(FileNotFoundError, match="a study is a TOML file"):
        Study.load(tmp_path / "none.toml")


def test_a_study_is_data(folder: Path) -> None:
    study, other = study_of(folder), study_of(folder, steps=3)
    assert study.key() == study_of(folder).key() != other.key()
    assert study.diff(study_of(folder)) == "" and '+ "steps": 3' in other.diff(study)
    rows = Study.product(lambda capture, a, b: None, {"a": {"x": 1, "y": 2}, "b": {"z": 3}})
    assert list(rows) == ["a x, b z", "a y, b z"]
    assert rows["a x, b z"].data()["code"] != rows["a y, b z"].data()["code"]


def test_options_of_a_product_are_those_of_names_that_meet(tmp_path) -> None:
    (tmp_path / "rows.py").write_text("def make(capture, **names):\n    return None\n")
    (tmp_path / "study.toml").write_text(
        "captures = ['a']\nsteps = 1\n[product]\nmake = 'rows.py:make'\nparts.encoder = ['hash grid', 'codes']\n"
        "parts.decoder = ['NeRF', 'NeuS']\n[product.options.NeuS]\nnetwork_learning_rate = 0.5\n"
        "[product.options.'hash grid, NeuS']\nlearning_rate = 0.25\n"
    )
    rows = Study.load(tmp_path / "study.toml").rows
    assert dict(rows["codes, NeuS"].options) == {"network_learning_rate": 0.5}
    assert dict(rows["hash grid, NeuS"].options) == {"network_learning_rate": 0.5, "learning_rate": 0.25}
    assert not rows["hash grid, NeRF"].options
    text = (tmp_path / "study.toml").read_text().replace("'hash grid, NeuS'", "'hash grid, NeuZ'")
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match=r"no entry 'NeuZ' in product\.options"):
        Study.load(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("primary", "says"),
    [
        ("psnr_eyse", "no region 'eyse'.*eyes"),
        ("ssim_mouth", "ssim is not measured over 'mouth'"),
        ("lpips_head", "lpips is not measured over 'head'"),
    ],
)
def test_a_primary_measure_that_there_is_not(folder, primary: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        study_of(folder, primary=primary)


def test_a_primary_measure_that_captures_lack_is_refused_before_training(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cells, "_train", None)
    with pytest.raises(ValueError, match=r"no frame of .*blob has 32 pixels of hair there .*regions need labels"):
        run_study(study_of(folder, primary="psnr_hair"), tmp_path, bar=False)
    monkeypatch.setattr(cells, "load_flip", lambda: None)
    with pytest.raises(ValueError, match=r"pip install headfields\[flip\]"):
        run_study(study_of(folder, primary="flip_head"), tmp_path, bar=False)


def heads(capture: Path, folder: Path, seed: int, steps: int, blunt: float = 0.0) -> dict[str, Any]:
    """A row of its own kind: what it trains and measures is no avatar of images."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "calls", "a") as file:
        file.write(f"{steps}\n")
    frames = [
        {"stratum": stratum, "frame": frame, "distance_face": 2.0 + blunt + 0.01 * seed + 0.001 * seed * frame}
        for stratum in ("test", "new people") for frame in range(3)
    ]  # fmt: skip
    return {"frames": frames, "cost": {"parameters": 7, "steps": steps}}


def test_rows_that_train_and_measure_in_their_own_way(tmp_path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.txt").write_text("1")
    rows = {"sharp": Row(run=heads), "blunt": Row(run=heads, arguments={"blunt": 0.5})}
    said: dict[str, Any] = {"rows": rows, "steps": 9, "seeds": 3, "primary": "distance_face@new people",
                            "strata": ["test", "new people"]}  # fmt: skip
    study = Study([tmp_path / "scans"], **said)
    out = tmp_path / "out"
    found = run_study(study, out, bar=False)
    difference = found["rows"]["blunt"]["differences"]["distance_face@new people"]
    assert found["rows"]["blunt"]["verdict"] == "worse" and difference["mean"] == pytest.approx(-0.5)
    assert found["rows"]["blunt"]["cost"]["parameters"] == 7 and found["footing"] == {"budget": "9 steps"}
    before = (out / "report.json").read_bytes()
    run_study(study, out, bar=False)
    calls = [path.read_text() for path in out.glob("cells/*/run/calls")]
    assert calls == ["9\n"] * 6 and (out / "report.json").read_bytes() == before
    assert "blunt" in (out / "report.html").read_text()
    (tmp_path / "scans" / "a.txt").write_text("2")
    cells.capture_digest.cache_clear()
    assert all(cell.done(out) is None for cell in cells_of(study)), "other scans are other cells"
    with pytest.raises(ValueError, match=r"run has returned the strata \['new people', 'test'\]"):
        run_cell(cells_of(Study([tmp_path / "scans"], **{**said, "strata": ["test"], "primary": "distance"}))[0], out)
    for changes, says in (
        ({"rows": {"a": Row(), "b": Row(run=heads)}, "primary": "psnr", "strata": ["test"]}, "no common footing"),
        ({"trials": 3}, "trials is 3; rows that train by a function of their own have no rates"),
    ):
        with pytest.raises(ValueError, match=says):
            Study([tmp_path / "scans"], **{**said, **changes})
    with pytest.raises(ValueError, match="Row: run trains and measures by itself"):
        Row(run=heads, options={"rays": 3})


def test_cells_of_other_code_are_named_where_none_is_of_this_study(done, folder) -> None:
    _, out, _ = done
    with pytest.raises(ValueError, match=r"no finished cell of this study on cpu; 4 cells there are of other code"):
        verify(study_of(folder, steps=5), out, out / "scratch")
