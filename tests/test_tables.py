"""Helpers of the tests: tables of cheap cases, and covering selections."""

import itertools
from pathlib import Path

import pytest
import torch

from tests.covering import covering, every_pair
from tests.tables import table


def test_a_table_runs_every_row_and_tells_all_that_fail(tmp_path: Path) -> None:
    seen, drawn = [], []

    @table(("number", "word"), [(1, "a"), (2, "b"), (3, "c"), pytest.param(4, "d", id="four")])
    def odd(number: int, word: str, tmp_path: Path) -> None:
        seen.append((number, word, tmp_path.name))
        drawn.append(float(torch.rand(())))
        assert not list(tmp_path.iterdir())
        (tmp_path / "written").touch()
        with pytest.raises(ZeroDivisionError):
            number / (number % 2 - 1)

    with pytest.raises(AssertionError, match=r"2 of 4 rows fail:\n.*'number': 2, .*DID NOT RAISE.*\n.*'number': 4"):
        odd(tmp_path=tmp_path)
    assert seen == [(1, "a", "0"), (2, "b", "1"), (3, "c", "2"), (4, "d", "3")] and len(set(drawn)) == 1
    with pytest.raises(AssertionError, match="a test of its own"):
        table("number", [pytest.param(1, marks=pytest.mark.slow)])


@table(("a", "b"), [(1, 2), (3, 4)])
def test_fixtures_reach_a_table(a: int, b: int, tmp_path: Path) -> None:
    assert b == a + 1 and tmp_path.is_dir()


def test_all_that_has_to_meet_meets() -> None:
    matrix = [row for row in itertools.product("abc", "de", "fgh") if row != ("a", "d", "f")]
    chosen = [row for row in covering(matrix, every_pair(3)) if isinstance(row, tuple) and not hasattr(row, "marks")]
    assert len(chosen) < len(matrix)
    for first, second in every_pair(3):
        assert {(row[first], row[second]) for row in chosen} == {(row[first], row[second]) for row in matrix}
