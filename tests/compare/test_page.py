"""The page of a study's report: it asks no network, and shows what report.json says."""

import dataclasses
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from headfields.compare import Row, Study
from headfields.compare.charts import curves, dominated, log_ticks, scatter, ticks
from headfields.compare.pace import uneven_pace
from headfields.compare.page import page
from headfields.compare.report import findings


def row(psnr: float, seconds: float, difference: float | None = None, **further: Any) -> dict[str, Any]:
    differences = {}
    if difference is not None:
        ends = (difference - 0.2, difference + 0.2)
        differences = {"psnr_head": {"mean": difference, "interval": ends, "bootstrap": ends}}
    return {
        "cells": 4, "diverged": 0, "differences": differences, "captures": {"ada": psnr, "bo": psnr - 1},
        "scores": {
            "psnr_head": {"mean": psnr, "deviation": 0.1}, "psnr": {"mean": psnr + 2, "deviation": math.nan},
            "psnr_mouth": {"mean": psnr - 3, "deviation": 0.2}, "ssim": {"mean": 0.91, "deviation": 0.01},
        },
        "cost": {"processor seconds": 60.0, "steps": 700.0, "seconds per frame": seconds, "peak memory, bytes": 2e8,
                 "parameters": 123456.0},
        **further,
    }  # fmt: skip


def found(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "Which <part>", "key": "abc", "primary": "psnr_head", "baseline": "base", "level": 0.05, "margin": 0.1,
        "rows": rows, "left out": {"odd": "ValueError: a < b"}, "failed": {}, "looks": (4,), "seeds": 4,
        "measures": ["psnr_head", "psnr", "psnr_mouth", "ssim"], "study": {"captures": ["a/ada", "b/bo"]},
        "over yaw": {},
        "noise ceiling": {"ada": {"psnr": 35.3}, "bo": {}},
        "footing": {"budget": "60 seconds"}, "machine": {"torch": "2"},
        "curves": {name: [[10.0, 1.0, 1.0, 5.0, 18.0], [700.0, 1.0, 60.0, 60.0, 22.0]] for name in rows},
        "trials": [{"row": "base", "capture": "ada", "factor": 2.0, "scores": {"1": 20.0, "2": 21.0, "4": None},
                    "at the edge": True, "processor seconds": 120.0}],
    }  # fmt: skip


def test_the_page_needs_no_other_file_and_shows_every_row() -> None:
    rows = {
        "base": row(22.0, 0.2),
        "worse & slower": row(21.0, 0.4, -1.0, verdict="worse"),
        "fast": row(21.9, 0.1, -0.1, verdict="undetermined", **{"seeds to see it": 9}),
    }
    text = page(found(rows), {"base: frame 3": b"\x89PNG"})
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|url\(|@import|https?://", text)
    for part in ("worse &amp; slower", "9 seeds", "a &lt; b", "−1.00", "at the edge of the grid", "35.3",
                 "psnr<wbr>_mouth", "psnr<wbr>_head on bo", "of which less is better, too (FLIP",
                 "data:image/png;base64,", "Which &lt;part&gt;", "60 seconds a cell"):  # fmt: skip
        assert part in text, part
    assert text.index("<td >base") < text.index("<td >fast") < text.index("<td >worse")  # the best first
    HTMLParser().feed(text)


def test_seconds_that_were_no_equal_budget_are_told() -> None:
    study = Study(["ada"], rows={"base": Row(), "busy": Row(), "even": Row()}, seconds=60, baseline="base")
    steps = {"base": (100, 200), "busy": (50, 60), "even": (49, 102)}
    done = {
        name: {("ada", seed): {"cost": {"steps": n}} for seed, n in enumerate(each)} for name, each in steps.items()
    }
    assert uneven_pace(study, done) == {"busy": pytest.approx(5 / 3)}
    assert not uneven_pace(Study(["ada"], rows={"base": Row()}, steps=60, baseline="base"), done)
    said = found({"base": row(22.0, 0.2)}) | {"uneven pace": {"busy": 5 / 3}}
    assert "a factor of up to 1.7, and of more than 1.25 in 1 of 1 rows" in page(said, {})


def test_rows_without_the_baselines_seconds_are_undetermined() -> None:
    study = Study(["ada"], rows={"base": Row(), "busy": Row(), "even": Row()}, seconds=60, baseline="base")

    def runs(gain, steps):
        def frames(seed):
            score = 20 + gain + 0.01 * seed
            return [{"frame": frame, "yaw": 0.0, "stratum": "test", "psnr": score} for frame in range(4)]

        return {
            ("ada", seed): {"frames": frames(seed), "cost": {"steps": count, "diverged": None}, "curve": []}
            for seed, count in enumerate(steps)
        }

    done = {"base": runs(0, (100,) * 4), "busy": runs(-5, (50, 50, 50, 30)), "even": runs(-5, (50,) * 4)}
    rows = findings(study, done)["rows"]
    assert (rows["busy"]["verdict"], rows["even"]["verdict"]) == ("undetermined", "worse")
    counted = dataclasses.replace(study, steps_by_row={"base": 100, "busy": 50, "even": 50})
    assert findings(counted, done)["rows"]["busy"]["verdict"] == "worse"


def test_charts_gray_what_is_dominated_and_leave_out_what_is_not_finite() -> None:
    points = {"a": (1.0, 20.0), "b": (2.0, 22.0), "c": (3.0, 21.0), "d": (0.0, 30.0), "e": (1.0, math.nan)}
    drawn = scatter(points, "seconds", "PSNR", True, {"a": "#010203", "b": "#040506", "c": "#070809"})
    assert drawn.count("<circle") == 3 and drawn.count('fill="#010203"') == 2  # its point and its name
    assert drawn.count("#070809") == drawn.count('stroke="#070809"') == 1  # c is gray within a ring
    lower = scatter(points, "seconds", "LPIPS", False, {"a": "#010203", "b": "#040506"})  # smaller is better
    assert 'fill="#010203"' in lower and 'fill="#040506"' not in lower
    assert dominated({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == set()
    assert scatter({}, "x", "y", True, {}) == "" and curves({}, "x", "y", {}) == ""
    assert ticks(1.0, 1.0) == [1.0] and log_ticks(0.9, 110.0) == [1.0, 10.0, 100.0]
    lines = {"a": [(0.0, 1.0)], "b": [(0.0, 1.0), (1.0, 2.0)]}
    drawn = curves(lines, "steps", "PSNR", {"b": "#010203"})
    assert drawn.count('fill="none"') == 2 and drawn.count("#010203") == 2  # a line and its name
