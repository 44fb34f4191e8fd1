"""Progress bars that say beforehand how long all of it will take."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

__all__ = ["announced", "duration"]

T = TypeVar("T")


def announced(items: Sequence[T], what: str, unit: str, shown: bool = True) -> Iterator[T]:
    """The items under a progress bar on stderr, with a line on how long all of them take once two are done: by the
    second, since the first may compile kernels and read files that serve all.

    Args:
        items: what is worked on.
        what: for the bar, as "drawing".
        unit: what one is, as "frame".
        shown: whether there are bar and line.
    """
    began = last = time.perf_counter()
    with tqdm(items, desc=what, unit=unit, disable=not shown, file=sys.stderr) as bar:
        for number, item in enumerate(bar, 1):
            yield item
            now = time.perf_counter()
            if number == 2 and shown and len(items) > 2:
                seconds = last - began + (len(items) - 1) * (now - last)
                bar.write(f"{what}: about {duration(seconds)} for {len(items)} {unit}s", file=sys.stderr)
            last = now


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> from headfields.apps.progress_estimate import duration
    >>> duration(0.2), duration(40.3), duration(200), duration(9000)
    ('1 s', '40 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
