import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.rig.energy import MotionPrior, PoseEnergy
from headfields.apps.tracking.rig.options import RigTrackingOptions, TermScales
from headfields.apps.tracking.rig.smoothing import smooth_together
from headfields.apps.tracking.rig.solve import minimize
from headfields.apps.tracking.rig.tracker import RigTracker
from headfields.data import load_capture
from headfields.parts import Rendering
from headfields.synthetic.rig_tracking_error import rig_tracking_error

OPTIONS = RigTrackingOptions(levels=(24, 48), steps=(3, 3), first_steps=10, joint_steps=1, mask_pixels=30)


@pytest.fixture(scope="module")
def tracked(rig, capture, tmp_path_factory):
    tracker = RigTracker(rig, capture, tmp_path_factory.mktemp("run") / "run", OPTIONS, range(4), bar=False)
    return tracker, tracker.run()


def error_of(tracker, folder, fits):
    return rig_tracking_error(folder, tracker.body, {frame: fit.pose for frame, fit in fits.items()})


def test_it_finds_the_truth_from_landmarks_of_the_first_frame(tracked, folder):
    tracker, result = tracked
    assert not result.failed and sorted(result.fits) == [0, 1, 2, 3]
    error = error_of(tracker, folder, result.fits).means()
    assert error["across"] < 1.5 and error["head"] < 1.5, error
    assert all(fit.errors["iou"] > 0.95 for fit in result.fits.values())


@pytest.mark.slow
def test_back_views_need_colors(rig, capture, folder, tmp_path):
    frames, heads = [4, 5, 6, 7], {}
    for name, options in (("with", OPTIONS), ("without", OPTIONS.without_color())):
        tracker = RigTracker(rig, capture, tmp_path / name, replace(options, joint_steps=0), range(8), bar=False)
        result = tracker.run()
        error = error_of(tracker, folder, {frame: result.fits[frame] for frame in frames if frame in result.fits})
        assert len(error.frames) == 4
        heads[name] = error.means()["head"]
    assert heads["with"] < 0.6 * heads["without"], heads


def test_a_head_that_faces_the_wrong_way_starts_from_landmarks_again(tracked):
    """Its outline may be right; landmarks tell."""
    tracker, result = tracked
    observation, pose = tracker.load(0), result.fits[0].pose
    assert observation.landmark_count >= OPTIONS.landmark_count
    assert not tracker._astray(pose, observation)
    away = pose.moved(
        torch.tensor([0.0, 2.0, *[0.0] * (tracker.body.width - 2)]), tracker.body.posed(pose).local.mean(dim=0)
    )
    assert tracker._astray(away, observation)
    hidden = replace(observation, landmarks=torch.full((68, 2), torch.nan))
    assert not tracker._astray(away, hidden), "without landmarks nothing is known"


def test_what_it_leaves_is_a_capture(rig, tracked):
    tracker, result = tracked
    capture = load_capture(result.capture)
    assert len(capture) == 4 and not capture.warnings, capture.report
    assert capture.expression_width == 5
    pose = result.fits[2].pose
    written = capture.recording.decode_head(2)
    torch.testing.assert_close(torch.from_numpy(written.expression[:3]), pose.turns[1])
    torch.testing.assert_close(torch.from_numpy(written.vertices), tracker.body.posed(pose).vertices, atol=1e-5, rtol=0)
    state = capture.state([2])
    torch.testing.assert_close(state.pose[0, rig.jaw_joint], pose.turns[1])
    canonical = capture.template.canonical_vertices[None]
    skinned = hf.ops.linear_blend_skinning(canonical, rig.weights, state.joint_transforms)
    neutral = rig(pose=state.pose).vertices  # the rest is expression
    assert float((skinned - neutral).norm(dim=-1).mean()) < 0.2 * float((canonical - neutral).norm(dim=-1).mean())
    batch, _ = capture.sample_pixels([2], 500, torch.Generator().manual_seed(0))
    nothing = torch.zeros(500)
    loss = hf.losses.DepthPrior(start=0)(Rendering(torch.zeros(500, 3), nothing, nothing), batch, 0)
    assert 0.1 < float(loss) < 2, "a fair share of the rays sees skin, 1.6 m away"
    path = tracker.folder.path
    for name in ("errors.json", "profile.json", "stage1.mp4", "pictures/stage2/00003.png", "config.json"):
        assert (path / name).is_file(), name


