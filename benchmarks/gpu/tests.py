"""The tests that are marked `cuda`."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import GpuSettings

ROOT = Path(__file__).parents[2]


def run(settings: GpuSettings) -> dict[str, Any]:
    if settings.device != "cuda":
        return {"skipped": "there is no CUDA device"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests"]
    log = settings.out / "tests.txt"
    with log.open("w") as file:  # as it goes, to see how far it came
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    return {"exit": code, **outcome(log.read_text())}


def outcome(log: str) -> dict[str, Any]:
    """What pytest counts at its end, and the tests that failed."""
    last = (log.strip().splitlines() or [""])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
    return {**counts, "failures": re.findall(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)}
