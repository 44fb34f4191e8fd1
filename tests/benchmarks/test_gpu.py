"""The command for a GPU, at tiny sizes on the CPU."""

import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import models as gpu_models
from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.graphs import compared
from benchmarks.gpu.page import markdown
from benchmarks.gpu.settings import GpuSettings
from headfields.training.processes import Processes
from headfields.training.step_kinds import why_synchronous
from tests.pretend_cuda import guard

FEW = ["INSTA, released", "GaussianAvatars, fast"]

ITEMS = {
    "good": "{write}",
    "crash": "import os; os.abort()",
    "hang": "import time; time.sleep(60)",
    "raises": "raise RuntimeError('an illegal access' + ' that waited' * bool(os.environ.get('CUDA_LAUNCH_BLOCKING')))",
    "wrong": "{write_error}",
}


@pytest.fixture
def day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., gpu.Day]:
    """Makes a day of one part, whose items are programs that fail in ways of their own; each leaves a line in `ran`."""
    part = types.ModuleType("benchmarks.gpu.planted")
    part.items = lambda settings: list(ITEMS)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, part.__name__, part)

    def command(self: gpu.Day, name: str, item: str) -> list[str]:
        file = self.settings.file(name, item)
        write = f"os.makedirs({str(file.parent)!r}, exist_ok=True); open({str(file)!r}, 'w').write"
        words = {"write": f"{write}('{{\"copies\": 12}}')", "write_error": f'{write}(\'{{"error": "losses apart"}}\')'}
        begin = f"import os; open({str(tmp_path / 'ran')!r}, 'a').write({item!r} + '\\n'); "
        return [sys.executable, "-S", "-c", begin + ITEMS[item].format(**words)]

    monkeypatch.setattr(gpu.Day, "_command", command)

    def make(*options: str, **limits: float) -> gpu.Day:
        monkeypatch.setattr(gpu, "PARTS", {"planted": gpu.Part(**({"seconds": 60, "item": 1.5} | limits))})
        return gpu.Day(gpu.parse(["--out", str(tmp_path), "--only", "planted", *options]))

    return make


def test_an_item_that_crashes_or_hangs_ends_itself_alone(day: Callable[..., gpu.Day], tmp_path: Path) -> None:
    assert not day().run()
    results, page = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    rows = results["planted"]
    assert rows["good"]["state"] == "done" and rows["good"]["copies"] == 12
    assert rows["crash"]["state"].startswith("exit code -6") and rows["hang"]["state"] == "ran past 1.5 s"
    assert rows["raises"]["state"] == "exit code 1: RuntimeError: an illegal access"
    assert rows["raises"]["blocking"] == "exit code 1: RuntimeError: an illegal access that waited"
    assert rows["wrong"]["state"] == "losses apart"
    assert "planted: 4 of 5 not done" in page and "- planted, wrong: losses apart; with CUDA_LAUNCH_BLOCKING=1" in page


def test_the_same_command_goes_on_with_what_is_not_done(day: Callable[..., gpu.Day], tmp_path: Path) -> None:
    day(seconds=0.0).run()
    rows = json.loads((tmp_path / "gpu.json").read_text())["planted"]
    assert {row["state"] for row in rows.values()} == {"not begun: the part has used its time"}
    day("--minutes", "0").run()
    rows = json.loads((tmp_path / "gpu.json").read_text())["planted"]
    assert {row["state"] for row in rows.values()} == {"not begun: the run has used its time"}
    for _ in range(2):
        day(item=0.5, again=False).run()
    ran = (tmp_path / "ran").read_text().split()
    assert ran.count("good") == 1 and ran.count("crash") == 2


def test_an_interrupted_run_keeps_what_was_measured(
    day: Callable[..., gpu.Day], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = gpu.call

    def interrupted(command: list[str], *arguments: Any) -> int:
        if "abort" in command[-1]:
            raise KeyboardInterrupt
        return call(command, *arguments)

    monkeypatch.setattr(gpu, "call", interrupted)
    assert not day().run()
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["planted"]["good"]["copies"] == 12 and "hang" not in results["planted"]
    assert "planted: interrupted" in (tmp_path / "gpu.md").read_text()


def test_what_an_item_has_started_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        gpu.call(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], 1.0, tmp_path / "log", {})
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the item's own process goes on")


