"""The tests that are marked `cuda`, a file at a time."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import GpuSettings

ROOT = Path(__file__).parents[2]
_PYTEST = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]


def missing(settings: GpuSettings) -> str:
    """Why the part can't run."""
    return "" if settings.device == "cuda" else "there is no CUDA device"


def items(settings: GpuSettings) -> list[str]:
    """The files that hold such tests.

    Raises:
        RuntimeError: they cannot be collected.
    """
    run = subprocess.run([*_PYTEST, "--collect-only", "tests"], cwd=ROOT, capture_output=True, text=True)
    files = sorted(set(re.findall(r"^(tests/\S+\.py)::", run.stdout, re.MULTILINE)))
    if run.returncode or not files:
        raise RuntimeError(f"pytest collects no test marked cuda: {(run.stdout + run.stderr).strip()[-500:]}")
    return files


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    log = settings.file("tests", item).with_suffix(".txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:  # as it goes, to see how far it came
        code = subprocess.run([*_PYTEST, item], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    result = outcome(log.read_text())
    if code:
        result["error"] = f"pytest ended with {code}: {', '.join(result['failures'][:5]) or 'no test is named'}"
    return result


def outcome(log: str) -> dict[str, Any]:
    """What pytest counts at its end, and the tests that failed."""
    last = (log.strip().splitlines() or [""])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
    return {**counts, "failures": re.findall(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)}
