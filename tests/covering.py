"""A few combinations of a product for the default run; the rest of it is slow."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest


def covering(matrix: Sequence[tuple[Any, ...]], groups: Sequence[tuple[int, ...]]) -> list[Any]:
    """Parameters of a whole product, all but a covering selection marked `slow`.

    Args:
        matrix: the combinations.
        groups: columns whose values meet in every way in which the matrix has them meet.

    Chosen greedily, those with the most new meetings first.
    """
    shuffled = random.Random(0).sample(matrix, len(matrix))
    chosen, met = set[tuple[Any, ...]](), set[tuple[tuple[int, Any], ...]]()
    for least in range(len(groups), 0, -1):
        for row in shuffled:
            new = {tuple((column, row[column]) for column in group) for group in groups} - met
            if len(new) >= least:
                chosen.add(row)
                met |= new
    return [row if row in chosen else pytest.param(*row, marks=pytest.mark.slow) for row in matrix]


def every_pair(columns: int) -> list[tuple[int, ...]]:
    """The groups with which any two values meet."""
    return list(itertools.combinations(range(columns), 2))
