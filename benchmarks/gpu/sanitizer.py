"""A few steps of each preset under compute-sanitizer, which finds accesses outside of arrays."""

import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.training import PRESETS, load_capture, make_trainer

_STEPS = 3


def tool() -> str | None:
    """compute-sanitizer, on the path or in a CUDA toolkit."""
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(root) / "bin") for root in roots if root]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def missing(settings: GpuSettings) -> str:
    """Why the part can't run."""
    if settings.device != "cuda":
        return "it needs a CUDA device"
    return "" if tool() else "compute-sanitizer is not here; it comes with the CUDA toolkit (CUDA_HOME)"


def wrapped(command: list[str]) -> list[str]:
    """The command under the tool, which ends with exit code 9 where it found something."""
    return [str(tool()), "--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all", *command]


def items(settings: GpuSettings) -> list[str]:
    return list(PRESETS)


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    trainer = make_trainer(item, "cpu", load_capture(settings), settings, graph=False)
    trainer.fit(steps=_STEPS)
    settings.wait()
    return {"steps": _STEPS}
