"""Versions, device, driver, backends; and every kernel against its definition, with both derivatives."""

import shutil
import subprocess
from typing import Any

import torch

import headfields as hf
from benchmarks import machine
from benchmarks.gpu.settings import GpuSettings
from headfields.apps import self_check

QUERY = "name,driver_version,compute_cap,memory.total,clocks.max.sm,power.limit"


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    found: dict[str, Any] = machine.description(torch.get_num_threads(), settings.device)
    found["headfields"] = hf.__version__
    found["backends"] = [str(backend) for backend in hf.backends()]
    found["tf32"] = {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
    if settings.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["multiprocessors"], found["bytes"] = properties.multi_processor_count, properties.total_memory
    if shutil.which("nvidia-smi"):
        answer = subprocess.run(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"], capture_output=True, text=True)
        found["nvidia-smi"] = answer.stdout.strip() or answer.stderr.strip()
    checks = [
        {"name": check.name, "backend": check.backend, "passed": check.passed, "detail": check.detail,
         "seconds": check.seconds}
        for check in self_check.run()
        if settings.device in check.backend
    ]  # fmt: skip
    return found | {"checks": checks, "failed": [check["name"] for check in checks if not check["passed"]]}
