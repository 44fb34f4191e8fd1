"""A head from two cameras at once: the energy over both, the shape and the depth they determine, and the capture."""

import dataclasses

import numpy as np
import pytest
import torch

from headfields.apps.capturing.recording_files import load_untracked, write_untracked
from headfields.apps.tracking import HeadTracker
from headfields.apps.tracking.head.identity import fit_identity
from headfields.apps.tracking.head.rig import HeadModel
from headfields.apps.tracking.rig.energy import MotionPrior, PoseEnergy
from headfields.apps.tracking.rig.observation import rig_observation
from headfields.apps.tracking.rig.solve import landmark_start
from headfields.apps.tracking.rig.tracker import RigTracker
from headfields.data import CaptureError, load_capture
from tests.apps.tracking.head.test_tracker import face_error


@pytest.fixture(scope="module")
def model(cameras):
    return HeadModel.of(cameras[0].head)


@pytest.fixture(scope="module")
def recording(cameras):
    one, two = (drawn.calibrated() for drawn in cameras)
    return dataclasses.replace(one, others=(two,))


def track(model, recording, options, out):
    identity = fit_identity(model, recording, options)
    tracker = HeadTracker(model, identity, recording, out / "run", options, capture=out / "capture", bar=False)
    return tracker, tracker.run()


def errors(tracker, result, drawn):
    """Of the face's shape, after the best similarity, and of the head's place in space, millimeters."""
    shapes, places = [], []
    for frame, fit in result.fits.items():
        vertices = tracker.body.state([fit.pose]).vertices[0]
        shapes.append(face_error(drawn, frame, vertices))
        own, true = (pose @ torch.cat([points, torch.ones(len(points), 1)], 1).mean(0) for pose, points in
                     ((fit.pose.world_to_camera, vertices),
                      (drawn.cameras[frame].world_to_camera.reshape(4, 4), drawn.vertices[frame])))  # fmt: skip
        places.append(1e3 * float((own - true).norm()))
    return float(np.mean(shapes)), float(np.mean(places))


@pytest.mark.slow
def test_two_cameras_tell_shape_and_depth(cameras, model, recording, options, tmp_path):
    single = errors(*track(model, cameras[0].calibrated(), options, tmp_path / "one"), cameras[0])
    tracker, result = track(model, recording, options, tmp_path / "two")
    both = errors(tracker, result, cameras[0])
    assert both[0] < 0.75 * single[0] and both[0] < 0.6
    assert both[1] < 2.0 < single[1]
    assert result.fits[0].errors["iou"] > 0.97
    capture = load_capture(tmp_path / "two" / "capture")
    names = [f"images/{step:05d}_{camera:02d}.png" for step in range(4) for camera in range(2)]
    assert list(capture.frame_names) == names
    poses = capture.camera(range(8)).world_to_camera
    for step in range(4):
        assert torch.equal(*capture.tracked([2 * step, 2 * step + 1]))
        placed = poses[2 * step + 1] @ torch.linalg.inv(poses[2 * step])
        assert torch.allclose(placed, cameras[1].from_first[step].float(), atol=1e-5)


def test_the_energy_of_two_cameras_is_the_sum_and_its_slope_the_derivative(model, recording, options):
    body = model.body(torch.zeros(len(model.identity)), 4, 0.5)
    observation = rig_observation(recording, 1, options.frame)
    pose = landmark_start(body, observation, options.frame)

    def energy(own, others):
        return PoseEnergy(body, None, own, own.levels[-1], None, MotionPrior(), options.frame, others=others)

    both = energy(observation, observation.others_at(-1))
    at = both(pose)
    alone = [energy(view, ())(pose).parts["landmarks"] for view in observation.views]
    # the second view alone takes the pose to be its own camera's: its camera stands in the first one's space
    assert at.parts["landmarks"] == pytest.approx(sum(alone), rel=1e-5)
    for column in range(6):
        step = torch.zeros(body.width)
        step[column] = 1e-3
        ends = [both(pose.moved(sign * step, at.center)).value for sign in (1, -1)]
        assert float(at.vector[column]) == pytest.approx((ends[0] - ends[1]) / 4e-3, rel=0.05, abs=2.0)


def test_a_moment_that_one_camera_lacks_is_seen_by_the_other(recording, options):
    one = dataclasses.replace(recording, failed={1: "frame 1 is black"})
    observation = rig_observation(one, 1, options.frame)
    assert not observation.others and not torch.equal(observation.camera.world_to_camera, torch.eye(4))
    assert observation.landmark_count == 68


def test_a_template_tracked_by_two_cameras_is_a_frame_for_each(cameras, model, recording, options, tmp_path):
    """Camera 0 lacks moment 1; the true poses of the others."""
    one = dataclasses.replace(recording, failed={1: "frame 1 is black"})
    tracker = RigTracker(
        model.rig(torch.zeros(len(model.identity))), one, tmp_path / "run",
        dataclasses.replace(options.frame, joint_steps=0).without_color(), [0, 1], bar=False,
    )  # fmt: skip
    result = tracker.run()
    assert sorted(result.fits) == [0, 1] and not result.failed
    capture = load_capture(result.capture)
    assert list(capture.frame_names) == ["images/00000_00.png", "images/00000_01.png", "images/00001_01.png"]
    poses = capture.camera(range(3)).world_to_camera
    placed = poses[1] @ torch.linalg.inv(poses[0])
    assert torch.allclose(placed, cameras[1].from_first[0].float(), atol=1e-4)
    assert torch.equal(capture.image(2), one.others[0].image(1))
    assert torch.allclose(capture.camera([2]).intrinsics[0], torch.from_numpy(one.others[0].intrinsics[0]).float())
    marks = capture.landmarks(2)
    drawn = model.rig(torch.zeros(len(model.identity))).landmarks(capture.state([2]).vertices)
    assert float((capture.camera([2]).project(drawn)[0][0] - marks).norm(dim=1).mean()) < 3.0


def test_recordings_of_several_cameras_are_written_and_checked(cameras, recording, tmp_path):
    back = load_untracked(write_untracked(tmp_path / "both", recording))
    assert len(back.cameras) == 2 and back.others[0].landmarks(2) is not None
    assert np.allclose(back.others[0].world_to_camera, recording.others[0].world_to_camera)
    with pytest.raises(CaptureError, match="has no intrinsics"):
        dataclasses.replace(recording, others=(cameras[1].recording,))
    short = dataclasses.replace(cameras[1].calibrated(), frame_names=["only"], world_to_camera=None)
    with pytest.raises(CaptureError, match="1 frames and drawn 4"):
        dataclasses.replace(recording, others=(short,))
