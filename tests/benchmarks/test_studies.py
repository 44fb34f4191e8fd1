"""The studies of the repository: each is read, its rows can be built, and its capture can be made."""

from dataclasses import replace
from pathlib import Path

import pytest

import headfields as hf
from benchmarks import retracked
from headfields.compare import Study
from headfields.compare.cells import cells_of, misfits, run_cell
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames
from tests.tables import table

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks" / "studies").glob("*.toml"))


@table("path", STUDIES)
def test_is_a_study_and_says_how_it_is_run(path: Path) -> None:
    study = Study.load(path)
    text = path.read_text()
    assert f"headfields compare benchmarks/studies/{path.name}" in text and "--out OUT" in text
    written = text.partition("[steps_by_row]")[0]  # the rest was printed
    assert len(study.rows) > 1 and len(written.splitlines()) <= 60
    if len(study.captures) == 1:
        assert Study.load(path, [path.parent]).captures == (str(path.parent),)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["insta", "insta_depth", "monoavatar_features", "vp360", "gaussians"])
def test_rows_can_be_built(name: str, tmp_path: Path) -> None:
    write_insta(tmp_path / "blob", tiny_frames(6, True), *blob(True), test_frames=2)
    path = next(path for path in STUDIES if path.stem == name)
    assert misfits(Study.load(path, [tmp_path / "blob"])) == {}


@pytest.mark.slow
def test_a_tracked_capture_has_the_frames_of_the_exact_one(tmp_path: Path) -> None:
    hf.synthetic.write_head_capture(tmp_path / "a", frames=6, size=64, samples=1, progress=False)
    words = ["--capture", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--every", "2", "--quick"]
    retracked.main(words)
    exact, tracked = (hf.data.load_capture(tmp_path / "out" / name) for name in ("exact", "tracked"))
    assert len(exact) == len(tracked) == 3
    assert {name: rows.tolist() for name, rows in exact.splits.items()} == {
        name: rows.tolist() for name, rows in tracked.splits.items()
    }
    assert bool((exact.image(1)[..., :3] == hf.data.load_capture(tmp_path / "a").image(2)[..., :3]).all())


@pytest.mark.slow
def test_a_prior_is_a_cell(tmp_path: Path) -> None:
    hf.synthetic.generate_scans(hf.synthetic.procedural_head(), 2, 2, out=tmp_path / "heads" / "scans", progress=False)
    path = next(path for path in STUDIES if path.stem == "mononphm")
    study = Study.load(path, [tmp_path / "heads"])
    study = replace(study, steps=2, arguments={"people": 1, "fit_steps": 2, "tracked": 0}, strata=study.strata[:2])
    result = run_cell(cells_of(study)[0], tmp_path / "out")
    frames = {stratum: [row for row in result["frames"] if row["stratum"] == stratum] for stratum in study.strata}
    assert len(frames["trained"]) == len(frames["held out"]) == 2  # all there are
    assert all(row["distance_stray@trained"] > 0 for row in frames["trained"])
    assert run_cell(cells_of(study)[0], tmp_path / "out") == result
