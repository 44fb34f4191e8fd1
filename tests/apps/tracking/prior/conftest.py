"""A tracked recording of the ball, for tests of whole runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headfields.apps.tracking import PriorTracker
from headfields.apps.tracking.loop import Tracking
from headfields.apps.tracking.prior.options import Stage2
from tests.apps.tracking.prior.ball import BallRecording, ball_prior, tiny_options


@pytest.fixture(scope="session")
def recording() -> BallRecording:
    torch.manual_seed(0)
    return BallRecording(3)


@pytest.fixture(scope="session")
def tracked(recording: BallRecording, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracking, Path]:
    """The result of tracking the recording, and the run folder."""
    out = tmp_path_factory.mktemp("tracked") / "run"
    options = replace(tiny_options(), stage2=Stage2(steps_a_frame=6), mesh_resolution=24, checkpoint_every=4)
    result = PriorTracker(ball_prior(), recording, out, options, bar=False).run()
    return result, out
