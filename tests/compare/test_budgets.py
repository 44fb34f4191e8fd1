"""What rows of a study share and what they may spend: draws, budgets, trials of rates, seeds that are added."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.cli import main
from headfields.compare import Row, Study, cells
from headfields.compare.cells import Cell, cells_of, chosen_factors, made, opened, run_cell, training_options, trials_of
from headfields.compare.exported_cells import export_figures, import_figures
from headfields.compare.running import run_study
from headfields.compare.study import trial_factors
from headfields.runs.folder import RunFolder
from headfields.training.opened_run import trainer_of
from tests.compare.test_study import OPTIONS, SIZES, folder, study_of  # noqa: F401


def neus(capture: Any) -> Any:
    """Another decoder, renderer and sampler, with other numbers of parameters and draws of their own."""
    base = hf.models.insta(capture.template, expression_width=4, **SIZES)
    renderer = hf.renderers.SurfaceRenderer(hf.renderers.UniformSampler(8))
    return hf.Avatar(base.deformer, hf.encoders.Frequency(3), hf.decoders.NeuSDecoder(hidden=8), renderer)


def draws(study: Study, row: str, seed: int = 0) -> list[str]:
    """Hashes of the frames, pixels, colors and backgrounds of each step."""
    cell = Cell(study, row, str(study.captures[0]), seed)
    source, _ = opened(study, cell.capture)
    torch.manual_seed(seed)
    avatar, recipe = made(study, cell.spec, source)
    trainer = trainer_of(
        recipe, avatar, source, training_options(cell, recipe, avatar), seed, {"device": "cpu", "bar": False}
    )
    seen = []
    draw = trainer._batches.draw

    def watched(*arguments: Any) -> Any:
        batch, frames, *counts = draw(*arguments)
        tensors = (batch.rgb, batch.rays.origins, batch.rays.directions, batch.rays.frame, frames)
        seen.append(hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest())
        return batch, frames, *counts

    trainer._batches.draw = watched
    trainer.fit(steps=4)
    return seen


def test_rows_of_different_architecture_draw_the_same_frames_and_rays(folder: Path) -> None:  # noqa: F811
    rows = {"insta": Row(), "neus": Row(build=neus), "static": Row(model="static_field")}
    study = study_of(folder, rows=rows, options={"rays": 32, "frames": 2})
    first = draws(study, "insta")
    assert len(set(first)) == 4
    assert draws(study, "neus") == draws(study, "static") == first != draws(study, "insta", seed=1)


def test_a_budget_of_rays_or_processor_seconds_ends_the_schedule(folder: Path, tmp_path) -> None:  # noqa: F811
    by_rays = run_cell(cells_of(study_of(folder, steps=None, rays=70))[0], tmp_path)
    assert by_rays["cost"]["steps"] == 5 and by_rays["cost"]["rays"] == 80  # 16 a step
    cell = cells_of(study_of(folder, steps=None, seconds=0.3))[0]
    cost = run_cell(cell, tmp_path)["cost"]
    assert 0.3 <= cost["processor seconds"] < 0.9 and cost["steps"] > 1 and cost["rays"] == 16 * cost["steps"]
    rates = [entry["learning_rate"] for entry in hf.load_run(cell.folder(tmp_path) / "run").log if "loss" in entry]
    assert rates[-1] < 0.02 * 0.16  # the recipe's rate falls to a tenth


def test_seconds_of_one_machine_are_steps_on_any(folder: Path, tmp_path, capsys) -> None:  # noqa: F811
    """What cells in seconds took is printed for the study's file; with it each row takes its own steps, to the bit."""
    text = (
        f'captures = ["{folder}"]\nmodel = "insta"\nseconds = 0.2\nseeds = 1\nstrata = ["test"]\nframes = 1\n'
        f"[arguments]\nexpression_width = 4\n{''.join(f'{k} = {v}{chr(10)}' for k, v in SIZES.items())}"
        '[options]\nrays = 16\nsamples = 0\nframes = 1\n[rows.one]\n[rows."the other"]\nmodel = "static-field"\n'
    )
    timed = tmp_path / "timed.toml"
    timed.write_text(text)
    assert main(["compare", str(timed), "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    assert main(["compare", str(timed), "--out", str(tmp_path / "a"), "--steps"]) == 0
    table = capsys.readouterr().out
    assert table.startswith('[steps_by_row]\n"one" = ')
    counted = tmp_path / "counted.toml"
    counted.write_text(text + table)
    study = Study.load(counted)
    assert not study.is_timed and study.stated_budget == "the steps that 0.2 seconds took on one machine"
    for cell in cells_of(study):
        cost = run_cell(cell, tmp_path / "b")["cost"]
        assert cost["steps"] == study.steps_by_row[cell.row] == study.budget_of(cell.row)[1]
    more = dataclasses.replace(study, steps_by_row={**study.steps_by_row, "one": study.steps_by_row["one"] + 1})
    before, after = cells_of(study), cells_of(more)
    assert before[0].key() != after[0].key() and before[1].key() == after[1].key(), "other rows' cells stay"
    assert main(["compare", str(counted), "--out", str(tmp_path / "b"), "--steps"]) == 1
    assert "--steps says what a budget in seconds was" in capsys.readouterr().err
    for changes, said in [
        ({"seconds": None, "steps": 3}, "give seconds too"), ({"steps_by_row": {"one": 3}}, "differ in the other"),
        ({"steps_by_row": {"one": 3, "the other": 0}}, "has 0 for the other"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            dataclasses.replace(study, **changes)


class Killed(BaseException):
    """What no handler of an error takes."""


def test_a_killed_cell_on_seconds_has_the_whole_budget_and_the_same_draws(folder: Path, tmp_path, monkeypatch) -> None:  # noqa: F811
    """Seconds up to the last checkpoint count, and those that were lost do not; draws go on where they were."""
    spent: dict[int, float] = {}
    drawn: dict[int, str] = {}

    def watched(recipe: Any, avatar: Any, *rest: Any) -> Any:
        trainer = trainer_of(recipe, avatar, *rest[:-1], {**rest[-1], "checkpoint_seconds": 0.05})
        draw = trainer._batches.draw

        def noted(*arguments: Any) -> Any:
            batch, *others = draw(*arguments)
            bits = batch.rays.origins.numpy().tobytes() + batch.rgb.numpy().tobytes()
            drawn[trainer.progress.step] = hashlib.sha256(bits).hexdigest()
            spent[trainer.progress.step] = trainer.progress.processor_seconds
            if limit is not None and trainer.progress.processor_seconds > limit and folder_of.checkpoints:
                raise Killed
            return batch, *others

        if rest[-1].get("out") is not None:  # not the step that only warms up
            trainer._batches.draw = noted
        return trainer

    monkeypatch.setattr(cells, "trainer_of", watched)
    cell = cells_of(study_of(folder, steps=None, seconds=0.6))[0]
    folder_of, limit = RunFolder(cell.folder(tmp_path) / "run"), 0.3
    with pytest.raises(Killed):
        run_cell(cell, tmp_path)
    first, before = dict(drawn), dict(spent)
    drawn.clear()
    spent.clear()
    limit = None
    cost = run_cell(cell, tmp_path)["cost"]
    began = min(drawn)
    assert 0 < began <= max(first) and spent[began] == pytest.approx(before[began], abs=0.15)
    assert all(drawn[step] == first[step] for step in drawn if step in first)
    assert 0.6 <= cost["processor seconds"] < 1.2 and cost["steps"] == max(drawn) + 1
    assert sorted(spent.values())[-2] < 0.6  # but for the last, whose draw may end after the budget
    folder_of, limit = RunFolder(cell.folder(tmp_path / "whole") / "run"), None
    drawn.clear()
    run_cell(cell, tmp_path / "whole")
    assert all(drawn[step] == first[step] for step in first if step in drawn)


@pytest.mark.slow
def test_curves_are_on_frames_that_no_row_trains_on(folder: Path, tmp_path) -> None:  # noqa: F811
    study = study_of(folder, steps=40)
    source, validation = opened(study, str(folder))
    assert validation and not set(validation) & {*source.splits["train"].tolist(), *source.splits["test"].tolist()}
    result = run_cell(cells_of(study)[0], tmp_path)
    steps = [point[0] for point in result["curve"]]
    assert len(steps) == len(cells.CURVE) + 1 and steps == sorted(steps) and steps[-1] == 40


def test_rates_are_chosen_on_validation_frames(folder: Path, tmp_path) -> None:  # noqa: F811
    options = {**OPTIONS, "learning_rate": 1e-3}
    study = study_of(folder, seeds=1, trials=3, options=options, rows={"affine": Row()})
    trials = trials_of(study)
    assert [cell.factor for cell in trials[:3]] == trial_factors(3) == [0.5, 1.0, 2.0] and len(trials) == 3
    found = run_study(study, tmp_path, bar=False)
    _, validation = opened(study, str(folder))
    tried = [cell.done(tmp_path) for cell in trials]
    assert all([row["frame"] for row in result["frames"]] == validation for result in tried if result)
    factors = chosen_factors(study, trials, tmp_path)
    for entry in found["trials"]:
        scores = {float(factor): score for factor, score in entry["scores"].items()}
        assert entry["factor"] == max(scores, key=lambda factor: scores[factor])
        assert (
            entry["at the edge"] == (entry["factor"] != 1.0) and entry["factor"] == factors[entry["row"], str(folder)]
        )
    finals = cells_of(study, factors=factors)
    assert len(finals) == 1 and all(cell.done(tmp_path)["factor"] == cell.factor for cell in finals)


@pytest.mark.slow
def test_seeds_are_added_until_the_interval_is_smaller_than_the_margin(folder: Path, tmp_path) -> None:  # noqa: F811
    study = study_of(folder, seeds=2, most_seeds=16, margin=0.5)
    assert study.looks == (2, 4, 8, 16) and study_of(folder).looks == (2,)
    found = run_study(study_of(folder, seeds=2, most_seeds=3, margin=1e-9), tmp_path, bar=False)
    assert found["seeds"] == 3 and found["rows"]["length"]["differences"]["psnr"]["pairs"] == 3
    found = run_study(study_of(folder, seeds=2, most_seeds=3, margin=1000.0), tmp_path, bar=False)
    assert found["seeds"] == 2 and found["rows"]["length"]["verdict"] == "equivalent"


def test_figures_alone_finish_a_study_elsewhere(folder: Path, tmp_path, monkeypatch) -> None:  # noqa: F811
    study = study_of(folder, seeds=1, rows={"affine": Row()})
    found = run_study(study, tmp_path / "here", bar=False)
    assert export_figures(study, tmp_path / "here", tmp_path / "kept") == 1
    assert not list((tmp_path / "kept").rglob("*.safetensors"))
    assert import_figures(study, tmp_path / "kept", tmp_path / "there") == (1, 0)
    monkeypatch.setattr(cells, "_train", None)
    again = run_study(study, tmp_path / "there", bar=False)
    assert again["rows"] == found["rows"] and "data:image/png" in (tmp_path / "there" / "report.html").read_text()
    assert import_figures(study_of(folder, steps=3), tmp_path / "kept", tmp_path / "other") == (0, 1)
    with pytest.raises(FileNotFoundError, match="no folder cells"):
        import_figures(study, tmp_path, tmp_path / "other")
