"""`headfields capture` on a folder of images: the capture, resuming, and what is said of bad input."""

import itertools
import json
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.apps.capturing.recording_files import write_untracked
from headfields.apps.export.save_vhap import _time_steps
from headfields.apps.tracking import RigTrackingOptions
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.head.identity import HeadIdentity
from headfields.apps.tracking.rig.light import LightSums
from headfields.apps.tracking.rig.observation import rig_observation
from headfields.cli import main
from headfields.cli.open_run import open_frames
from headfields.data import load_capture
from headfields.data.untracked import UntrackedRecording
from tests.apps.tracking.head.conftest import cameras, drawn  # noqa: F401  (fixtures)


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("images")
    (path / "landmarks").mkdir()
    for row in range(4):
        image = drawn.recording.decode_image(row)
        if row == 1:
            image = image * np.uint8([0, 0, 0, 1])
        Image.fromarray(image).save(path / f"{row:05d}.png")
        np.save(path / "landmarks" / f"{row:05d}.npy", drawn.recording.decode_landmarks(row))
    return path


def run(folder, out, *options):
    return main(["capture", str(folder), "--head", "procedural", "--out", str(out), "--quick", "--stage1-only",
                 "--size", "64", *options])  # fmt: skip


def interrupting(monkeypatch, target, call):
    """Makes Ctrl-C arrive in the given call of a function."""
    module, _, name = target.rpartition(".")
    original, calls = getattr(sys.modules[module], name), itertools.count(1)

    def replacement(*arguments, **options):
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(target, replacement)


