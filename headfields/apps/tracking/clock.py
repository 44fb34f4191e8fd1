"""Seconds spent by a job on each of its parts."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch

__all__ = ["Clock"]


class Clock:
    """Adds up seconds by name.

    Attributes:
        seconds: seconds by name, in the order of first use.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the `with` block for `name`; waits for CUDA kernels that the block has launched."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self.seconds[name] += time.perf_counter() - start
