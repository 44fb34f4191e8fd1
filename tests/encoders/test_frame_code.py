"""FrameCode: the values of a frame as features of its points."""

import pytest
import torch

from headfields.encoders import FrameCode
from headfields.records import HeadState


def test_the_first_values_of_a_wider_field_are_read() -> None:
    """Trackers store a hundred coefficients; a model may read fewer."""
    state = HeadState(torch.zeros(2, 4, 3), expression=torch.arange(10.0).reshape(2, 5))
    assert FrameCode("expression", 3).prepare(state).tolist() == [[0, 1, 2], [5, 6, 7]]
    with pytest.raises(ValueError, match=r"'expression' has shape \(2, 5\); expected \(B, 6\)"):
        FrameCode("expression", 6).prepare(state)


def test_a_learned_code_has_the_width_of_its_part() -> None:
    state = HeadState(torch.zeros(2, 4, 3), codes={"light": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match=r"'light' has shape \(2, 4\); expected \(B, 3\)"):
        FrameCode("light", 3).prepare(state)
