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


def items(settings: GpuSettings) -> list[str]:
    return settings.pick([name for name in OPERATIONS if name != TRAINING], list(SMALL))


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    report = benchmarks_run.run(
        item, settings.out / "operations", quick=settings.small, threads=torch.get_num_threads(),
        device=settings.device, seconds=SECONDS, keep_going=True,
    )  # fmt: skip
    return {"rows": [row.to_json() for row in report.rows]}
