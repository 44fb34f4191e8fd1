"""Strata and conditions: what is trained on, what is measured, and the columns that it gives."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from headfields.compare import Row, Study
from headfields.compare.running import run_study
from headfields.compare.strata import choose_training, evenly_spaced, stratum_frames
from headfields.compare.study import kind_of
from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames
from tests.tables import table

SMALL = {"steps": 1, "seeds": 1, "arguments": {"levels": 2, "features": 2, "log2_table_size": 8},
         "options": {"rays": 16, "samples": 0, "frames": 1}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("strata") / "blob"
    write_insta(path, tiny_frames(12, True), *blob(True), test_frames=4)
    inner = tmp_path_factory.mktemp("other") / "cameras"
    write_insta(inner, tiny_frames(3, True), *blob(True), test_frames=3)
    shutil.move(inner, path / "cameras")
    return path


def study_of(folder: Path, **changes: Any) -> Study:
    return Study([folder], {"a": Row(), "b": Row(arguments={"scaling": "length"})}, **{**SMALL, **changes})


def test_strata_and_conditions_are_columns(folder, tmp_path) -> None:
    study = study_of(
        folder, strata=["cameras", "seen"], frames=2, primary="psnr@cameras, half", conditions={"half": {"share": 0.5}}
    )
    assert len(study) == 4
    found = run_study(study, tmp_path, bar=False)
    psnr = [name for name in found["measures"] if name.partition("@")[0] == "psnr"]
    assert sorted(psnr) == ["psnr@cameras", "psnr@cameras, half", "psnr@seen", "psnr@seen, half"]
    row = found["rows"]["b"]
    assert row["cells"] == 1 and row["differences"]["psnr@cameras, half"]["pairs"] == 1 and "verdict" in row
    lines = (tmp_path / "frames.csv").read_text().splitlines()
    assert lines[0].startswith("row,capture,seed,condition,stratum,frame,yaw,") and len(lines) == 1 + 4 * 4


def test_what_is_trained_on_and_measured(folder) -> None:
    study = study_of(folder, strata=["test", "unseen"], held_out=0.2, share=0.5)
    source = load_capture(folder)
    choose_training(source, study.share, study.held_out, study.front)
    unseen = stratum_frames(study, "unseen", source)[1]
    test = stratum_frames(study, "test", source)[1]
    trained = source.splits["train"].tolist()
    assert unseen and not set(unseen) & ({*trained} | {*test}) and len(trained) <= 4
    assert stratum_frames(study, "seen", source)[1] == trained
    again = load_capture(folder)
    choose_training(again, front=0.5)
    assert 0 < len(again.splits["train"]) < 8
    turned = stratum_frames(study, "turned", again)[1]
    assert turned and not set(turned) & {*again.splits["train"].tolist()}
    assert evenly_spaced(list(range(10)), 3) == [0, 4, 9] and evenly_spaced([1], 3) == [1]
    with pytest.raises(FileNotFoundError, match="stratum 'orbit'"):
        stratum_frames(study, "orbit", source)
    source.splits["train"] = torch.arange(12)
    with pytest.raises(ValueError, match="stratum 'turned' has no frame"):
        stratum_frames(study, "turned", source)


@table(
    ("changes", "says"),
    [
        ({"share": 0}, "share is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"strata": []}, "strata is"),
        ({"strata": ["unseen"]}, 'the stratum "unseen" needs held_out'),
        ({"conditions": {"x": {"steps": 3}}}, "the condition 'x' has steps"),
        ({"conditions": {"x": {"captures": []}}}, "the condition 'x' has captures"),
        ({"conditions": {"test": {"share": 0.5}}}, "a condition is named 'test'"),
        ({"primary": "psnr@cameras"}, "primary is 'psnr@cameras'"),
        ({"strata": ["seen"]}, "what is measured is @seen"),
    ],
)
def test_refusals(folder, changes, says) -> None:
    with pytest.raises(ValueError, match=says):
        study_of(folder, **changes)


def test_a_study_under_a_condition(folder) -> None:
    study = study_of(folder, conditions={"few": {"share": 0.25, "options": {"rays": 8}}})
    under = study.under("few")
    assert under.share == 0.25 and under.options == {**SMALL["options"], "rays": 8} and under.conditions == {}
    assert study.under("") is study and kind_of("flip_face@few") == "flip"


def test_the_noise_ceiling_stands_above_the_table(folder, tmp_path) -> None:
    from headfields.compare.page import ceilings
    from headfields.data.noise_ceiling import noise_ceiling, write_noise_ceiling

    assert noise_ceiling(tmp_path) == {} and ceilings({"a": {}}) == "a: not known"
    write_noise_ceiling(tmp_path, {"psnr": 35.3, "psnr_head": 31.7}, "the renderer's samples")
    known = noise_ceiling(tmp_path)
    assert ceilings({"a": known}) == "a: psnr 35.3 dB, psnr_head 31.7 dB (the renderer's samples)"
    (tmp_path / "noise.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected decibels by measure"):
        noise_ceiling(tmp_path)
