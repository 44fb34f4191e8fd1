"""Rows of ablations: reuse of finished runs and differences over seeds."""

import math
from pathlib import Path

import pytest

from benchmarks.rows import difference, markdown, reused, summary


def test_a_finished_run_is_reused_and_a_failed_one_is_not(tmp_path: Path) -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        reused(tmp_path / "run", fails)
    assert reused(tmp_path / "run", lambda: {"dB": 30.0}) == {"dB": 30.0}
    assert reused(tmp_path / "run", fails) == {"dB": 30.0}


@pytest.mark.parametrize(
    ("own", "base", "mean", "determined"),
    [
        ([30.0, 30.2, 30.1], [29.0, 29.1, 29.2], 1.0, True),
        ([30.0, 30.2, 30.1], [29.9, 30.3, 30.0], 0.033, False),
        ([30.0], [29.0], 1.0, False),  # one seed tells nothing
        ([30.0, 30.0], [29.0], 1.0, False),
        ([], [], math.nan, False),
    ],
)
def test_differences_are_over_pairs_of_seeds(
    own: list[float], base: list[float], mean: float, determined: bool
) -> None:
    result = difference([{"dB": value} for value in own], [{"dB": value} for value in base], "dB")
    assert result[0] == pytest.approx(mean, abs=1e-3, nan_ok=True) and result[2] == determined


def test_the_table_marks_determined_differences() -> None:
    rows = {"base": [{"dB": 29.0}, {"dB": 29.1}], "better": [{"dB": 30.0}, {"dB": 30.1}], "one": [{"mm": 2.0}]}
    text = markdown(summary(rows, ("dB", "mm"), {"better": "base", "one": "base"}), ("dB", "mm"))
    assert text.splitlines()[2:] == [
        "| base | 29.05 ± 0.07 | – |",
        "| better | 30.05 ± 0.07 (**+1.00**) | – |",
        "| one | – | 2.00 (+nan) |",
    ]
