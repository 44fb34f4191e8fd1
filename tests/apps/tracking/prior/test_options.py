"""Schedules are as published; invalid options are refused."""

from dataclasses import fields, replace

import pytest

from headfields.apps.tracking import PriorTrackingOptions
from headfields.apps.tracking.prior.options import EnergyWeights, Stage1, Stage2, SteppedRate, WeightSchedule
from tests.tables import table


def test_published_schedules() -> None:
    stage = Stage1()
    rate = stage.rotation
    assert [rate.at(step) for step in (0, 31, 32, 200, 225)] == [5e-3, 5e-3, 2.5e-3, 1.25e-3, 1.25e-3]
    assert (stage.translation.halve, stage.light.halve) == ((32, 200), (150, 225))
    rate = stage.expression
    assert [rate.at(step) for step in (0, 150, 200, 225)] == [2e-4, 5e-4, 2.5e-4, 1.25e-4]
    assert [stage.weights.landmarks.at(step) for step in (0, 24.9, 25, 50, 100, 999)] == [100, 100, 50, 20, 10, 10]
    assert stage.steps == 251 and Stage1.single_image().steps == 1251
    assert EnergyWeights.joint().mask == 10 and EnergyWeights.joint().landmarks.at(0) == 5


def test_quick_is_quicker() -> None:
    usual, quick = PriorTrackingOptions(), PriorTrackingOptions.quick()
    assert quick.rays < usual.rays and quick.fine < usual.fine
    assert quick.stage2 is not None and usual.stage2 is not None
    assert quick.stage2.steps_a_frame < usual.stage2.steps_a_frame


def test_poses_are_held_in_both_stages() -> None:
    held = PriorTrackingOptions.quick().holding_pose(50.0)
    assert held.stage2 is not None and held.stage1.weights.pose == held.stage2.weights.pose == 50.0
    assert held.stage1.weights.color == EnergyWeights().color and held.stage2.weights.mask == EnergyWeights.joint().mask
    assert replace(PriorTrackingOptions(), stage2=None).holding_pose().stage2 is None
    assert EnergyWeights().pose == 0 == EnergyWeights.joint().pose  # as published


@table("name", [item.name for item in fields(EnergyWeights)])
def test_negative_weights_are_refused(name: str) -> None:
    bad = WeightSchedule(((0, -1.0),)) if name == "landmarks" else -1.0
    with pytest.raises(ValueError, match=f"EnergyWeights: {name} is"):
        EnergyWeights(**{name: bad})


def test_bad_options_are_refused() -> None:
    for changes in ({"rays": 0}, {"image_height": 2}, {"foreground": 0.0}, {"landmark_share": 1.5}, {"coarse": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            replace(PriorTrackingOptions(), **changes)
    with pytest.raises(ValueError, match="pace"):
        Stage1(pace=(0.5, 0.0, 0.1))
    with pytest.raises(ValueError, match="steps_a_frame"):
        Stage2(steps_a_frame=0)
    assert SteppedRate(1.0).at(1e9) == 1.0
