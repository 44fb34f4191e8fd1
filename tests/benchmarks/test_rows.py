"""Tables of an ablation: differences over seeds."""

import math

import pytest

from benchmarks.rows import difference, markdown, summary


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
