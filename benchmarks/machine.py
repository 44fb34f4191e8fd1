"""The machine's description, and equal threads for every library. Imports nothing that starts threads."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = (
    "headfields", "torch", "warp-lang", "numpy", "open3d", "libigl", "fcpw", "trimesh", "embreex", "nerfacc", "smplx",
    "kaolin", "cubvh", "nvdiffrast", "tinycudann",
)  # fmt: skip

_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TBB_", "IGL_", "HEADFIELDS_")


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that set the number of threads of libraries."""
    names = (
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "IGL_NUM_THREADS",
        "TBB_NUM_THREADS",
    )  # fmt: skip
    return dict.fromkeys(names, str(threads))


def bind(threads: int) -> None:
    """Binds this process to `threads` cores, where the system allows: some libraries use every core they can."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    chosen = _one_a_core(allowed)
    chosen += [cpu for cpu in allowed if cpu not in chosen]
    if threads > len(allowed):
        raise SystemExit(f"benchmarks: --threads is {threads}, but this process may use {len(allowed)} CPUs")
    os.sched_setaffinity(0, chosen[:threads])


def _one_a_core(cpus: list[int]) -> list[int]:
    """The first hyper-thread of each core."""
    cores: set[str] = set()
    chosen = []
    for cpu in cpus:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text().strip() if path.exists() else str(cpu)
        if core not in cores:
            cores.add(core)
            chosen.append(cpu)
    return chosen


def description(threads: int, device: str) -> dict[str, Any]:
    """Device, threads, backends and versions, without which a figure means nothing."""
    import torch

    import headfields as hf

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    packages.setdefault("headfields", hf.__version__)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": threads,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backends": [str(row) for row in hf.backends() if row.in_use],
        "system": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "packages": packages,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
