"""Cases, rows, and their table, plot, JSON and page."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import page, report
from benchmarks.case import OURS, Case, Contestant, PeerMissing, Row, Settings, measure
from benchmarks.report import Report
from benchmarks.run import rows_of

_BRIEF = Settings(rounds=(1, 2), seconds=0.0)


def _case(**peers: object) -> Case:
    makers = {OURS: lambda: Contestant(OURS, lambda: np.arange(4.0), lambda x: x)}
    return Case("a case", {"points": 4}, "points", 4, {**makers, **peers}, goals={"slow": 1.0}, tolerance=0.5)  # type: ignore[arg-type]


def test_answers_are_compared_and_those_beyond_the_tolerance_counted() -> None:
    def close() -> Contestant:
        return Contestant("close", lambda: None, lambda _: np.array([0.25, 1.0, np.nan, np.inf]))

    row = {r.contestant: r for r in measure(_case(close=close), _BRIEF)}["close"]
    assert row.difference == 0.25 and row.unmatched == 2
    assert "2 apart" in report.cells(row)["difference"]


def test_a_slow_peer_is_compared_on_its_part_and_by_its_rate() -> None:
    import time

    def slow() -> Contestant:
        return Contestant("slow", lambda: time.sleep(0.02), lambda _: np.arange(2.0), work=2)

    row = {r.contestant: r for r in measure(_case(slow=slow), _BRIEF)}["slow"]
    assert row.difference == 0 and row.work == 2
    assert row.rate is not None and row.rate < 2 / 0.02
    assert row.met is True and "✓" in report.cells(row)["goal"]


def test_a_peer_that_is_missing_or_fails_is_a_row_with_the_reason() -> None:
    def missing() -> Contestant:
        raise PeerMissing("not installed (pip install it)")

    def failing() -> Contestant:
        return Contestant("failing", lambda: 1 / 0)

    def other_shape() -> Contestant:
        return Contestant("other", lambda: None, lambda _: np.zeros((2, 2)))

    rows = {r.contestant: r for r in measure(_case(missing=missing, failing=failing, other=other_shape), _BRIEF)}
    assert "not installed" in rows["missing"].note and rows["missing"].milliseconds is None
    assert "ZeroDivisionError" in rows["failing"].note
    assert "cannot be compared" in rows["other"].note
    assert "not measured" in report.line(rows["missing"])


def test_ours_failing_is_an_error() -> None:
    case = Case("a case", {}, "points", 1, {OURS: lambda: Contestant(OURS, lambda: 1 / 0)})
    with pytest.raises(ZeroDivisionError):
        measure(case, _BRIEF)


def test_a_peer_that_fails_while_it_is_timed_leaves_the_others_their_times() -> None:
    calls = iter(range(99))

    def tiring() -> Contestant:
        def run() -> None:
            if next(calls) > 4:
                raise RuntimeError("out of memory\nmore lines")

        return Contestant("tiring", run)

    rows = {r.contestant: r for r in measure(_case(tiring=tiring, close=lambda: Contestant("close", dict)), _BRIEF)}
    assert rows["tiring"].note == "failed: RuntimeError: out of memory" and rows["tiring"].milliseconds is None
    assert rows[OURS].milliseconds and rows["close"].milliseconds


def test_a_case_that_we_fail_is_a_row_where_the_run_goes_on() -> None:
    bad = Case("bad", {"n": 1}, "points", 1, {OURS: lambda: Contestant(OURS, lambda: 1 / 0)})
    module = SimpleNamespace(cases=lambda settings: iter([bad, _case()]))
    rows = rows_of(module, replace(_BRIEF, keep_going=True))  # type: ignore[arg-type]
    assert rows[0].note == "failed: ZeroDivisionError: division by zero" and rows[1].milliseconds
    with pytest.raises(ZeroDivisionError):
        rows_of(module, _BRIEF)  # type: ignore[arg-type]


def test_a_goal_that_is_missed_says_so() -> None:
    row = Row("c", {"n": 1}, "peer", "points", 1, milliseconds=2.0, ratio=2.0, goal=6.0)
    assert row.met is False and report.cells(row)["goal"] == "≥ 6× ✗"
    late = Row("c", {"n": 1}, OURS, "frames", 1, milliseconds=2.0, limit=1.0)
    assert late.met is False and report.cells(late)["goal"] == "≤ 1 ms ✗"


def _report(rows: list[Row]) -> Report:
    machine = {"device": "a machine", "threads": 2, "packages": {"torch": "2"}, "python": "3"}
    return Report("skinning", "Skinning", "Text.", machine, "2025-01-01T00:00:00", True, 1.0, rows)


def test_json_comes_back_and_table_plot_and_page_are_written(tmp_path: Path) -> None:
    rows = [
        Row("grows", {"n": n}, name, "points", n, milliseconds=n * factor, ratio=ratio, goal=goal)
        for n in (10, 100)
        for name, factor, ratio, goal in ((OURS, 1.0, None, None), ("peer", 3.0, 3.0, 2.0))
    ]
    rows.append(Row("grows", {"n": 10}, "absent", "points", 10, note="not installed"))
    rows.append(Row("bars", {}, OURS, "points", 5, milliseconds=1.0))
    report.write(_report(rows), tmp_path)
    assert report.read(tmp_path / "skinning.json") == _report(rows)
    assert json.loads((tmp_path / "skinning.json").read_text())["rows"][1]["met"] is True
    assert (tmp_path / "skinning.png").read_bytes()[:4] == b"\x89PNG"
    table = (tmp_path / "skinning.md").read_text()
    assert "3.00×" in table and "≥ 2× ✓" in table and "not measured: not installed" in table

    page.main([str(tmp_path), str(tmp_path / "docs" / "benchmarks.md")])
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "## Goals" in text and "images/benchmarks/skinning.png" in text
    assert (tmp_path / "docs" / "images" / "benchmarks" / "skinning.png").exists()

    (tmp_path / "skinning.json").unlink()  # another operation leaves its section and its goals as they are
    report.write(replace(_report(rows), name="uv", title="Maps"), tmp_path)
    page.main([str(tmp_path), str(tmp_path / "docs" / "benchmarks.md")])
    both = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert both.count("| Skinning | grows") == both.count("| Maps | grows") == text.count("| Skinning | grows") > 0
    assert text.partition("\n## Skinning")[2].rstrip() in both.partition("\n## Maps")[0]


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        page.main([str(tmp_path), str(tmp_path / "page.md")])
