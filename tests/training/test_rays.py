"""The number of rays follows the samples that they give."""

import pytest

from tests.training.ball import ball_trainer
from tests.training.test_trainer import same, weights


def test_rays_follow_the_samples(tmp_path):
    fixed = ball_trainer(256)
    fixed.fit(steps=3)
    assert fixed.rays_now == 256
    few, many = ball_trainer(256, samples_per_step=200), ball_trainer(256, samples_per_step=1_000_000)
    few.fit(steps=12)
    many.fit(steps=12)
    assert 32 <= few.rays_now < 128 and many.rays_now == 1024  # an eighth to four times


def test_most_rays_takes_the_place_of_four_times_as_many():
    many = ball_trainer(256, samples_per_step=1_000_000, most_rays=1500)
    many.fit(steps=12)
    assert many.rays_now == 1500
    with pytest.raises(ValueError, match="most_rays is 100, with rays_per_step=256"):
        ball_trainer(256, samples_per_step=1500, most_rays=100)
    with pytest.raises(ValueError, match="most_rays is 999, with rays_per_step=256 and samples_per_step=None"):
        ball_trainer(256, most_rays=999)


def test_the_number_of_rays_is_resumed(tmp_path):
    whole = ball_trainer(256, samples_per_step=1500)
    whole.fit(steps=12)
    ball_trainer(256, samples_per_step=1500, out=tmp_path).fit(steps=5)
    rest = ball_trainer(256, samples_per_step=1500, out=tmp_path)
    rest.fit(steps=12, resume=True)
    assert rest.rays_now == whole.rays_now != 256
    assert same(weights(whole), weights(rest))


def test_samples_per_step_must_be_positive():
    with pytest.raises(ValueError, match="samples_per_step"):
        ball_trainer(256, samples_per_step=0)
