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
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (settings.out / "tests.txt").write_text(answer.stdout + answer.stderr)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", answer.stdout)}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", answer.stdout, re.MULTILINE)
    return {"exit": answer.returncode, **counts, "failures": failed}
