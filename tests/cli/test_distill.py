"""`headfields distill`: from a volume to Gaussians, interrupted and resumed."""

import json

import imageio.v2 as imageio
import pytest
import torch

from headfields.apps.distillation import TeacherViews
from headfields.avatar.splat_avatar import SplatAvatar, load_avatar
from headfields.cli import main
from headfields.training.opened_run import load_run
from tests.cli.test_cli import fails
from tests.tables import table

TINY = ["--set", "levels=2", "log2_table_size=6", "finest_resolution=16", "grid_resolution=8", "--rays", "64"]
STUDENT = ["--views", "3", "--size", "16", "--steps", "3", "--limit", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def teacher(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("distill") / "teacher"
    command = ["train", "insta", "--capture", str(tiny_folder), "--out", str(out), "--steps", "2"]
    assert main([*command, "--device", "cpu", *TINY]) == 0
    return out


def test_a_volume_becomes_gaussians_over_an_interruption(teacher, tmp_path, capsys, monkeypatch):
    out = tmp_path / "student"
    command = ["distill", str(teacher), "--out", str(out), *STUDENT, "--set", "count=200", "degree=0"]
    with monkeypatch.context() as patch:
        patch.setattr(TeacherViews, "draw", lambda self, bar: False)
        assert main(command) == 130
    assert "interrupted while drawing" in capsys.readouterr().err
    assert "holds a run already; --resume continues it" in fails(capsys, *command)
    assert main([*command, "--resume"]) == 0
    said = capsys.readouterr()
    assert "the teacher draws next to nothing where the head is: train it longer" in said.err  # two steps are few
    result = json.loads(said.out.splitlines()[-1])
    assert result["views"] == 1 and result["frames"] == 1 and result["milliseconds_student"] > 0
    assert result["lost"] == pytest.approx(result["psnr_of_teacher"] - result["psnr_of_student"])
    assert sorted(path.name for path in (out / "teacher").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert (out / "images" / "distilled.png").exists()
    assert json.loads((out / "metrics.json").read_text())["lost"] == result["lost"]
    avatar = load_avatar(out / "avatar.safetensors")
    assert isinstance(avatar, SplatAvatar) and bool((avatar.gaussians.face >= 0).all())
    assert "trained with distilled" in fails(capsys, *command[:4], "--resume", "--views", "5", "--steps", "3")
    again = ["distill", str(teacher), "--out", str(out), "--resume", "--steps", "4", "--limit", "1", "--device", "cpu"]
    assert main(again) == 0  # the other options are the run's
    assert main(["evaluate", str(out), "--limit", "1", "--device", "cpu"]) == 0
    with pytest.raises(ValueError, match=r"was distilled from .*: continue it with headfields distill .* --resume"):
        load_run(out, device="cpu").trainer()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["psnr"] == pytest.approx(json.loads((out / "metrics.json").read_text())["psnr"], abs=1e-9)
    assert torch.isfinite(torch.tensor(figures["psnr"]))


def test_a_capture_drives_gaussians(tiny_folder, tmp_path):
    """Driven by its own capture, the avatar looks as in that capture's frame; by a turned head it turns."""
    run = tmp_path / "run"
    command = ["train", "gaussian-avatars", "--capture", str(tiny_folder), "--out", str(run), "--steps", "2"]
    assert main([*command, "--device", "cpu", "--set", "count=600", "hair=0.01"]) == 0
    rest = ["--limit", "1", "--device", "cpu"]
    assert main(["render", str(run), "--motion", str(tiny_folder), "--out", str(tmp_path / "both.gif"), *rest]) == 0
    assert main(["render", str(run), "--out", str(tmp_path / "frames"), *rest]) == 0
    (pair,) = imageio.mimread(tmp_path / "both.gif")
    own = imageio.imread(next((tmp_path / "frames").iterdir())).astype(float)
    assert pair.shape[:2] == (48, 80) and own.shape == (48, 40, 3)
    driven = pair[:, 40:, :3].astype(float)
    assert own.std() > 20  # there is a head
    assert abs(driven - own).mean() < 4  # of 255; GIF has 256 colors


@table(
    ("options", "message"),
    [
        (["--views", "1"], "--views is 1"),
        (["--size", "0"], "--size 0"),
        (["--degrees", "400"], "--degrees 400"),
        (["--limit", "0"], "--limit 0"),
        (["--minutes", "-1"], "--minutes is -1"),
        (["--steps", "-2"], "--steps is -2"),
        (["--set", "levels=2"], "levels"),
    ],
)
def test_options_out_of_range(teacher, tmp_path, capsys, options, message):
    assert message in fails(capsys, "distill", str(teacher), "--out", str(tmp_path / "student"), *options)
    assert not (tmp_path / "student").exists()


def test_a_run_is_not_distilled_into_itself(teacher, capsys):
    assert "holds a run already" in fails(capsys, "distill", str(teacher), "--out", str(teacher))
    assert "no run of headfields distill" in fails(capsys, "distill", str(teacher), "--out", str(teacher), "--resume")
