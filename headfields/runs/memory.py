"""Peak memory of this process, or of a CUDA device, from a moment on.

On the CPU it is the resident set at its high-water mark, which Linux lets a process reset: libraries, decoded frames
and memory that an allocator kept from earlier work count. On CUDA it is the peak of PyTorch's allocator, which leaves
out what a library allocates by other means.
"""

import contextlib
import ctypes
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


class PeakMemory:
    """The peak since this was made.

    Args:
        device: whose memory counts.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None
        self.before: int | None = None
        """Bytes held at the start; None where the system does not report them."""
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self.before = torch.cuda.memory_allocated(self._cuda)
            return
        with contextlib.suppress(OSError, AttributeError):  # another C library: free heap stays
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")
            self.before = _bytes("VmRSS")

    def peak(self) -> int | None:
        """Bytes at the peak; None where the system does not report them."""
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
            return torch.cuda.max_memory_allocated(self._cuda)
        return None if self.before is None else _bytes("VmHWM")


def _bytes(field: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
