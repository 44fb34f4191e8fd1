"""Samples that losses draw: in proportion to weights, never padding, without reading a device."""

import pytest
import torch

from headfields.losses.base import drawn_by_weight, drawn_evenly
from headfields.parts import Rendering
from headfields.records import Samples
from headfields.renderers.padded import PaddedSamples
from tests.tables import table


def test_rows_are_drawn_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.5, 0.0])
    counts = torch.zeros(6)
    for seed in range(50):
        torch.manual_seed(seed)
        drawn = drawn_by_weight(weights, 90)
        assert drawn.shape == (90,)
        counts += torch.bincount(drawn, minlength=6)
    assert not counts[weights == 0].any()
    torch.testing.assert_close(counts / 4500, weights / 4.5, rtol=0.01, atol=0)
    single = drawn_by_weight(torch.tensor([0.0, 0.0, 2.0, 0.0]), 7)
    assert single.tolist() == [2] * 7


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -1.0])
def test_weights_without_a_sum_give_rows_that_exist(value: float) -> None:
    for rows in (1, 5):
        drawn = drawn_by_weight(torch.full((rows,), value), 8)
        assert bool(((drawn >= 0) & (drawn < rows)).all())


def rendering(padded: int | None, rows: int) -> Rendering:
    samples = Samples(torch.zeros(rows, dtype=torch.long), torch.zeros(rows), torch.ones(rows))
    if padded is not None:
        samples = PaddedSamples.of(samples, torch.tensor([0, rows - padded]))
    return Rendering(rgb=torch.zeros(1, 3), opacity=torch.zeros(1), depth=torch.zeros(1), samples=samples)


@table("rows", [0, 40, 4000])
@table("padded", [None, 0, 15])
def test_even_draws_stand_for_all_samples(rows: int, padded: int | None) -> None:
    given = rendering(None if padded is None else min(padded, rows), rows)
    samples = rows - min(padded or 0, rows)
    torch.manual_seed(0)
    drawn, shares = drawn_evenly(given, rows, 1000)
    assert drawn.shape == shares.shape == (min(rows, 1000),)
    assert float(shares.sum()) == pytest.approx(samples)
    assert not len(drawn) or int(drawn[shares > 0].max()) < samples
    if rows > 1000:
        assert float((drawn * shares).sum()) == pytest.approx(samples * (samples - 1) / 2, rel=0.1)


def test_padding_alone_stands_for_nothing() -> None:
    drawn, shares = drawn_evenly(rendering(3000, 3000), 3000, 1000)
    assert not shares.any() and bool(((drawn >= 0) & (drawn < 3000)).all())
