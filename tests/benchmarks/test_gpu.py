"""The command for a GPU, at tiny sizes on the CPU."""

import json
import subprocess
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import models as gpu_models
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.page import markdown
from benchmarks.gpu.settings import GpuSettings
from headfields.training.processes import Processes
from headfields.training.step_kinds import why_synchronous

FEW = ["INSTA, released", "GaussianAvatars, fast"]


@pytest.mark.slow
@pytest.mark.parametrize("names", [FEW, list(gpu_models.CONFIGURATIONS)])
def test_models_and_ceilings_are_measured_and_put_on_a_page(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_models, "CONFIGURATIONS", {name: gpu_models.CONFIGURATIONS[name] for name in names})

    def in_this_process(command: list[str], seconds: float) -> int:
        return gpu.main(command[3:])  # which has imported torch

    monkeypatch.setattr(gpu, "call", in_this_process)
    options = ["--small", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main([*options, "--only", "tests", "ceilings", "models"]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {part["state"] for part in results["parts"].values()} == {"done"}
    models = results["models"]
    assert set(names) < models.keys() and not [name for name, row in models.items() if "error" in row]
    for name, row in models.items():
        if name != "capture":
            assert row["step"].get("median ms", row["step"].get("mean ms")) > 0
    page = (tmp_path / "gpu.md").read_text()
    assert "figures mean nothing" in page and all(name in page for name in models if name != "capture")


def test_a_part_that_fails_or_hangs_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.PARTS, "ceilings", 0.01)
    assert gpu.main(["--small", "--device", "cpu", "--out", str(tmp_path), "--only", "ceilings"]) == 1
    assert "ceilings: ran past 0.01 s" in (tmp_path / "gpu.md").read_text()


def test_what_a_part_has_started_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        gpu.call(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], 1.0)
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the part's own process goes on")


def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(command: list[str], seconds: float) -> int:
        part = command[-1]
        settings = GpuSettings(tmp_path)
        if part == "ceilings":
            settings.write(part, {"copy GB/s": 12.0})
            return 0
        settings.write(part, {"INSTA, fast": {"error": "OutOfMemoryError: CUDA out of memory\nof a | b"}})
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "call", interrupted)
    assert gpu.main(["--out", str(tmp_path), "--only", "ceilings", "models", "operations"]) == 1
    page, results = (tmp_path / "gpu.md").read_text(), json.loads((tmp_path / "gpu.json").read_text())
    assert "models: interrupted" in page and "copy GB/s | 12" in page and "operations" not in results["parts"]
    assert "| INSTA, fast | OutOfMemoryError: CUDA out of memory | | | | | |" in page


def test_failures_on_the_device_are_on_the_page() -> None:
    log = "....F\nFAILED tests/ops/test_mlp.py::test_x - assert 1 == 2\n1 failed, 4 passed, 2 skipped in 3.1s\n"
    checks = [
        {"name": "mlp", "passed": False, "detail": "error 3.0e-01"}, {"name": "uv", "passed": True, "detail": ""},
    ]  # fmt: skip
    environment = {"device": "A GPU", "backends": ["cuda warp not available: driver"], "nvidia-smi": "name\nA GPU, 570"}
    page = markdown({
        "parts": {}, "environment": environment | {"checks": checks, "failed": ["mlp"]},
        "tests": {"exit": 1, **gpu_tests.outcome(log)},
    })  # fmt: skip
    assert "2 checks, these are wrong or impossible:\n\n- mlp: error 3.0e-01\n" in page
    assert "4 passed, 1 failed, 2 skipped.\n\n- tests/ops/test_mlp.py::test_x" in page
    assert "cuda warp not available: driver" in page and "A GPU, 570" in page
    assert "none ran (exit 5)" in markdown({"parts": {}, "tests": {"exit": 5, **gpu_tests.outcome("")}})


def test_rows_of_operations_name_peers_that_are_missing() -> None:
    ours = {"label": "forward", "size": {"points": 1000}, "contestant": "headfields", "milliseconds": 2.0, "note": ""}
    peer = {**ours, "contestant": "nerfacc", "milliseconds": None, "ratio": None, "note": "not installed"}
    operations = {"compositing": [{**ours, "ratio": None}, peer], "mlp": {"error": "ValueError: too large"}}
    page = markdown({"parts": {}, "operations": operations})
    assert "| compositing: forward, 1,000 points | | 2 | |" in page
    assert "nerfacc: not installed" in page and "ValueError: too large" in page


def test_the_clock_lets_steps_be_captured(tmp_path: Path) -> None:
    """Were each step waited for, the figures would be those of another way to train."""
    clock = gpu_models._Clock(GpuSettings(tmp_path))
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], fused=True)
    alone = Mock(spec=Processes, several=False)
    assert not why_synchronous(torch.device("cuda"), alone, None, optimizer, [clock])


def test_a_cpu_is_refused_without_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    assert "python -m benchmarks measures a CPU" in capsys.readouterr().err