def test_a_folder_becomes_a_capture(folder, tmp_path, capsys):
    out = tmp_path / "me"
    assert run(folder, out) == 0
    said = capsys.readouterr()
    assert "frame 1 (00001.png) is black" in said.err and "1 of 4 frames failed" in said.err
    assert f"next: headfields train insta --capture {out}" in said.out
    capture = load_capture(out)
    assert len(capture) == 3 and max(capture.size) <= 64
    assert run(folder, out) == 1 and "--resume continues it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_becomes_a_capture_through_interruptions_and_resumes(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "me"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
    try:
        for target, call in (("headfields.apps.capturing.prepare.write_image", 2),
                             ("headfields.apps.tracking.head.identity.estimated_albedo", 1),
                             ("headfields.apps.tracking.head.tracker.rig_observation", 2)):  # fmt: skip
            with monkeypatch.context() as patched:
                interrupting(patched, target, call)
                assert run(folder, out, *(["--resume"] if out.exists() else [])) == 130, target
            assert "--resume continues" in capsys.readouterr().err
            assert not (out / "transforms.json").exists()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(list((out / "tracking" / "run" / "fits" / "stage1").iterdir())) >= 1
    assert run(folder, out, "--resume") == 0
    errors = json.loads((out / "errors.json").read_text())
    assert set(errors["frames"]) == {"0", "2", "3"} and set(errors["failed"]) == {"1"}
    before = (out / "transforms.json").read_bytes()
    assert run(folder, out) == 1 and "--resume continues it" in capsys.readouterr().err
    (out / "transforms.json").unlink()  # as if killed while the capture was written
    (out / "tracking" / "run" / "fits" / "stage1" / "00003.safetensors").unlink()
    assert run(folder, out, "--resume") == 0
    assert (out / "transforms.json").read_bytes() == before
    assert run(folder, out, "--resume", "--focal", "300") == 1
    assert "begun with --focal None, not 300.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop", "big"), "--crop is 'big'; expected auto, none, or left,top,width,height"),
        (("--fps", "0"), "--fps is 0.0"),
        (("--focal", "-3"), "--focal is -3.0"),
        (("--landmarks", "none"), "none"),
        (("--face-landmarker", "none.task"), "not downloaded"),
        (("--every", "0"), "--every 0"),
    ],
)
def test_bad_options_are_named(folder, tmp_path, capsys, options, message):
    assert run(folder, tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_sources_are_named(folder, tmp_path, capsys):
    (tmp_path / "noise.mp4").write_bytes(b"no video" * 99)
    assert run(tmp_path / "noise.mp4", tmp_path / "out") == 1
    assert "cannot be decoded as a video" in capsys.readouterr().err
    assert run(folder, folder) == 1
    assert "is not empty and holds no run" in capsys.readouterr().err
    faceless = tmp_path / "faceless"
    faceless.mkdir()
    Image.fromarray(np.full((64, 64, 4), 99, np.uint8)).save(faceless / "0.png")
    assert run(faceless, tmp_path / "out2") == 1
    assert "no landmarks were given" in capsys.readouterr().err
    assert main(["capture", str(folder), "--head", str(tmp_path / "none.npz"), "--out", str(tmp_path / "o")]) == 1
    assert "none.npz" in capsys.readouterr().err


def test_trackers_open_recordings_without_meshes(drawn, tmp_path, capsys):  # noqa: F811
    """`headfields track` and `track-template` read what `capture` prepared, and say what focal length they take."""
    write_untracked(tmp_path / "recording", drawn.recording)
    source = open_frames(tmp_path / "recording", 64)
    assert "the focal length is unknown; 115 pixels are taken" in capsys.readouterr().err
    assert isinstance(source, UntrackedRecording) and isinstance(source, FrameSource) and len(source) == 6
    colors = torch.zeros(0, 3)
    HeadIdentity(torch.zeros(1), colors, LightSums.empty(), 222.0, 0.1, "fitted").save(
        tmp_path / "identity.safetensors"
    )
    assert float(open_frames(tmp_path / "recording", 64).camera([0]).intrinsics[0, 0, 0]) == 222.0
    assert "222 pixels" in capsys.readouterr().err
    observation = rig_observation(source, 1, RigTrackingOptions(levels=(48,), steps=(1,)))
    assert observation.landmark_count == 68
    assert float(observation.camera.intrinsics[0, 0]) == pytest.approx(1.2 * 96)


def calibrated(cameras, path):  # noqa: F811
    """A folder of two cameras, in millimeters, two images with alpha each and landmarks beside them."""
    content = {"world_2_cam": {}, "intrinsics": {}}
    for name, drawn_ in zip(("front", "side"), cameras, strict=True):
        own = drawn_.calibrated()
        (path / name / "landmarks").mkdir(parents=True)
        for row in range(2):
            Image.fromarray(own.decode_image(row)).save(path / name / f"{row}.png")
            np.save(path / name / "landmarks" / f"{row}.npy", own.decode_landmarks(row))
        pose = own.world_to_camera[0].copy()
        pose[:3, 3] *= 1000
        content["world_2_cam"][name], content["intrinsics"][name] = pose.tolist(), own.intrinsics[0].tolist()
    (path / "camera_params.json").write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_cameras_interrupted_anywhere_end_in_the_same_capture(cameras, tmp_path, capsys, monkeypatch):  # noqa: F811
    folder = calibrated(cameras, tmp_path / "in")

    def captured(out, *options):
        return main(["capture", str(folder), "--head", "procedural", "--out", str(out), "--quick", "--size", "64",
                     *options])  # fmt: skip

    assert captured(tmp_path / "whole") == 0
    out = tmp_path / "out"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
    try:
        for target, call in (("headfields.apps.capturing.prepare.write_image", 3),  # of the second camera
                             ("headfields.apps.capturing.prepare_cameras.write_joined", 1),
                             ("headfields.apps.tracking.head.identity.estimated_albedo", 1),
                             ("headfields.apps.tracking.head.tracker.rig_observation", 2),
                             ("headfields.apps.tracking.rig.tracker.smooth_together", 1)):  # fmt: skip
            with monkeypatch.context() as patched:
                interrupting(patched, target, call)
                assert captured(out, *(["--resume"] if out.exists() else [])) == 130, target
            assert not (out / "transforms.json").exists()
    finally:
        signal.signal(signal.SIGINT, before)
    assert captured(out, "--resume") == 0
    (out / "transforms.json").unlink()  # as if killed while the capture was written
    assert captured(out, "--resume") == 0
    names = {path.relative_to(out) for path in out.rglob("*") if path.is_file() and "tracking" not in path.parts}
    assert names == {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")
                     if path.is_file() and "tracking" not in path.parts}  # fmt: skip
    for name in names:
        one, other = ((root / name).read_bytes() for root in (tmp_path / "whole", out))
        if name.name == "errors.json":
            one, other = (
                {frame: {**errors, "seconds": 0} for frame, errors in json.loads(text)["frames"].items()}
                for text in (one, other)
            )
        assert one == other, name
    capsys.readouterr()


@pytest.mark.slow
def test_cameras_of_a_calibration_become_one_capture(cameras, tmp_path, capsys):  # noqa: F811
    """VHAP's time steps from the capture; what the trackers open."""
    calibrated(cameras, tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", "--crop", "none") == 0
    said = capsys.readouterr().out
    assert "in millimeters" in said and "camera 01 is side" in said
    capture = load_capture(tmp_path / "out")
    assert list(capture.frame_names) == [f"images/0000{step}_0{camera}.png" for step in (0, 1) for camera in (0, 1)]
    assert _time_steps(capture.recording, list(range(4))) == [[0, 1], [2, 3]]
    poses = capture.camera(range(4)).world_to_camera
    placed = poses[1] @ torch.linalg.inv(poses[0])
    assert torch.allclose(placed, cameras[1].from_first[0].float(), atol=1e-4)
    opened = open_frames(tmp_path / "out" / "tracking" / "recording", 64)
    assert isinstance(opened, UntrackedRecording) and [own.name for own in opened.cameras] == ["front", "side"]
    assert np.allclose(opened.camera_in_first(opened.others[0], 1), placed, atol=1e-4)
    track = ["track", "--capture", str(tmp_path / "out" / "tracking" / "recording"), "--out", str(tmp_path / "run")]
    assert main([*track, "--prior", str(tmp_path / "none")]) == 1
    assert "has 2 cameras; a prior is fitted to the first, front, alone" in capsys.readouterr().err
    assert run(tmp_path / "in", tmp_path / "other", "--focal", "300") == 1
    assert "--focal 300.0 and a calibration" in capsys.readouterr().err
    assert run(tmp_path / "in", tmp_path / "other", "--landmarks", str(tmp_path)) == 1
    assert "has nothing named front" in capsys.readouterr().err


def test_a_failed_try_leaves_nothing_that_refuses_the_next(folder, tmp_path, capsys):
    out, bare = tmp_path / "out", tmp_path / "bare"
    bare.mkdir()
    for path in folder.glob("*.png"):
        (bare / path.name).symlink_to(path)
    assert run(bare, out) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()  # no empty bar before it
    assert "no landmarks were given, and there is no detector" in line
    assert not out.exists()
    assert run(bare, out, "--landmarks", str(folder / "landmarks"), "--mattes", str(folder / "landmarks")) == 1
    assert "has no mattes" in capsys.readouterr().err and not out.exists()
    out.mkdir()
    (tmp_path / "short").mkdir()
    np.save(tmp_path / "short" / "00000.npy", np.zeros((5, 2)))
    assert run(bare, out, "--landmarks", str(tmp_path / "short")) == 1
    assert "landmarks" in capsys.readouterr().err and out.is_dir() and not any(out.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "2"], "--scale 2.0 is for images with a transforms.json"),
        (["--motion", "still"], "--motion still is for images with a transforms.json"),
        (["--convention", "opencv"], "--convention opencv is for images with a transforms.json"),
    ],
)
def test_options_of_posed_images_are_refused_elsewhere(folder, tmp_path, capsys, options, message):
    assert run(folder, tmp_path / "out", *options) != 0
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_of_nerfstudio_becomes_a_capture_with_its_cameras(folder, drawn, tmp_path, capsys):  # noqa: F811
    """Lenses that differ from what would be fitted; the head moves, so that each image has a pose of its own."""
    posed = tmp_path / "posed"
    (posed / "images").mkdir(parents=True)
    for row in (0, 2, 3):
        (posed / "images" / f"{row:05d}.png").symlink_to(folder / f"{row:05d}.png")
    (posed / "landmarks").symlink_to(folder / "landmarks")
    height, width = drawn.recording.size
    focal = 1.7 * width
    frames = [{"file_path": f"images/{row:05d}.png", "transform_matrix": np.eye(4).tolist()} for row in (0, 2, 3)]
    content = {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    (posed / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    assert run(posed, tmp_path / "out", "--motion", "moving") == 0
    assert "of the cameras only the lenses are used" in capsys.readouterr().out
    made = load_capture(tmp_path / "out")
    crop = made.camera([0])
    assert len(made) == 3
    written = open_frames(tmp_path / "out" / "tracking" / "recording", 64)
    scale = float(written.intrinsics[0, 0, 0]) / focal
    assert float(crop.intrinsics[0, 0, 0]) == pytest.approx(scale * focal, rel=1e-4) and 0.2 < scale < 2
    assert run(posed, tmp_path / "other", "--focal", "200") == 1
    assert "--focal 200.0 was given, and" in capsys.readouterr().err
