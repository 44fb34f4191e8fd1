"""What the device can do at best: copies and matrix products, to judge the other figures by."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.settings import GpuSettings
from benchmarks.timing import interleaved


def run(settings: GpuSettings, item: str) -> dict[str, Any]:
    numbers, side = settings.pick(1 << 28, 1 << 16), settings.pick(8192, 64)
    source = torch.rand(numbers, device=settings.device)
    target = torch.empty_like(source)
    left = torch.rand(side, side, device=settings.device)
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if settings.device == "cuda" else (torch.float32,)
    actions: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(source)}
    for dtype in dtypes:
        matrix = left.to(dtype)
        actions[f"product {str(dtype).removeprefix('torch.')}"] = lambda matrix=matrix: matrix @ matrix
    if settings.device == "cuda":
        actions["product tf32"] = lambda: _with_tf32(left)
    for action in actions.values():
        action()
    times = interleaved(actions, (3, 11), settings.pick(3.0, 0.0), settings.wait)
    result = {"copy GB/s": 2 * 4 * numbers / times.pop("copy").median / 1e9}
    return result | {f"{name} TFLOP/s": 2 * side**3 / timing.median / 1e12 for name, timing in times.items()}


def _with_tf32(matrix: torch.Tensor) -> torch.Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return matrix @ matrix
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
