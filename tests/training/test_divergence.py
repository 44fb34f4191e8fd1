"""Training that diverges without a NaN is reported; usable rates and short runs are not."""

import json
import math
import warnings

import pytest

from headfields.training.divergence import divergence
from tests.tables import table
from tests.training.ball import ball_trainer

ROWS = [  # steps, first, best, last, of a single color; whether it diverged
    (150, 13.3, 17.2, 11.6, 11.5, True),
    (150, 13.3, 13.6, 9.2, 11.5, True),
    (150, 9.7, 9.7, 6.9, 10.1, True),
    (39, 13.3, 13.6, 6.0, 11.5, False),
    (40, 9.7, 9.8, 9.6, 10.1, False),
    (150, 25.0, 25.0, 22.0, 11.5, False),
    (150, 13.3, 23.0, 22.5, 11.5, False),
    (0, math.nan, math.nan, math.nan, 11.5, False),
]


@table("row", ROWS)
def test_the_rule(row):
    steps, start, best, end, color, diverged = row
    assert (divergence(steps, start, best, end, lambda: color) is not None) == diverged


def test_a_rate_that_is_far_too_high_is_reported(tmp_path):
    trainer = ball_trainer(32, learning_rate=1e3, network_learning_rate=1e3, out=tmp_path)
    with pytest.warns(UserWarning, match=r"training diverged: its training PSNR is [\d.]+ dB"):
        result = trainer.fit(steps=44)
    assert result.diverged.startswith("its training PSNR is") and result.psnr < 12
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["what"] for line in log if line.get("event") == "diverged"] == [result.diverged]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-4, 3e-2])
def test_usable_rates_are_not(rate):
    trainer = ball_trainer(32, learning_rate=rate, network_learning_rate=rate / 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in (1, 5, 40):
            assert trainer.fit(steps=steps).diverged is None
