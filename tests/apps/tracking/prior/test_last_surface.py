"""The surface of the last step: when it is used, when it has been left, and what a step may depend on."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.prior.head import PriorHead
from headfields.apps.tracking.prior.last_surface import LastSurface, SurfaceFollower
from headfields.apps.tracking.prior.stage1 import fit_frame
from headfields.parts import Field
from headfields.records import Canonical
from tests.apps.tracking.prior.ball import BallRecording, Mouth, ball_prior, tiny_options
from tests.apps.tracking.prior.test_observation import loaded


@pytest.fixture(scope="module")
def ball() -> PriorHead:
    return PriorHead(ball_prior(), 1.0, 12, 10, band=0.01)


def field_of(head: PriorHead, larger: float = 0.0) -> Field:
    """The ball, larger by this many millimeters."""
    zero = {name: torch.zeros(2) for name in head.names}
    return head.avatar.field(head.state(zero | {"geometry": torch.tensor([larger / 10, 0.0])}))


def test_a_surface_is_left_at_half_the_band(ball: PriorHead) -> None:
    last = LastSurface(field_of(ball), 0.01)
    assert last.tree is not None and 200 < len(last.points) < 600
    assert [last.strayed(field_of(ball, mm)) for mm in (0.0, 4.0, -4.0, 6.0, -6.0)] == [False] * 3 + [True] * 2


def test_a_step_has_a_surface_once_it_is_sharp_and_another_when_the_head_has_moved(ball: PriorHead) -> None:
    follower = SurfaceFollower(ball, 0.01)
    ball.sharpen(0.6)
    assert follower(field_of(ball)) is None
    ball.sharpen(0.65)
    first = follower(field_of(ball))
    assert first is not None and ball.avatar.renderer.sampler.training
    later = [follower(field_of(ball, 8.0)) for _ in range(8)]
    assert later[0] is first and later[-1] is not first
    assert float(later[-1].vertices[0].norm(dim=1).max()) == pytest.approx(0.108, abs=1e-3)
    assert SurfaceFollower(ball, 0.0)(field_of(ball)) is None


def test_with_a_source_a_step_depends_on_none_before(ball: PriorHead) -> None:
    ball.sharpen(0.8)
    follower = SurfaceFollower(ball, 0.01, field_of(ball))
    near, far = field_of(ball, 3.0), field_of(ball, 8.0)
    surfaces = [follower(field) for field in (near, far, near)]
    assert surfaces[0] is not None and surfaces[0] is surfaces[2] and surfaces[1] is None


def test_a_head_without_a_surface_is_sampled_whole(ball: PriorHead) -> None:
    ball.sharpen(0.8)
    follower = SurfaceFollower(ball, 0.01)
    nothing = field_of(ball, -200.0)  # a radius below 0
    assert [follower(nothing) for _ in range(5)] == [None] * 5


class Plane(Mouth):
    """Takes all of space onto one plane above the ball."""

    def forward(self, *arguments: Any) -> Canonical:
        canonical = super().forward(*arguments)
        flat = canonical.points * canonical.points.new_tensor([1.0, 0.0, 1.0])
        return canonical.replace(points=flat + flat.new_tensor([0.0, 0.12, 0.0]))


def test_a_deformation_without_an_inverse_is_named(recording: BallRecording) -> None:
    ball = PriorHead(ball_prior(), 1.0, 4, 4)
    ball.avatar.deformer = Plane()
    options = tiny_options(stage1=replace(tiny_options().stage1, steps=2))
    with pytest.raises(FrameFailure, match="could be inverted at only 0% of the landmarks") as failure:
        fit_frame(ball, loaded(recording), 0, options)
    assert failure.value.reason == "inverse"
