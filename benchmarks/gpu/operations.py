"""Every operation beside its peers: the tables of `python -m benchmarks --device cuda`, in brief."""

from typing import Any

import torch

from benchmarks import run as benchmarks_run
from benchmarks.gpu.settings import GpuSettings
from benchmarks.operations import OPERATIONS

SMALL = ("compositing",)


def run(settings: GpuSettings) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in settings.pick(OPERATIONS, SMALL):
        try:
            report = benchmarks_run.run(
                name, settings.out / "operations", quick=True, threads=torch.get_num_threads(), device=settings.device
            )
        except Exception as error:  # the others are measured all the same
            result[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        result[name] = [row.to_json() for row in report.rows]
        settings.write("operations", result)
    return result
