"""Interleaved medians and peak memory."""

import sys
import time

import numpy as np
import pytest

from benchmarks.memory import peak_growth
from benchmarks.timing import Timing, interleaved


class Clock:
    """A clock that only `sleep` and `work` advance, so that a busy machine cannot fail these tests."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.worked

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, seconds: float, cores: float = 1.0) -> None:
        self.now += seconds
        self.worked += cores * seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("benchmarks.timing.time", fake)
    return fake


def test_every_round_runs_every_action_and_starts_with_another_one(clock: Clock) -> None:
    calls: list[str] = []

    def action(name: str) -> None:
        calls.append(name)
        clock.work(0.03)  # so long that a sample is one call

    times = interleaved({name: lambda n=name: action(n) for name in "abc"}, rounds=(3, 3), budget=0)
    rounds = "aabbcc" + "bbccaa" + "ccaabb"  # a call that is not timed, and one that is
    assert "".join(calls[3:]) == rounds  # after one call each that finds out how long it takes
    assert all(len(timing.seconds) == 3 and timing.calls == 1 for timing in times.values())
    assert all(timing.median == pytest.approx(0.03) for timing in times.values())


def test_short_actions_are_repeated_within_a_sample(clock: Clock) -> None:
    interruptions = iter([5e-3])  # of the first call: it must not pass for the action's length
    times = interleaved({"short": lambda: clock.work(1e-4 + next(interruptions, 0.0))}, rounds=(1, 1), budget=0)
    assert times["short"].calls == 200
    assert times["short"].median == pytest.approx(1e-4)


def test_the_budget_ends_the_rounds_after_the_minimum(clock: Clock) -> None:
    times = interleaved({"a": lambda: clock.work(0.03)}, rounds=(1, 50), budget=0.1)
    assert len(times["a"].seconds) == 2  # of 65 ms with the rest and the other call, begun at 0 and 65 ms
    times = interleaved({"a": lambda: clock.work(1.0)}, rounds=(3, 50), budget=0.1)
    assert len(times["a"].seconds) == 3


def test_impossible_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="least"):
        interleaved({"a": lambda: None}, rounds=(0, 3), budget=1)


def test_busy_cores_count_work_not_waiting(clock: Clock) -> None:
    actions = {"work": lambda: clock.work(0.03, cores=2.0), "wait": lambda: clock.sleep(0.03)}
    times = interleaved(actions, rounds=(3, 3), budget=0)
    assert times["work"].busy == pytest.approx(2.0) and times["wait"].busy == 0


def test_the_clock_is_the_machines() -> None:
    times = interleaved({"a": lambda: time.sleep(0.03)}, rounds=(2, 2), budget=0)
    assert times["a"].median >= 0.03


def test_median_and_spread() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0), busy=1.0, calls=1)
    assert timing.median == 3.0
    assert timing.spread == pytest.approx((4 - 2) / 2 / 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark of the resident set is Linux's")
def test_peak_growth_includes_freed_memory() -> None:
    megabyte = 2**20
    grown = peak_growth(lambda: np.ones(64 * megabyte, np.uint8).sum())
    if grown is None:
        pytest.skip("this system does not let a process reset its high-water mark")
    assert 60 * megabyte < grown < 100 * megabyte
    small = peak_growth(lambda: np.ones(16, np.uint8))
    assert small is not None and small < 8 * megabyte
