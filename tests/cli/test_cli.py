import json
import math

import imageio.v2 as imageio
import pytest
import torch
from PIL import Image

import headfields.avatar.splat_avatar
import headfields.data
import headfields.models
import headfields.synthetic.captures
from headfields.apps import self_check as doctor
from headfields.cli import main, motion, open_run
from headfields.cli.errors import CommandError
from tests.training.fakes import FakeAvatar, FakeCapture


@pytest.fixture
def world(monkeypatch):
    """Fake captures named by their folders, and a model named disc."""
    captures = {"disc": FakeCapture(), "other": FakeCapture()}
    captures["other"].name = "other"

    def load_capture(path, memory_budget_mb, head_frame, mouth):
        if path.name not in captures:
            raise ValueError(f"load_capture: {path} is not a folder")
        return captures[path.name]

    def disc(template, width: int = 16, expression_width: int = 16):
        assert expression_width == 1
        return FakeAvatar(width)

    monkeypatch.setattr(headfields.data, "load_capture", load_capture, raising=False)
    monkeypatch.setattr(headfields.models, "disc", disc, raising=False)
    monkeypatch.setattr(headfields.models, "__all__", ["disc"], raising=False)
    monkeypatch.setattr(headfields.avatar.splat_avatar, "load_avatar", FakeAvatar.load)
    monkeypatch.delenv("HEADFIELDS_DEBUG", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield captures
    torch.set_num_threads(before)


@pytest.fixture
def run(world, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", "disc", "--capture", "disc", "--out", str(folder), "--steps", "8", "--rays", "64"]) == 0
    capsys.readouterr()
    return folder


def fails(capsys, *arguments: str) -> str:
    """The single line on stderr of a failing command."""
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.strip().splitlines() if ": recipe cpu, on cpu" not in line]
    assert len(lines) == 1 and lines[0].startswith("headfields: error: "), captured.err
    assert captured.out == ""
    return lines[0]


def test_train_leaves_a_run_folder_and_resumes(run, capsys):
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == "disc" and config["arguments"] == {"expression_width": 1}
    assert config["training"]["steps"] == 8 and "torch" in config["versions"]
    assert (run / "avatar.safetensors").exists() and (run / "images/step_000008.png").exists()
    again = ["train", "disc", "--capture", "disc", "--out", str(run), "--steps", "12"]
    assert "--resume" in fails(capsys, *again)
    assert main([*again, "--resume"]) == 0
    assert "12 steps" in capsys.readouterr().err
    assert "was trained with arguments" in fails(capsys, *again, "--resume", "--set", "width=8")


def test_a_model_takes_its_arguments_from_set(world, tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "disc", "--capture", "disc", "--out", str(out), "--steps", "1", "--set", "width=8"]
    assert main(arguments) == 0
    assert FakeAvatar.load(out / "avatar.safetensors").width == 8


def test_evaluate_ends_with_one_json_object(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"psnr", "ssim", "psnr_head", "ssim_head", "frames", "seconds_per_frame"} <= set(result)
    assert result["frames"] == 4 and "per_frame" not in result
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["per_frame"]) == 4 and metrics["psnr"] == result["psnr"]
    assert main(["evaluate", str(run), "--split", "train", "--limit", "3", "--capture", "other"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 3


def test_a_run_that_was_cut_off_is_measured_at_its_checkpoint(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    finished = json.loads(capsys.readouterr().out.splitlines()[-1])
    (run / "avatar.safetensors").unlink()
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["psnr"] == pytest.approx(finished["psnr"], abs=1e-4)
    for path in (run / "checkpoint").glob("*.safetensors"):  # the last, and that of the start
        path.unlink()
    assert "neither an avatar nor a checkpoint" in fails(capsys, "evaluate", str(run))


def test_render_frames(run, capsys):
    assert main(["render", str(run), "--limit", "2", "--compare"]) == 0
    out = run / "renders/test"
    assert capsys.readouterr().out.strip() == str(out)
    assert sorted(path.name for path in out.iterdir()) == ["00008.png", "00010.png"]
    assert Image.open(out / "00008.png").size == (60, 24)
    assert main(["render", str(run), "--limit", "1", "--scale", "2", "--out", str(run / "big")]) == 0
    assert Image.open(run / "big/00008.png").size == (40, 48)


@pytest.mark.parametrize(
    ("options", "name", "frames"),
    [
        (["--mode", "turntable", "--seconds", "0.5", "--fps", "8"], "turntable.mp4", 4),
        (["--mode", "expressions", "--seconds", "0.5", "--fps", "10"], "expressions.mp4", 5),
        (["--motion", "other", "--limit", "3"], "motion.mp4", 3),
        (["--motion", "other", "--frames", "2:11:4", "--scale", "2"], "motion.mp4", 3),
        (["--mode", "turntable", "--seconds", "1", "--fps", "3", "--out", "OUT/a.gif"], "../a.gif", 3),
    ],
)
def test_render_videos(run, tmp_path, options, name, frames):
    options = [option.replace("OUT", str(run)) for option in options]
    assert main(["render", str(run), *options]) == 0
    assert len(imageio.mimread(run / "renders" / name)) == frames
    assert not list(run.rglob("*part*"))


def test_doctor_names_the_failed_check(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", [("good", lambda device: [(torch.ones(1), torch.ones(1))])])
    assert main(["doctor"]) == 0
    assert "ok     good" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", [("bad", lambda device: [(torch.ones(1), torch.zeros(1))])])
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "FAILED bad" in captured.out and "self-check(s) failed: bad" in captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "disc", "--capture", "disc", "--out", "RUN"], "pass a limit"),
        (["train", "nerf", "--capture", "disc", "--out", "RUN", "--steps", "1"], "no model 'nerf'.*has disc"),
        (["train", "disc", "--capture", "gone", "--out", "RUN", "--steps", "1"], "gone is not a folder"),
        (["train", "disc", "--capture", "disc", "--out", "RUN", "--steps", "-1"], "steps is -1; expected more than 0"),
        (["train", "disc", "--capture", "disc", "--out", "RUN", "--steps", "1", "--rays", "0"], "rays_per_step is 0"),
        (["train", "disc", "--capture", "disc", "--out", "RUN", "--steps", "1", "--opacity", "-1"], "opacity is -1"),
        (
            ["train", "disc", "--capture", "disc", "--out", "RUN", "--steps", "1", "--set", "depth=3"],
            "no argument 'dep",
        ),
        (["train", "disc", "--capture", "disc", "--out", "RUN", "--steps", "1", "--set", "width"], "expected name=va"),
        (
            ["train", "disc", "--capture", "disc", "--out", "RUN", "--steps", "1", "--device", "tpu9"],
            "device is 'tpu9'",
        ),
        (["evaluate", "RUN/none"], "config.json: no such file"),
        (["render", "RUN/none"], "config.json: no such file"),
        (["render", "RUN/none", "--fps", "0"], "all must be positive"),
        (["render", "RUN/none", "--background", "2"], "gray level"),
        (["render", "RUN/none", "--mode", "turntable", "--compare"], "needs --mode frames"),
        (["render", "RUN/none", "--mode", "turntable", "--out", "x.png"], "ends in .mp4 or .gif"),
    ],
)
def test_bad_input_ends_with_a_reason(world, tmp_path, capsys, arguments, reason):
    import re

    line = fails(capsys, *(argument.replace("RUN", str(tmp_path / "run")) for argument in arguments))
    assert re.search(reason, line)


