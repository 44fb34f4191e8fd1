"""`headfields train` under failures, and on resume."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import headfields.data
import headfields.models
from headfields.cli import main
from headfields.losses.color import HuberColor
from headfields.runs.folder import RunFolder
from headfields.runs.lock import run_lock
from headfields.training.recipes import INSTA, MONOAVATAR
from tests.cli.test_cli import fails, run, world  # noqa: F401  (fixtures)
from tests.data.tiny import blob, tiny_frames
from tests.training.fakes import FakeAvatar
from tests.training.test_full_disk import largest_file
from tests.training.test_processes import ROOT, environment


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_resume_keeps_options_that_are_not_given(run, capsys):  # noqa: F811
    again = ["train", "disc", "--capture", "disc", "--out", str(run), "--resume"]
    assert main(again) == 0  # to the same end, which it has reached
    assert "8 steps" in capsys.readouterr().err
    assert main([*again, "--steps", "10"]) == 0
    warnings = capsys.readouterr().err
    assert config(run)["training"]["rays"] == 64 and config(run)["training"]["steps"] == 10
    assert "headfields: warning: Trainer: the learning rate falls over the whole run" in warnings
    assert "rays_per_step" not in warnings


def test_a_run_killed_before_its_first_step_is_resumed(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    options = ["--capture", "disc", "--steps", "4", "--rays", "32", "--seed", "5", "--set", "width=8"]
    out, whole = str(tmp_path / "run"), str(tmp_path / "whole")
    assert main(["train", "disc", *options, "--out", whole]) == 0

    def killed(*arguments, **limits):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("headfields.training.run.TrainingRun.save_first", killed)
        assert main(["train", "disc", *options, "--out", out]) == 130
    assert not RunFolder(out).checkpoints
    capsys.readouterr()
    before = config(tmp_path / "run")
    again = ["train", "disc", "--capture", "disc", "--out", out]
    assert "holds a run already" in fails(capsys, *again, "--steps", "4")
    assert "was trained with seed 5, not 6" in fails(capsys, *again, "--resume", "--seed", "6")
    assert "was trained with capture" in fails(capsys, "train", "disc", "--capture", "other", "--out", out, "--resume")
    assert main([*again, "--resume"]) == 0
    assert config(tmp_path / "run") == before
    first, second = (FakeAvatar.load(RunFolder(path).avatar).state_dict() for path in (whole, out))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resume_says_that_nothing_is_there(world, tmp_path, capsys):  # noqa: F811
    arguments = ["train", "disc", "--capture", "disc", "--out", str(tmp_path), "--rays", "16", "--steps", "1"]
    assert main([*arguments, "--resume"]) == 0
    assert "holds no run to resume; a new one starts" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"format": 1, "scans": {}}')
    assert "holds no run of headfields train" in fails(capsys, *arguments, "--resume")


def test_resume_warns_of_other_options(run, capsys):  # noqa: F811
    again = ["train", "disc", "--capture", "disc", "--out", str(run), "--resume", "--steps", "10"]
    assert main([*again, "--rays", "32", "--schedule", "constant"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "continues with other options than before: rays_per_step=64 (now 32), schedule='exponential'" in warnings[0]
    assert config(run)["training"]["rays"] == 32
    assert "was trained with seed 0, not 3" in fails(capsys, *again, "--seed", "3")


def test_rates_of_parts(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    """The command reaches rates of parts with a group of their own; a resumed run keeps them."""

    class Warped(FakeAvatar):
        def __init__(self) -> None:
            super().__init__()
            part = next(module for module in self.modules() if module is not self and [*module.parameters()])
            part.rate_group = "warp"

    monkeypatch.setattr(headfields.models, "disc", lambda template: Warped(), raising=False)
    recipe = replace(MONOAVATAR, losses=INSTA.losses, sampling=lambda source: {}, arguments={})
    monkeypatch.setattr("headfields.training.recipes._RECIPES", {"disc": {"cpu": recipe}})
    arguments = ["train", "disc", "--capture", "disc", "--rays", "16", "--out"]
    out = str(tmp_path / "run")
    assert main([*arguments, str(tmp_path / "usual"), "--steps", "1"]) == 0
    assert config(tmp_path / "usual")["trainer"]["learning_rates"] == {"warp": 4e-4}
    assert main([*arguments, out, "--steps", "1", "--learning-rates", "warp=1e-4"]) == 0
    assert main([*arguments, out, "--steps", "2", "--resume"]) == 0
    assert config(tmp_path / "run")["trainer"]["learning_rates"] == {"warp": 1e-4}
    capsys.readouterr()
    new = [*arguments, str(tmp_path / "new"), "--steps", "1", "--learning-rates"]
    assert "got 'warp'; expected group=rate, as warp=0.0001" in fails(capsys, *new, "warp")
    assert "got 'warp=-1'; expected the name of a group and a positive rate" in fails(capsys, *new, "warp=-1")
    assert "learning_rates has 'wrap'; parts of this avatar have groups ['warp']" in fails(capsys, *new, "wrap=1")


def test_resume_keeps_the_arguments_of_the_model(world, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / "run")
    arguments = ["train", "disc", "--capture", "disc", "--out", out, "--rays", "16"]
    assert main([*arguments, "--steps", "2", "--set", "width=8"]) == 0
    assert main([*arguments, "--steps", "3", "--resume"]) == 0
    capsys.readouterr()
    assert "was trained with arguments" in fails(capsys, *arguments, "--steps", "4", "--resume", "--set", "width=9")


def test_a_preset_gets_frames_and_size_from_capture_and_device(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    def clip(template, frames: int, sizes: str = "paper"):
        return FakeAvatar()

    monkeypatch.setattr(headfields.models, "clip", clip, raising=False)
    monkeypatch.setattr(headfields.models, "__all__", ["clip"])
    arguments = ["train", "clip", "--capture", "disc", "--rays", "16", "--steps", "1", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert "clip: recipe cpu, on cpu (sizes for minutes on a CPU" in capsys.readouterr().err
    assert config(tmp_path / "one")["arguments"] == {"frames": len(world["disc"]), "sizes": "cpu"}
    assert main([*arguments, "--out", str(tmp_path / "two"), "--set", "sizes=paper", "frames=9"]) == 0
    assert config(tmp_path / "two")["arguments"] == {"frames": 9, "sizes": "paper"}
    assert main([*arguments, "--out", str(tmp_path / "three"), "--recipe", "fast"]) == 0
    assert config(tmp_path / "three")["arguments"] == {"frames": len(world["disc"]), "sizes": "paper"}
    assert "clip: recipe fast, on cpu (the paper's or the released sizes" in capsys.readouterr().err


def test_resume_without_a_run_needs_a_limit(world, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / "run")
    assert "pass a limit" in fails(capsys, "train", "disc", "--capture", "disc", "--out", out, "--resume")


def test_a_folder_in_use_is_refused(run, capsys):  # noqa: F811
    code = (
        "import sys\nfrom pathlib import Path\nfrom headfields.runs.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], cwd=ROOT, env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        other.stdout.readline()
        before = config(run)
        line = fails(capsys, "train", "disc", "--capture", "disc", "--out", str(run), "--resume", "--steps", "9")
        assert "is in use by process" in line and "Error" not in line
        assert config(run) == before
    finally:
        other.kill()
        other.communicate()
    with run_lock(run):
        pass


def test_a_full_disk_ends_with_a_reason(run, capsys):  # noqa: F811
    again = ["train", "disc", "--capture", "disc", "--out", str(run), "--resume", "--schedule", "exponential"]
    with largest_file((run / "checkpoint/last.safetensors").stat().st_size // 2):
        assert main([*again, "--steps", "10"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        line.startswith("headfields: error: step 10: ") and "last.safetensors cannot be written: File too large" in line
    )
    assert "(step 8)" in line and "--resume" in line
    assert main([*again, "--steps", "10"]) == 0


def test_an_impossible_folder_fails_before_the_capture_is_read(world, tmp_path, capsys):  # noqa: F811
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "run")
    assert "file is a file; a run needs a folder" in fails(
        capsys, "train", "disc", "--capture", "gone", "--out", out, "--steps", "1"
    )


def test_a_nan_ends_with_a_reason(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    original = HuberColor.__call__
    monkeypatch.setattr(HuberColor, "__call__", lambda *arguments: original(*arguments) * float("nan"))
    arguments = ["train", "disc", "--capture", "disc", "--out", str(tmp_path / "run"), "--steps", "30"]
    assert main(arguments) == 1
    assert "headfields: error: step 9: loss color is not finite" in capsys.readouterr().err


def test_a_broken_checkpoint_is_reported_and_the_previous_one_used(run, capsys):  # noqa: F811
    again = ["train", "disc", "--capture", "disc", "--out", str(run), "--resume"]
    assert main([*again, "--steps", "10"]) == 0
    (run / "avatar.safetensors").unlink()
    (run / "checkpoint/last.safetensors").write_bytes(b"half")
    assert main(["evaluate", str(run)]) == 0
    assert main([*again, "--steps", "12"]) == 0
    assert "last.safetensors is not a whole safetensors file" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_by_the_command_itself_and_by_torchrun(tmp_path):
    from headfields.synthetic.captures import write_head_capture

    write_head_capture(tmp_path / "capture", frames=6, test_frames=2, size=32, progress=False)
    small = ["--set", "levels=2", "log2_table_size=8", "grid_resolution=8", "--rays", "64", "--device", "cpu"]
    train = ["train", "insta", "--capture", str(tmp_path / "capture"), "--devices", "2", *small]
    one = [sys.executable, "-m", "headfields"]
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "headfields"]
    for name, command in (("own", one), ("torchrun", many)):
        out = ["--out", str(tmp_path / name)]
        options = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True, "timeout": 500}
        done = subprocess.run([*command, *train, *out, "--steps", "4"], **options)
        assert done.returncode == 0 and done.stderr.count("4 steps in") == 1, done.stderr[-2000:]
        assert (tmp_path / name / "avatar.safetensors").exists()
        done = subprocess.run([*command, *train, *out, "--steps", "6", "--resume"], **options)
        assert done.returncode == 0 and done.stderr.count("6 steps in") == 1, done.stderr[-2000:]
        done = subprocess.run([*command, *train, *out, "--steps", "6"], **options)
        assert done.returncode != 0 and "--resume continues it" in done.stderr
    own, other = ((tmp_path / name / "avatar.safetensors").read_bytes() for name in ("own", "torchrun"))
    assert own == other


def test_a_logger_writes_into_the_run(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    arguments = ["train", "disc", "--capture", "disc", "--rays", "16", "--out"]
    assert main([*arguments, str(tmp_path / "run"), "--steps", "2", "--logger", "csv"]) == 0
    assert main([*arguments, str(tmp_path / "run"), "--steps", "4", "--logger", "csv", "--resume"]) == 0
    table = (tmp_path / "run/logs/csv/metrics.csv").read_text()
    assert "terms/color" in table.splitlines()[0] and len(table.splitlines()) >= 3
    capsys.readouterr()
    monkeypatch.setattr("headfields.training.loggers._PACKAGES", {"tensorboard": ("none_such",)})
    line = fails(capsys, *arguments, str(tmp_path / "two"), "--steps", "2", "--logger", "tensorboard")
    assert "the logger 'tensorboard' needs the package none_such; pip install" in line


def test_the_released_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its numbers reach the model, the losses and the trainer; a resumed run keeps it."""
    headfields.data.formats.insta_writer.write_insta(tmp_path / "tiny", tiny_frames(5, True), *blob(True))
    out = tmp_path / "run"
    small = ["--set", "levels=2", "log2_table_size=8", "finest_resolution=32", "grid_resolution=8", "step=0.02"]
    arguments = ["train", "insta", "--capture", str(tmp_path / "tiny"), "--out", str(out), "--precision", "32-true"]
    limits = ["--rays", "16", "--samples", "0"]
    assert main([*arguments, *limits, "--steps", "1", "--recipe", "released", *small]) == 0
    written = config(out)
    assert written["recipe"] == "released" and written["arguments"]["features"] == 8
    assert written["arguments"]["formula"] == "released" and written["arguments"]["expression_width"] == 5
    training = written["training"]
    assert training["depth"] == 1.25 and training["depth_start"] == 0 and training["frames"] == 32
    assert training["learning_rate"] == training["network_learning_rate"] == 1.75e-3 and training["rays"] == 16
    assert training["schedule"] == "constant"
    assert main([*arguments, *limits, "--steps", "2", "--resume"]) == 0
    assert config(out)["recipe"] == "released"
    capsys.readouterr()
    assert "was trained with recipe" in fails(capsys, *arguments, "--steps", "3", "--resume", "--recipe", "cpu")
    other = ["train", "vp360", "--capture", str(tmp_path / "tiny"), "--out", str(tmp_path / "b"), "--steps", "1"]
    assert "vp360 has no recipe 'released'; flash_avatar, gaussian_avatars, insta" in fails(
        capsys, *other, "--recipe", "released"
    )
