"""Interleaved medians: each round runs every contestant once, so that a slow minute of the machine affects all."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_LEAST = 0.02  # minimum seconds of a sample: shorter actions are repeated within it
_REST = 0.005  # seconds between samples, in which the last one's threads stop spinning


@dataclass(frozen=True)
class Timing:
    """Samples of one action.

    Attributes:
        seconds: of one call, one for each round.
        busy: cores kept busy: CPU seconds of the process per second of wall time, the median.
        calls: in each sample.
    """

    seconds: tuple[float, ...]
    busy: float
    calls: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        if len(self.seconds) < 3:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def interleaved(
    actions: Mapping[str, Callable[[], Any]],
    rounds: tuple[int, int],
    budget: float,
    synchronize: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Times every action once a round, each round starting with another one.

    Each sample follows a call that is not timed, as steps of a training follow each other: results find the memory of
    the call before, and caches hold what they can. Memory that has been free for seconds while others ran may have
    gone back to the machine's host, and fetching it took longer than the action.

    Args:
        actions: by name; each has been called before, so that nothing is compiled or loaded while timed.
        rounds: minimum and maximum number of rounds.
        budget: seconds after which no further round starts, once the minimum is done.
        synchronize: waits for the device (CUDA); called before and after each sample.
    """
    if not 1 <= rounds[0] <= rounds[1]:
        raise ValueError(f"interleaved: rounds is {rounds}; expected (least, most) with 1 <= least <= most")
    names = list(actions)
    calls = {name: _calls(actions[name], synchronize) for name in names}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    began = time.perf_counter()
    for turn in range(rounds[1]):
        if turn >= rounds[0] and time.perf_counter() - began > budget:
            break
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            time.sleep(_REST)
            actions[name]()
            samples[name].append(_sample(actions[name], calls[name], synchronize))
    return {
        name: Timing(tuple(s for s, _ in rows), statistics.median(b for _, b in rows), calls[name])
        for name, rows in samples.items()
    }


def _calls(action: Callable[[], Any], synchronize: Callable[[], None] | None) -> int:
    """Calls that fill a sample; a short action is tried three times, lest an interruption counts as its duration."""
    seconds = _sample(action, 1, synchronize)[0]
    if seconds < _LEAST:
        seconds = min(seconds, *(_sample(action, 1, synchronize)[0] for _ in range(2)))
    return max(1, round(_LEAST / max(seconds, 1e-7)))


def _sample(action: Callable[[], Any], calls: int, synchronize: Callable[[], None] | None) -> tuple[float, float]:
    """Seconds a call, and cores kept busy."""
    if synchronize is not None:
        synchronize()
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(calls):
        action()
    if synchronize is not None:
        synchronize()
    elapsed = max(time.perf_counter() - clock, 1e-9)
    return elapsed / calls, (time.process_time() - cpu) / elapsed