def test_a_run_that_goes_on_ends_as_one_that_was_not_broken(rig, capture, tracked, tmp_path):
    whole, result = tracked
    part = RigTracker(rig, capture, tmp_path / "run", OPTIONS, range(4), bar=False)
    part.folder.open(part._config(), False)
    for frame in (0, 1):
        path = part.folder.fit_path(1, frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole.folder.fit_path(1, frame), path)
    again = part.run(resume=True)
    for frame, fit in result.fits.items():
        for name in ("world_to_camera", "turns", "expression"):
            assert torch.equal(getattr(fit.pose, name), getattr(again.fits[frame].pose, name)), (frame, name)
    with pytest.raises(FileExistsError, match="resume"):
        part.run()
    other = RigTracker(rig, capture, tmp_path / "run", replace(OPTIONS, joint_steps=0), range(4), bar=False)
    with pytest.raises(ValueError, match="other options"):
        other.run(resume=True)


def test_frames_that_fail_are_named_and_the_rest_goes_on(rig, folder, tmp_path):
    copy = tmp_path / "capture"
    shutil.copytree(folder, copy)
    (copy / "landmarks/00000.txt").unlink()
    broken = load_capture(copy)
    image = np.array(Image.open(copy / "images/00001.png"))
    image[..., 3] = 0
    Image.fromarray(image).save(copy / "images/00001.png")
    (copy / "images/00002.png").write_bytes(b"not an image")
    options = replace(OPTIONS, joint_steps=0)
    tracker = RigTracker(rig, broken, tmp_path / "run", options, range(5), bar=False)
    result = tracker.run()
    assert {frame: failure.reason for frame, failure in result.failed.items()} == {1: "mask", 2: "unreadable"}
    assert sorted(result.fits) == [0, 3, 4]  # the first from the third, backwards
    errors = json.loads((tmp_path / "run/errors.json").read_text())
    assert errors["failed"]["1"]["reason"] == "mask" and "pixels" in errors["failed"]["1"]["message"]


def test_a_frame_without_a_finite_energy_keeps_its_pose_in_the_joint_fit(rig, capture, tracked, monkeypatch):
    tracker, result = tracked
    observed = [tracker.observation(frame) for frame in range(4)]
    original = PoseEnergy.__call__

    def spoiled(self, pose):
        energy = original(self, pose)
        if any(self.views[0].level is level for level in observed[2].levels):
            return replace(energy, value=math.nan, matrix=energy.matrix * math.nan, vector=energy.vector * math.nan)
        return energy

    monkeypatch.setattr(PoseEnergy, "__call__", spoiled)
    poses = {frame: fit.pose for frame, fit in result.stage1.items()}
    light = result.stage1[3].light.coefficients()
    joint = smooth_together(tracker.body, tracker.surface, poses, light, tracker.observation, OPTIONS)
    assert torch.equal(joint[2].world_to_camera, poses[2].world_to_camera)
    assert not torch.equal(joint[1].world_to_camera, poses[1].world_to_camera)
    assert all(bool(pose.world_to_camera.isfinite().all()) for pose in joint.values())
    energy = PoseEnergy(
        tracker.body, tracker.surface, observed[2], observed[2].levels[-1], light, MotionPrior(), OPTIONS
    )
    with pytest.raises(FrameFailure, match="the energy is nan"):
        minimize(energy, poses[2], 3)


def test_options_are_checked():
    with pytest.raises(ValueError, match="levels"):
        RigTrackingOptions(levels=(96, 48), steps=(1, 1))
    with pytest.raises(ValueError, match="color is"):
        TermScales(color=0)
    assert RigTrackingOptions().without_color().scales.color_weight == 0
