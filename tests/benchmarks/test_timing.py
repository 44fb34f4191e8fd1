"""Interleaved medians and peak memory."""

import sys
import time

import numpy as np
import pytest

from benchmarks.memory import peak_growth
from benchmarks.timing import Timing, interleaved


def test_every_round_runs_every_action_and_begins_with_another_one() -> None:
    calls: list[str] = []

    def action(name: str) -> None:
        calls.append(name)
        time.sleep(0.03)  # so long that a sample is one call

    times = interleaved({name: lambda n=name: action(n) for name in "abc"}, rounds=(3, 3), budget=0)
    assert "".join(calls[3:]) == "abc" + "bca" + "cab"  # after one call each that finds out how long it takes
    assert all(len(timing.seconds) == 3 and timing.calls == 1 for timing in times.values())
    assert all(0.03 <= timing.median < 0.3 for timing in times.values())


def test_short_actions_are_repeated_within_a_sample() -> None:
    times = interleaved({"nothing": lambda: None}, rounds=(1, 1), budget=0)
    assert times["nothing"].calls > 100
    assert times["nothing"].median < 1e-3


def test_the_budget_ends_the_rounds_after_the_least() -> None:
    times = interleaved({"a": lambda: time.sleep(0.03)}, rounds=(2, 50), budget=0.1)
    assert 2 <= len(times["a"].seconds) <= 5


def test_rounds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="least"):
        interleaved({"a": lambda: None}, rounds=(0, 3), budget=1)


def test_cores_busy_tells_work_from_waiting() -> None:
    def work() -> None:
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass

    times = interleaved({"work": work, "wait": lambda: time.sleep(0.03)}, rounds=(3, 3), budget=0)
    assert times["wait"].busy < 0.5 * times["work"].busy


def test_median_and_spread() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0), busy=1.0, calls=1)
    assert timing.median == 3.0
    assert timing.spread == pytest.approx((4 - 2) / 2 / 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark of the resident set is Linux's")
def test_peak_growth_sees_memory_that_is_given_back_again() -> None:
    megabyte = 2**20
    grown = peak_growth(lambda: np.ones(64 * megabyte, np.uint8).sum())
    if grown is None:
        pytest.skip("this system does not let a process reset its high-water mark")
    assert 60 * megabyte < grown < 100 * megabyte
    small = peak_growth(lambda: np.ones(16, np.uint8))
    assert small is not None and small < 8 * megabyte
