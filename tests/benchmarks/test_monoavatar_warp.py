"""MonoAvatar's warp measured: a tiny table from drawn captures, and its reuse."""

import json
from pathlib import Path

import pytest

from benchmarks import monoavatar_warp


@pytest.mark.slow
def test_rows_are_trained_measured_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--out", str(tmp_path), "--only", "noisy", "--seeds", "0", "--steps", "4", "--start", "1", "--fade", "2",
             "--frames", "8", "--size", "32", "--measured", "1", "--rays", "64", "--samples", "500"]  # fmt: skip
    monoavatar_warp.main(words)
    table = json.loads((tmp_path / "warp.json").read_text())["tables"]["noisy"]
    assert set(table) == {"no warp", "warp"}
    assert table["warp"]["psnr"]["mean"] != table["no warp"]["psnr"]["mean"]
    assert "difference" in table["warp"]["psnr_face_refined"]
    assert (tmp_path / "pictures_noisy.png").is_file()
    monkeypatch.setattr(monoavatar_warp, "Trainer", None)  # nothing is trained twice
    monoavatar_warp.main(words)
    assert json.loads((tmp_path / "warp.json").read_text())["tables"]["noisy"] == table