def test_bad_splits_and_limits(run, capsys):
    assert "no split 'holdout'" in fails(capsys, "evaluate", str(run), "--split", "holdout")
    assert "--limit is 0" in fails(capsys, "evaluate", str(run), "--limit", "0")
    assert "gray level" in fails(capsys, "evaluate", str(run), "--background", "-1")


def test_motion_is_shown_beside_the_driver(run, world):
    world["other"].size = (12, 10)  # half as large: drawn at the avatar's height
    assert main(["render", str(run), "--motion", "other", "--limit", "1", "--out", str(run / "both.gif")]) == 0
    (picture,) = imageio.mimread(run / "both.gif")
    assert picture.shape[:2] == (24, 40)


def test_a_driver_without_faces_is_refused(run, world, capsys):
    template = world["other"].template
    world["other"].template = template.replace(faces=template.faces[:0])
    assert "bind: source has 0 faces" in fails(capsys, "render", str(run), "--motion", "other")


@pytest.mark.parametrize(
    ("frames", "reason"), [("3", "expected START:STOP"), ("a:b", "START:STOP"), ("9:3", "none of")]
)
def test_bad_frames(run, capsys, frames, reason):
    assert reason in fails(capsys, "render", str(run), "--frames", frames)


def test_debug_shows_the_traceback(world, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        main(["evaluate", str(tmp_path), "--debug"])
    monkeypatch.setenv("HEADFIELDS_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["evaluate", str(tmp_path)])


def test_an_unexpected_error_names_its_kind(run, monkeypatch, capsys):
    def broken(*arguments, **options):
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr(open_run, "open_avatar", broken)
    assert "ZeroDivisionError: of all things (--debug shows where)" in fails(capsys, "evaluate", str(run))


def test_an_interrupted_training_says_how_to_resume(world, tmp_path, capsys, monkeypatch):
    import signal

    from headfields.losses.color import HuberColor

    original = HuberColor.__call__

    def interrupting(self, rendering, batch, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, rendering, batch, step)

    monkeypatch.setattr(HuberColor, "__call__", interrupting)
    out = str(tmp_path / "run")
    assert main(["train", "disc", "--capture", "disc", "--out", out, "--steps", "50"]) == 130
    assert "interrupted at step 4" in capsys.readouterr().err
    monkeypatch.setattr(HuberColor, "__call__", original)
    assert main(["train", "disc", "--capture", "disc", "--out", out, "--steps", "6", "--resume"]) == 0


def test_help_and_bad_usage(capsys):
    for arguments, code in ((["train", "--help"], 0), (["train"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
        said = capsys.readouterr()
        assert ("--capture" in said.out and "over resumptions" in said.out) if code == 0 else "MODEL" in said.err


def test_synth_passes_its_arguments_and_refuses_a_full_folder(tmp_path, monkeypatch, capsys):
    calls = []

    def write_head_capture(out, **options):
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"out {out} is not empty")
        calls.append((out, options))

    monkeypatch.setattr(headfields.synthetic.captures, "write_head_capture", write_head_capture)
    assert main(["synth", str(tmp_path / "new"), "--frames", "5", "--size", "32", "--seed", "7"]) == 0
    given = {"frames": 5, "size": 32, "seed": 7, "noise": None, "identity": None, "cameras": 0, "retargeted": None}
    assert calls == [(tmp_path / "new", given)]
    capsys.readouterr()
    (tmp_path / "x").touch()
    assert "is not empty" in fails(capsys, "synth", str(tmp_path))
    assert "at least 3 frames" in fails(capsys, "synth", str(tmp_path / "new"), "--frames", "2")
    assert "--noise is -1.0" in fails(capsys, "synth", str(tmp_path / "new"), "--noise", "-1")


def test_synth_with_tracking_noise_prints_the_error(tmp_path, capsys):
    out = str(tmp_path / "noisy")
    assert main(["synth", out, "--frames", "3", "--size", "16", "--noise", "2", "--noise-seed", "1"]) == 0
    assert "tracking error, mean over frames: rotation " in capsys.readouterr().out
    assert (tmp_path / "noisy" / "truth.npz").is_file()


def test_orbit_keeps_the_center_in_its_place_and_goes_around():
    capture = FakeCapture()
    camera = capture.camera(torch.tensor([0]))
    center = torch.tensor([0.02, -0.01, 0.03])
    turned = camera.orbited(center, math.degrees(0.7))
    torch.testing.assert_close(turned.project(center[None, None])[0], camera.project(center[None, None])[0])
    arm, turned_arm = camera.center[0] - center, turned.center[0] - center
    assert turned_arm[1] == pytest.approx(arm[1].item(), abs=1e-6)
    angle = torch.atan2(turned_arm[0], turned_arm[2]) - torch.atan2(arm[0], arm[2])
    assert angle.item() == pytest.approx(0.7, abs=1e-5)  # toward +x, the head's left


def test_turntable_swings_or_goes_round():
    capture = FakeCapture()
    swing = [shot.camera.center[0] for shot in motion.turntable(capture, 0, 4, 60)]
    torch.testing.assert_close(swing[0], swing[2], atol=1e-6, rtol=0)
    assert swing[1][0] > swing[0][0] > swing[3][0]
    round_ = torch.stack([shot.camera.center[0] for shot in motion.turntable(capture, 0, 4, 360)])
    torch.testing.assert_close(round_.mean(0)[[0, 2]], torch.tensor([0.05, 0.0]), atol=1e-6, rtol=0)


def test_expressions_go_from_neutral_to_the_extreme_and_back():
    capture = FakeCapture()
    values = [shot.state.expression.item() for shot in motion.expressions(capture, 4, 3)]
    extreme = capture.state(capture.splits["train"]).expression.max().item()
    assert values == pytest.approx([0, extreme / 2, extreme, extreme / 2])
    capture._expression = None
    capture.state = lambda frames: FakeCapture().state(frames).replace(expression=None)
    with pytest.raises(CommandError, match="no expression coefficients"):
        list(motion.expressions(capture, 4, 3))


def test_retargeting_keeps_the_shape_of_the_capture():
    capture, driver = FakeCapture(), FakeCapture()
    driver.template = driver.template.replace(canonical_vertices=driver.template.canonical_vertices + 1.0)
    driver._vertices = driver._vertices + 1.0 + driver._expression[:, None] * torch.tensor([0.0, 0.5, 0.0])
    (shot,) = motion.retargeted(capture, driver, [9])
    expected = capture.template.canonical_vertices + 9 / 11 * torch.tensor([0.0, 0.5, 0.0])
    torch.testing.assert_close(shot.state.vertices[0], expected, atol=1e-5, rtol=0)
    assert shot.driver == 9 and shot.state.expression.shape == (1, 1)
    torch.testing.assert_close(shot.camera.world_to_camera, capture.camera([0]).world_to_camera[:1], atol=1e-5, rtol=0)
