"""Engines that run a study's cells: coordinators that share a folder and are killed, submitit, Dask."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headfields.compare import Study
from headfields.compare.cells import cells_of
from headfields.compare.executors import executor_of
from headfields.compare.running import run_study
from tests.compare.test_study import folder  # noqa: F401
from tests.runs.test_interrupts import alive

STUDY = """
captures = ["{folder}"]
steps = {steps}
seeds = 2
[arguments]
levels = 2
features = 2
log2_table_size = 8
[options]
rays = 16
frames = 1
[rows.affine]
[rows.own]
build = "{module}.py:mine"
"""
ROWS = """
import headfields as hf


def mine(capture):
    return hf.models.insta(capture.template, expression_width=4, levels=2, features=2, log2_table_size=8)
"""


def written(place: Path, capture: Path, steps: int) -> Path:
    """A study's file with a row of its own beside it."""
    module = f"rows_of_{place.name}"  # a process has one module of a name
    (place / f"{module}.py").write_text(ROWS)
    file = place / "study.toml"
    file.write_text(STUDY.format(folder=capture, steps=steps, module=module))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "module", "options"), [("submitit", "submitit", {"cluster": "local"}), ("dask", "distributed", {})]
)
def test_an_engine_runs_the_cells(folder: Path, tmp_path, engine: Any, module: str, options: Any) -> None:  # noqa: F811
    pytest.importorskip(module, reason=f"{module} is not installed (pip install 'headfields[cluster]')")
    study = Study.load(written(tmp_path, folder, 2))
    with executor_of(engine, tmp_path / "out", 2, options) as executor:
        found = run_study(study, tmp_path / "out", executor, bar=False)
    assert found["failed"] == {} and all(row["cells"] == 2 for row in found["rows"].values())
    holders = {json.loads((cell.folder(tmp_path / "out") / ".lock").read_text())["pid"] for cell in cells_of(study)}
    assert os.getpid() not in holders and len(holders) >= 2  # none ran here


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [int(stat.split()[0]) for stat in stats if int(stat.rpartition(")")[2].split()[1]) == parent]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc, which Linux has")
def test_coordinators_share_the_cells_and_one_may_be_killed(folder: Path, tmp_path) -> None:  # noqa: F811
    file, out = written(tmp_path, folder, 150), tmp_path / "out"
    command = [sys.executable, "-m", "headfields", "compare", str(file), "--out", str(out)]
    study = Study.load(file)

    def started(*further: str) -> subprocess.Popen:
        return subprocess.Popen([*command, *further], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    first, second = started("--workers", "2"), started()
    waited = time.monotonic() + 300
    while not list(out.glob("cells/*/run/log.jsonl")) and time.monotonic() < waited:
        time.sleep(0.05)
    workers = children(first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    waited = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < waited:
        time.sleep(0.05)
    assert len(workers) >= 2 and not any(map(alive, workers))
    assert second.wait(600) == 0, second.stderr.read() if second.stderr else ""
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "psnr" in again.stdout
    for cell in cells_of(study):
        starts = [json.loads(line) for line in (cell.folder(out) / "run" / "log.jsonl").read_text().splitlines()]
        assert sum(entry.get("event") == "end" for entry in starts) == 1  # trained to its end once
    whole = run_study(study, tmp_path / "whole", bar=False)
    report = json.loads((out / "report.json").read_text())
    for name, row in whole["rows"].items():
        assert report["rows"][name]["scores"]["psnr"]["mean"] == row["scores"]["psnr"]["mean"]
