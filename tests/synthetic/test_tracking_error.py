"""Tracking noise: size and correlation of its errors; images and truth are unaffected."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.data import Capture, CaptureError, load_capture, save_capture
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.scene.motion import ScriptedMotion, scripted_motion
from headfields.synthetic.tracking_error import TRUTH, tracking_error
from headfields.synthetic.tracking_noise import TrackingNoise
from tests.data.compare import differences, snapshot
from tests.tables import table

RATE = 25.0
NONE = TrackingNoise(rotation=0, translation=0, depth=0, expression=0, gaze=0, lag=0)
FRAMES, SIZE = 5, 24


@pytest.fixture(scope="module")
def motion() -> ScriptedMotion:
    return scripted_motion(8000, RATE, ["smile_left", "mouth_open", "blink_left"], 0)


def errors(motion: ScriptedMotion, noise: TrackingNoise) -> dict[str, np.ndarray]:
    seen = noise.track(motion, RATE)
    return {
        "rotation": np.degrees(seen.angles - motion.angles),
        "shift": 1000 * (seen.shift - motion.shift),
        "gaze": np.degrees(seen.gaze - motion.gaze),
        "weights": np.stack([seen.weights[name] - motion.weights[name] for name in motion.weights], -1),
    }


def test_errors_are_of_the_stated_size(motion: ScriptedMotion) -> None:
    found = errors(motion, replace(TrackingNoise(), late=0.0))
    np.testing.assert_allclose(found["rotation"].std(0), 0.5, rtol=0.15)
    np.testing.assert_allclose(found["shift"].std(0), [1, 1, 3], rtol=0.15)
    np.testing.assert_allclose(found["gaze"].std(0), 2, rtol=0.15)
    assert abs(found["rotation"].mean(0)).max() < 0.1
    middle = (motion.weights["mouth_open"] > 0.2) & (motion.weights["mouth_open"] < 0.8)
    np.testing.assert_allclose(found["weights"][middle, 1].std(), 0.05, rtol=0.15)
    seen = TrackingNoise(expression=0.4).track(motion, RATE)
    assert all(track.min() >= 0 and track.max() <= 1 for track in seen.weights.values())


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5])
def test_errors_last_as_long_as_stated(motion: ScriptedMotion, seconds: float) -> None:
    found = errors(motion, TrackingNoise(correlation=seconds, late=0.0, expression=0))
    for name in ("rotation", "shift", "gaze"):
        track = found[name] / found[name].std(0)
        for frames in (1, 5):
            expected = np.exp(-frames / (RATE * seconds)) if seconds else 0.0
            correlation = (track[frames:] * track[:-frames]).mean(0)
            np.testing.assert_allclose(correlation, expected, atol=0.12, err_msg=f"{name} after {frames} frames")


def test_being_late(motion: ScriptedMotion) -> None:
    always = replace(NONE, lag=0.1, late=1.0).track(motion, RATE)  # 2.5 frames
    np.testing.assert_allclose(always.angles[3:], (motion.angles[:-3] + motion.angles[1:-2]) / 2, atol=1e-12)
    np.testing.assert_array_equal(always.angles[0], motion.angles[0])
    now_and_then = replace(NONE, lag=0.1, late=0.2).track(motion, RATE)
    late = (now_and_then.angles != motion.angles).any(1)
    assert 0.15 < late.mean() < 0.25
    np.testing.assert_array_equal(now_and_then.weights["mouth_open"][~late], motion.weights["mouth_open"][~late])
    np.testing.assert_array_equal(now_and_then.angles[late], always.angles[late])
    spells = (np.diff(late.astype(int)) == 1).sum()
    assert 0.2 < late.sum() / spells / RATE < 0.45  # seconds


def test_nothing_is_nothing_and_seeds_count(motion: ScriptedMotion) -> None:
    for noise in (NONE, TrackingNoise().times(0)):
        assert all(abs(values).max() == 0 for values in errors(motion, noise).values())
    one, again, other = (errors(motion, TrackingNoise(seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert all(not np.array_equal(one[name], other[name]) for name in one)
    double = TrackingNoise().times(2)
    assert (double.rotation, double.depth, double.lag, double.late) == (1.0, 6.0, 0.2, 0.1)


@table("name", ["rotation", "translation", "depth", "expression", "correlation", "lag", "late"])
@table("value", [-1.0, float("nan"), float("inf")])
def test_arguments(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"TrackingNoise: {name} is {value}; expected"):
        TrackingNoise(**{name: value})
    with pytest.raises(ValueError, match=r"late is 1\.5; expected a fraction of time"):
        TrackingNoise(late=1.5)


def draw(folder: Path, noise: TrackingNoise | None) -> Path:
    return write_head_capture(folder, frames=FRAMES, test_frames=1, size=SIZE, seed=3, progress=False, noise=noise)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tracked")
    return {name: draw(root / name, noise) for name, noise in (("exact", None), ("noisy", TrackingNoise()))}


@pytest.fixture(scope="module")
def noisy(folders: dict[str, Path]) -> Capture:
    return load_capture(folders["noisy"])


def test_images_are_the_truths_and_tracking_is_not(folders: dict[str, Path], noisy: Capture) -> None:
    exact = load_capture(folders["exact"])
    noisy.validate()
    changed = {name.split()[-1] for name in differences(snapshot(exact), snapshot(noisy))}
    assert changed == {"camera_to_world", "vertices", "expression", "depth", "pose", "joint_transforms"}
    assert not noisy.warnings  # an error of this size is no mistake
    assert not (folders["exact"] / TRUTH).exists()
    with np.load(folders["noisy"] / TRUTH, allow_pickle=False) as truth:
        frames = range(FRAMES)
        assert np.array_equal(truth["vertices"], exact.state(frames).vertices)
        assert np.array_equal(truth["expression"], exact.state(frames).expression)
        np.testing.assert_allclose(truth["world_to_camera"], exact.camera(frames).world_to_camera, atol=1e-6)


def test_depth_is_the_tracked_meshs(noisy: Capture) -> None:
    for frame in range(FRAMES):
        depth, camera = noisy.depth(frame), noisy.camera([frame])
        assert depth is not None
        _, z = camera.project(noisy.state([frame]).vertices)
        assert abs(float(depth[depth > 0].min() - z.min())) < 0.008  # a pixel is wide next to the tip of a nose


def test_error_is_measured(folders: dict[str, Path], noisy: Capture) -> None:
    found = tracking_error(noisy)
    assert found.rotation.shape == (FRAMES,)
    assert 0.1 < found.rotation.mean() < 3 and 0.5 < found.translation.mean() < 12
    assert 0.5 < found.surface.mean() < 12 and 0.02 < found.pixels.mean() < 2 and 0.005 < found.expression.mean() < 0.1
    pose, head = noisy.camera(range(FRAMES)).world_to_camera, noisy.state(range(FRAMES)).vertices
    with np.load(folders["noisy"] / TRUTH) as truth:
        true_pose, true_head = torch.from_numpy(truth["world_to_camera"]), torch.from_numpy(truth["vertices"])
    seen = head @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    true = true_head @ true_pose[:, :3, :3].mT + true_pose[:, None, :3, 3]
    np.testing.assert_allclose(found.surface, 1000 * (seen - true).norm(dim=-1).mean(-1), rtol=1e-3)
    assert "rotation " in str(found) and " mm, pixels " in str(found)


@pytest.mark.slow
def test_no_error_is_no_error(tmp_path: Path, folders: dict[str, Path]) -> None:
    capture = load_capture(draw(tmp_path / "none", NONE))
    assert not differences(snapshot(load_capture(folders["exact"])), snapshot(capture))
    found = tracking_error(capture)
    assert found.surface.max() < 1e-3 and found.rotation.max() < 0.05 and found.expression.max() == 0


def test_same_arguments_same_bytes(tmp_path: Path, folders: dict[str, Path]) -> None:
    again = draw(tmp_path / "again", TrackingNoise())
    for path in sorted(path for path in again.rglob("*") if path.is_file()):
        assert path.read_bytes() == (folders["noisy"] / path.relative_to(again)).read_bytes(), path
    assert draw(again, TrackingNoise()) == again
    with pytest.raises(FileExistsError, match="not empty"):
        draw(again, TrackingNoise(seed=1))
    with pytest.raises(FileExistsError, match="not empty"):
        draw(again, None)


def test_a_broken_truth_is_refused(tmp_path: Path, folders: dict[str, Path], noisy: Capture) -> None:
    with pytest.raises(CaptureError, match=r"truth\.npz does not exist; write_head_capture"):
        tracking_error(load_capture(folders["exact"]))
    save_capture(noisy, tmp_path / "copy")
    capture = load_capture(tmp_path / "copy")
    truth = (folders["noisy"] / TRUTH).read_bytes()
    for broken in (b"", b"no archive", truth[: len(truth) // 2], truth[:200] + bytes(50) + truth[250:]):
        (tmp_path / "copy" / TRUTH).write_bytes(broken)
        with pytest.raises(CaptureError, match=r"truth\.npz: .* that can be read: .*; write the capture again"):
            tracking_error(capture)
    (tmp_path / "copy" / TRUTH).write_bytes(truth)
    assert tracking_error(capture).surface.mean() > 0.5
    save_capture(noisy, tmp_path / "fewer", [0, 1])
    (tmp_path / "fewer" / TRUTH).write_bytes(truth)
    with pytest.raises(CaptureError, match=r"vertices has shape \(5, .*expected \(2, .*another capture"):
        tracking_error(load_capture(tmp_path / "fewer"))
