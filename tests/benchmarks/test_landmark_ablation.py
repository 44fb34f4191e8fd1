"""The ablation of landmarks: without them, the tracker cannot use any."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.landmark_ablation import without_landmarks
from benchmarks.studies.mononphm_rows import landmark_distance
from headfields.apps.tracking import PriorTracker
from headfields.apps.tracking.prior.head import PriorHead
from tests.apps.tracking.prior.ball import BallRecording, ball_prior, tiny_options


class Wrong(BallRecording):
    """Landmarks that are off, and, so that they would change the pose that frames start from, by much."""

    def landmarks(self, frame: int) -> torch.Tensor:
        return super().landmarks(frame) + 8 * (frame + 1)


@pytest.mark.slow
def test_without_landmarks_none_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = tiny_options(stage2=None, mesh_resolution=0)
    options = replace(options, stage1=replace(options.stage1, steps=4, pace=(0.5, 0.5, 0.5)))
    fits = []
    for number, recording in enumerate((BallRecording(2), Wrong(2))):
        prior, source = without_landmarks(ball_prior(), recording)
        tracker = PriorTracker(prior, source, tmp_path / str(number), options, bar=False)
        assert torch.equal(tracker.observation(0).camera.world_to_camera, recording.matrix)
        fits.append(tracker.run().fits)
    for frame in (0, 1):
        assert torch.equal(fits[0][frame].rotation, fits[1][frame].rotation)
        assert fits[0][frame].errors["steps"] == fits[1][frame].errors["steps"]
        assert "landmarks" not in fits[0][frame].errors
    head = PriorHead(ball_prior(), 1.0, 4, 4)
    right, wrong = (
        landmark_distance(head, fits[0][1], recording.landmarks(1), (48, 48))
        for recording in (BallRecording(2), Wrong(2))
    )
    assert right < 4 and wrong > right + 15
