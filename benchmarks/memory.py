"""Peak memory of a call beyond what the process held before it.

Memory that an allocator kept from earlier calls and reuses is not counted, so 0 means "no more than before"
(`headfields.runs.memory` says what counts).
"""

import gc
from collections.abc import Callable
from typing import Any

from headfields.runs.memory import PeakMemory


def peak_growth(action: Callable[[], Any], device: str = "cpu") -> int | None:
    """Bytes at the peak of `action()` beyond those before; None where the system does not report them."""
    gc.collect()
    memory = PeakMemory(device)
    if memory.before is None:
        return None
    action()
    return max((memory.peak() or 0) - memory.before, 0)
