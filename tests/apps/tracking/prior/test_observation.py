"""Frames as the tracker sees them: reduction, weights, initial pose, failures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.prior.observation import (
    FACER_LABELS,
    LabelClasses,
    PriorObservation,
    frame_landmarks,
    prior_observation,
)
from headfields.data import CaptureError
from headfields.ops.rotations import rotation_matrices
from tests.apps.tracking.prior.ball import BallRecording, ball_landmarks, tiny_options


def loaded(recording: Any, frame: int = 0, **changes: Any) -> PriorObservation:
    options = changes.pop("options", tiny_options())
    marks = changes.pop("marks", recording.landmarks(frame))
    known = ball_landmarks()
    return prior_observation(
        recording, frame, known.base, known.number, (torch.zeros(3), 0.14), options, landmarks=marks, **changes
    )


class Changed:
    """A recording with some of its methods replaced."""

    def __init__(self, recording: BallRecording, **parts: Any) -> None:
        self._recording, self._parts = recording, parts

    def __getattr__(self, name: str) -> Any:
        return self._parts.get(name, None) or getattr(self._recording, name)

    def __len__(self) -> int:
        return len(self._recording)


def raising(*_: Any) -> Any:
    raise CaptureError("frame 0: images/00000.png: cut short")


def test_reduction_keeps_places(recording: BallRecording) -> None:
    small = loaded(recording, options=tiny_options(image_height=24, mask_pixels=20))
    whole = loaded(recording)
    assert small.camera.size == (24, 24) and small.rgb.shape == (24, 24, 3)
    torch.testing.assert_close(small.landmarks, 0.5 * whole.landmarks)
    points = torch.randn(5, 3) * 0.05
    torch.testing.assert_close(small.camera.project(points)[0], 0.5 * whole.camera.project(points)[0])
    assert abs(float(small.alpha.sum()) * 4 - float(whole.alpha.sum())) < 0.5


def test_rays_see_their_pixels(recording: BallRecording) -> None:
    data = loaded(recording)
    batch = data.batch(40, 0.75, torch.Generator().manual_seed(0))
    assert int((batch.alpha > 0.5).sum()) == 30
    assert bool((batch.color_weight[batch.alpha <= 0.5] == 0).all())
    points = batch.rays.origins + 0.6 * batch.rays.directions
    column, row = data.camera.project(points)[0].long().unbind(dim=1)
    torch.testing.assert_close(data.rgb[row, column], batch.rgb)
    assert len(data.batch(0, 0.75, torch.Generator())) == 0


def test_labels_say_what_counts(recording: BallRecording) -> None:
    label = torch.full((48, 48), 250, dtype=torch.uint8)
    label[:, :10], label[:, 10:20], label[20:24, 20:30] = 110, 80, 140
    data = loaded(Changed(recording, label=lambda frame: label))
    assert bool((data.mask_weight[:, :10] == 0).all() and (data.color_weight[:, :10] == 0).all())
    assert bool((data.mask_weight[12:36, 12:18] == 0.2).all())
    torch.testing.assert_close(data.color_weight[22, 25], torch.tensor(0.04))
    bald = loaded(Changed(recording, label=lambda frame: label), classes=LabelClasses().without_hair())
    assert bool((bald.mask_weight[:, :20] == 0).all())
    assert (FACER_LABELS.ignored, FACER_LABELS.hair, FACER_LABELS.mouth) == ((3, 18), (14, 16), (11,))  # 10: the nose
    assert FACER_LABELS.without_hair().ignored == (3, 18, 14, 16)  # no hats either


def test_background_beside_a_neck_does_not_count(recording: BallRecording) -> None:
    inside = recording.image(0)[..., 3] > 0.5
    label = torch.where(inside, 250, 0).to(torch.uint8)
    plain = loaded(Changed(recording, label=lambda frame: label))
    assert bool((plain.mask_weight == 1).all())
    label[30:][inside[30:]] = 110
    necked = loaded(Changed(recording, label=lambda frame: label))
    assert bool((necked.mask_weight[:30] == 1).all() and (necked.mask_weight[30:] == 0).all())
    assert int(necked.outside.max()) < 30 * 48 and int(necked.inside.max()) < 30 * 48


def test_a_capture_whose_pose_is_right_is_left_alone(recording: BallRecording) -> None:
    still = BallRecording(1)
    still.rotation, still.translation = torch.zeros(1, 3), torch.zeros(1, 3)
    data = loaded(still)
    torch.testing.assert_close(data.camera.world_to_camera, still.matrix)
    torch.testing.assert_close(data.to_capture, torch.eye(4), atol=1e-5, rtol=0)


def test_a_world_that_is_not_the_head_s(recording: BallRecording) -> None:
    """With cameras in another world, the pose comes from landmarks."""
    elsewhere = torch.eye(4)
    elsewhere[:3, :3] = rotation_matrices(torch.tensor([0.4, 2.0, -0.3]))
    elsewhere[:3, 3] = torch.tensor([3.0, -1.0, 2.0])
    other = Changed(recording, camera=lambda frames: (
        recording.camera(frames).replace(world_to_camera=recording.camera(frames).world_to_camera @ elsewhere)
    ))  # fmt: skip
    data = loaded(other)
    pixels = data.camera.project(ball_landmarks().base)[0]
    assert float((pixels - data.landmarks).norm(dim=1).mean()) < 1.0
    points = torch.randn(4, 3) * 0.05
    there = points @ data.to_capture[:3, :3].T + data.to_capture[:3, 3]
    view = other.camera([0])[0].replace(size=data.camera.size)
    torch.testing.assert_close(view.project(there[None])[0][0], data.camera.project(points)[0], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("reason", "parts", "changes"),
    [
        ("unreadable", {"image": raising}, {}),
        ("mask", {"image": lambda frame: torch.zeros(48, 48, 4)}, {}),
        ("landmarks", {}, {"marks": None}),
        ("landmarks", {}, {"marks": torch.full((68, 2), torch.nan)}),
    ],
)
def test_frames_that_cannot_be_used(recording: BallRecording, reason: str, parts: Any, changes: Any) -> None:
    with pytest.raises(FrameFailure) as caught:
        loaded(Changed(recording, **parts), **changes)
    assert caught.value.reason == reason and str(caught.value)


def test_a_camera_that_looks_away(recording: BallRecording) -> None:
    away = torch.eye(4)
    away[:3, 3] = torch.tensor([0.0, 0.0, -2.0])
    other = Changed(recording, camera=lambda frames: recording.camera(frames).replace(world_to_camera=away[None]))
    options = tiny_options(landmark_share=0.0)
    with pytest.raises(FrameFailure, match="projects outside the image") as caught:
        prior_observation(
            other, 0, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), (torch.zeros(3), 0.14), options
        )
    assert caught.value.reason == "camera"


def test_a_detector_takes_the_place_of_files(recording: BallRecording) -> None:
    given = np.full((68, 2), 7.0, np.float32)
    assert float(frame_landmarks(recording, 0, lambda image: given)[0, 0]) == 7
    assert frame_landmarks(recording, 0, lambda image: None) is None
    torch.testing.assert_close(frame_landmarks(recording, 0), recording.landmarks(0))
    with pytest.raises(FrameFailure, match=r"shape \(98, 2\); expected \(68, 2\)"):
        frame_landmarks(recording, 0, lambda image: np.zeros((98, 2)))


def test_weights_come_from_the_options(recording: BallRecording) -> None:
    label = torch.full((48, 48), 140, dtype=torch.uint8)
    weights = replace(tiny_options().stage1.weights, mouth=0.5)
    data = loaded(Changed(recording, label=lambda frame: label), weights=weights)
    assert float(data.color_weight.max()) == 0.5
