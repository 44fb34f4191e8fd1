"""What tracking costs: a tiny table from a drawn capture, and its reuse."""

import json
from pathlib import Path

import pytest

import headfields as hf
from benchmarks import tracking_cost


@pytest.mark.slow
def test_rows_are_trained_measured_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf.synthetic.write_head_capture(tmp_path / "exact", frames=6, size=64, samples=1, progress=False)
    words = ["--capture", str(tmp_path / "exact"), "--out", str(tmp_path / "out"), "--every", "1", "--quick",
             "--models", "INSTA", "--refine", "INSTA", "--steps", "3", "--rays", "64",
             "--samples", "500", "--measured", "1"]  # fmt: skip
    tracking_cost.main(words)
    rows = json.loads((tmp_path / "out" / "cost.json").read_text())["rows"]
    assert set(rows) == {"INSTA, exact", "INSTA, tracked"}
    assert 3 < rows["INSTA, exact"]["PSNR"]["mean"] < 60
    assert "difference" in rows["INSTA, tracked"]["PSNR"] and "difference" not in rows["INSTA, exact"]["PSNR"]
    assert (tmp_path / "out" / "cost.png").is_file()
    monkeypatch.setattr(tracking_cost, "Trainer", None)  # nothing is trained twice
    tracking_cost.main(words)
    assert json.loads((tmp_path / "out" / "cost.json").read_text())["rows"] == rows
