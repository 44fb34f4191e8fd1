"""Every operation beside its peers: the tables of `python -m benchmarks --device cuda`, in fewer rounds."""

from typing import Any

import torch

from benchmarks import run as benchmarks_run
from benchmarks.gpu.settings import GpuSettings
from benchmarks.operations import OPERATIONS

SMALL = ("compositing",)
TRAINING = "insta_training"
"""What `models` measures."""
SECONDS = 1.0
"""Time for the rounds of a case: sizes are those of the tables for a CPU, which keep a GPU busy, in less time."""


def run(settings: GpuSettings) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in settings.pick([name for name in OPERATIONS if name != TRAINING], SMALL):
        try:
            report = benchmarks_run.run(
                name, settings.out / "operations", quick=settings.small, threads=torch.get_num_threads(),
                device=settings.device, seconds=SECONDS, keep_going=True,
            )  # fmt: skip
            result[name] = [row.to_json() for row in report.rows]
        except Exception as error:  # the others are measured all the same
            result[name] = {"error": f"{type(error).__name__}: {error}"}
        settings.write("operations", result)
    return result
