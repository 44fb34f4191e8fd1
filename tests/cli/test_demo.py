"""`headfields demo`: it says what it made, where, and how to look at it."""

import json
from pathlib import Path

import pytest

from headfields.cli import demo, main


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--frames", "5"], ["--size", "8"]])
def test_bad_arguments(arguments: list[str], tmp_path: Path, capsys) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), *arguments]) == 1
    assert "expected more than 0 minutes and at least 6 frames of 16 pixels" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_finished_demo_prints_its_figures_and_offers_the_viewer(tmp_path: Path, capsys, monkeypatch) -> None:
    figures = {"INSTA": {"psnr": 30.5, "ssim": 0.9, "psnr_head": 28.25}}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "PSNR 30.50 dB" in out and "28.25 dB" in out
    assert all(name in out for name in demo.FILES) and f"headfields view {tmp_path / 'insta'}" in out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert "pip install 'headfields[viewer]'" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo(tmp_path: Path, capsys) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--minutes", "0.3", "--frames", "8", "--size", "24"]) == 0
    assert all((out / name).stat().st_size > 0 for name in demo.FILES)
    assert "average texture" in capsys.readouterr().out
