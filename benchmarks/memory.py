"""Peak memory of a call beyond what the process held before it.

On CPU: growth of the resident set (Linux: the high-water mark is reset before the call, and free heap is given back).
Memory that an allocator kept from earlier calls and reuses is not counted, so 0 means "no more than before". On
CUDA: the peak of PyTorch's allocator, which leaves out what a library allocates by other means.
"""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PROCESS = Path("/proc/self")


def peak_growth(action: Callable[[], Any], device: str = "cpu") -> int | None:
    """Bytes at the peak of `action()` beyond those before; None where the system does not report them."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _reset_peak():
        return None
    before = _kilobytes("VmRSS")
    action()
    return max(_kilobytes("VmHWM") - before, 0) * 1024


def _reset_peak() -> bool:
    with contextlib.suppress(OSError, AttributeError):  # another C library: free heap stays, and growth is smaller
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _kilobytes(field: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")
