import pytest
import torch

from headfields.records import HeadState


@pytest.fixture(scope="session")
def motion(head) -> HeadState:
    """Six frames: jaw open, smile, blink, pucker, gaze with brows, and all at once; the head's own pose is zero."""
    names = list(head.expression_names)
    expression, pose = torch.zeros(6, head.expression_count), torch.zeros(6, 5, 3)
    for frame, what in enumerate(
        [("mouth_open",), ("smile_left", "smile_right"), ("blink_left", "blink_right"), ("pucker",),
         ("brow_raise_left",), ("mouth_open", "smile_left", "brow_furrow")]
    ):  # fmt: skip
        for name in what:
            expression[frame, names.index(name)] = 1.0
    pose[[0, 5], 2, 0] = 0.35
    pose[[4, 5], 3:, 1] = 0.3
    pose[4, 3:, 0] = -0.15
    with torch.no_grad():
        return head(expression=expression, pose=pose)
