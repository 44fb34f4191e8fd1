import math
from dataclasses import replace

import pytest
import torch

from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.energy import beyond_limits, prior_scales
from headfields.apps.tracking.rig.options import RigTrackingOptions, TermScales
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.synthetic.body.person import procedural_rig


def test_the_reduced_body_is_the_rig(rig):
    body = TrackedBody(rig)
    assert body.names == ["head", "jaw"] and body.width == 6 + 6 + 2
    pose = BodyPose(torch.eye(4), torch.randn(2, 3) * 0.3, torch.randn(2))
    torch.testing.assert_close(body.posed(pose).vertices, body.state([pose]).vertices[0], atol=1e-6, rtol=0)
    assert body.state([]).vertices.shape == (0, len(rig.template_vertices), 3)


def test_the_jacobian_is_that_of_finite_steps(rig):
    body = TrackedBody(rig)
    torch.manual_seed(0)
    view = torch.eye(4)
    view[:3, 3] = torch.tensor([0.1, 0.0, 1.0])
    pose = BodyPose(view, torch.randn(2, 3) * 0.3, torch.randn(2) * 0.5)
    posed = body.posed(pose)
    corners, weights = rig.faces[::37], torch.full((len(rig.faces[::37]), 3), 1 / 3)
    slope, center = body.jacobian(pose, posed, corners, weights)
    for column in range(body.width):
        step = torch.zeros(body.width)
        step[column] = 2e-3
        ends = [body.posed(pose.moved(sign * step, center)).local[corners].mean(1) for sign in (1, -1)]
        torch.testing.assert_close((ends[0] - ends[1]) / 4e-3, slope[..., column], atol=3e-4, rtol=0.03)


@pytest.fixture(scope="module")
def person():
    return TrackedBody(procedural_rig(), expressions=0)


def test_a_chain_turns_as_its_joints_one_after_the_other(person):
    torch.manual_seed(1)
    assert person.names == ["torso", "neck", "head", "jaw"]
    pose = replace(person.at_rest(torch.eye(4)), turns=torch.randn(4, 3) * 0.5)
    turn, columns = person.turn_of(pose, ("neck", "head"))
    posed = person.posed(pose).rotations
    torch.testing.assert_close(rotation_matrices(turn), posed[1].T @ posed[3], atol=1e-5, rtol=0)
    assert columns.shape == (3, 12) and not columns[:, :3].any() and not columns[:, 9:].any()
    for column in range(3, 9):
        step = torch.zeros(12)
        step[column] = 1e-3
        ends = [rotation_matrices(person.turn_of(replace(pose, turns=pose.turns + sign * step.view(4, 3)),
                                                 ("neck", "head"))[0]) for sign in (1, -1)]  # fmt: skip
        torch.testing.assert_close(axis_angle(ends[0] @ ends[1].T) / 2e-3, columns[:, column], atol=2e-3, rtol=0.01)
    nothing, columns = person.turn_of(pose, ("eye",))
    assert not nothing.any() and not columns.any()


@pytest.mark.parametrize("width", [math.pi, 2.5])
def test_half_a_turn_costs_more_than_all_colors(person, width):
    """However torso, neck and head share it. Within a person's range limits cost nothing."""
    scales, least = TermScales(), math.inf
    for torso in torch.linspace(0, 1, 11).tolist():
        for neck in torch.linspace(0, 1 - torso, 4).tolist():
            turns = torch.zeros(4, 3)
            turns[:3, 1] = width * torch.tensor([torso, neck, 1 - torso - neck])
            pose = replace(person.at_rest(torch.eye(4)), turns=turns)
            rest = turns.flatten() / prior_scales(person, scales)
            least = min(least, float(rest.square().sum() + beyond_limits(person, pose, scales)[0].square().sum()))
    without = width**2 / sum(getattr(scales, name) ** 2 for name in ("torso", "neck", "head"))
    largest = max(RigTrackingOptions().levels) * float(scales.color_weight)  # what colors can add up to
    assert without < 30 < least and (width < math.pi or least > largest), (without, least, largest)


def test_the_slope_of_limits_is_that_of_finite_steps(person):
    scales = TermScales(torso_limit=0.3, head_limit=0.6)
    turns = torch.tensor([[0.1, 0.4, 0.0], [0.2, 0.5, 0.1], [0.0, 0.6, -0.2], [0.3, 0.0, 0.0]])
    pose = replace(person.at_rest(torch.eye(4)), turns=turns)
    residual, slope = beyond_limits(person, pose, scales)
    assert bool((residual > 0).all())
    for column in range(12):
        step = torch.zeros(12)
        step[column] = 1e-3
        ends = [beyond_limits(person, replace(pose, turns=turns + sign * step.view(4, 3)), scales)[0]
                for sign in (1, -1)]  # fmt: skip
        torch.testing.assert_close((ends[0] - ends[1]) / 2e-3, slope[:, column], atol=0.03, rtol=0.01)
    free = replace(scales, torso_limit=math.inf, head_limit=math.inf)
    assert not any(part.any() for part in beyond_limits(person, pose, free))
    assert not any(part.any() for part in beyond_limits(person, person.at_rest(torch.eye(4)), scales))
    with pytest.raises(ValueError, match="head_limit is 0"):
        TermScales(head_limit=0)