def test_runs_that_learn_other_things_are_an_error() -> None:
    launched = [1.0, 0.8, 0.7, 0.6, 0.5]
    assert compared(launched, launched)["apart"] == 0
    assert "error" not in compared([1.001 * loss for loss in launched], launched)
    assert "10.0 % apart" in compared([1.1 * loss for loss in launched], launched)["error"]
    assert "not finite" in compared([*launched[:-1], float("nan")], launched)["error"]


@pytest.mark.slow
@pytest.mark.parametrize("names", [FEW, list(gpu_models.CONFIGURATIONS)])
def test_models_and_ceilings_are_measured_and_put_on_a_page(names: list[str], tmp_path: Path) -> None:
    settings = GpuSettings(tmp_path, "cpu", small=True)
    for name in names:
        row = gpu_models.run(settings, name)
        assert row["step"]["median ms"] > 0 and row["quality"]["psnr"] > 0
    options = ["--small", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main([*options, "--only", "tests", "ceilings"]) == 0
    page = (tmp_path / "gpu.md").read_text()
    assert "figures mean nothing" in page and "copy GB/s" in page
    assert "- tests: left out, there is no CUDA device" in page


@pytest.mark.slow
def test_programs_run_on_a_cpu(tmp_path: Path) -> None:
    assert gpu.main(["--small", "--device", "cpu", "--out", str(tmp_path), "--only", "programs"]) == 0


_NOTHING_IS_REPLAYED = """
from tests.pretend_cuda.device import PretendCuda
capture = PretendCuda.capture
def forgetful(self, body, stream):
    replay, calls = capture(self, body, stream), []
    def once():
        calls.append(None)
        if len(calls) == 1:
            replay()
        else:
            self.count_launch("a graph")
    return once
PretendCuda.capture = forgetful
"""


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["", _NOTHING_IS_REPLAYED])
def test_graphs_on_the_pretend_device(planted: str, tmp_path: Path) -> None:
    """All is well there; and a graph that does nothing when it is replayed is found."""
    if guard.compiler() is None:
        pytest.skip("needs a C++ compiler")
    for part, item in (("graphs", "gaussian_avatars, cpu"), ("capture_failures", "a loss that waits")):
        words = ["--small", "--device", "pretend", "--out", str(tmp_path), "--only", part, "--item", item]
        script = f"{planted}\nfrom benchmarks.gpu.__main__ import main\nmain({words})"
        subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)
    settings = GpuSettings(tmp_path, "pretend", small=True)
    found = json.loads(settings.file("graphs", "gaussian_avatars, cpu").read_text())
    assert not found["no graph"] and bool(planted) == ("error" in found), found
    waits = json.loads(settings.file("capture_failures", "a loss that waits").read_text())
    assert "a step waits for the GPU, at " in waits["no graph"] and "error" not in waits, waits


def test_failures_on_the_device_are_on_the_page() -> None:
    log = "....F\nFAILED tests/ops/test_mlp.py::test_x - assert 1 == 2\n1 failed, 4 passed, 2 skipped in 3.1s\n"
    checks = [
        {"name": "mlp", "passed": False, "detail": "error 3.0e-01"}, {"name": "uv", "passed": True, "detail": ""},
    ]  # fmt: skip
    environment = {"device": "A GPU", "backends": ["cuda warp not available: driver"], "nvidia-smi": "name\nA GPU, 570"}
    page = markdown({
        "parts": {}, "environment": {"environment": environment | {"checks": checks, "failed": ["mlp"]}},
        "tests": {"tests/ops/test_mlp.py": gpu_tests.outcome(log), "tests/ops/test_uv.py": {"passed": 3}},
    })  # fmt: skip
    assert "2 checks, these are wrong or impossible:\n\n- mlp: error 3.0e-01\n" in page
    assert "7 passed, 1 failed, 2 skipped, in 2 files.\n\n- tests/ops/test_mlp.py::test_x" in page
    assert "cuda warp not available: driver" in page and "A GPU, 570" in page
    assert "none ran" in markdown({"parts": {}, "tests": {"tests/x.py": gpu_tests.outcome("")}})


def test_rows_of_operations_name_peers_that_are_missing() -> None:
    ours = {"label": "forward", "size": {"points": 1000}, "contestant": "headfields", "milliseconds": 2.0, "note": ""}
    peer = {**ours, "contestant": "nerfacc", "milliseconds": None, "ratio": None, "note": "not installed"}
    operations = {"compositing": {"rows": [{**ours, "ratio": None}, peer]}, "mlp": {"state": "ValueError: too large"}}
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
