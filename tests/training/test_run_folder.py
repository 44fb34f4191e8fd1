"""A run made in Python leaves the folder that the command leaves, and every command reads it."""

import json

import pytest

import headfields as hf
from headfields.cli import main
from headfields.models.preset import preset_of
from headfields.training import Trainer, insta_losses
from tests.training.ball import BallCapture

SIZES = {"levels": 2, "log2_table_size": 6, "grid_resolution": 8, "finest_resolution": 16}


def composed(template):
    return hf.Avatar(
        deformer=hf.deformers.SurfaceCanonicalizer(template.canonical_vertices, template.faces),
        encoder=hf.encoders.HashGrid(levels=2, log2_table_size=6, finest_resolution=16),
        decoder=hf.decoders.NeRFDecoder(hidden=8),
        renderer=hf.renderers.VolumeRenderer(sampler=hf.renderers.UniformSampler(8)),
        template=template,
    )


def train(avatar, capture, out, losses=None, steps=2, **options):
    options = {"rays_per_step": 64, "bar": False, "device": "cpu"} | options
    trainer = Trainer(avatar, capture, losses or insta_losses(), out=out, **options)
    trainer.fit(steps=steps)
    return trainer


def config(out):
    return json.loads((out / "config.json").read_text())


def error(capsys, *arguments):
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 1
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_preset_from_python_is_evaluated_and_resumed_by_the_command(head_folder, capture, tmp_path, capsys):
    run = tmp_path / "run"
    avatar = hf.models.insta(capture.template, expression_width=4, **SIZES)
    train(avatar, capture, run)
    content = config(run)
    assert content["model"] == "insta" and content["arguments"] == {"expression_width": 4, **SIZES}
    assert content["capture"] == str(head_folder.resolve()) and content["seed"] == 0 and "torch" in content["versions"]
    assert not (run / "checkpoint/parts.safetensors").exists()
    assert hf.Avatar.load(run / "avatar.safetensors").preview is not None
    (run / "avatar.safetensors").unlink()  # as if it had been cut off
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    again = ["train", "insta", "--capture", str(head_folder), "--out", str(run), "--resume", "--device", "cpu"]
    assert main([*again, "--steps", "4"]) == 0
    assert "4 steps" in capsys.readouterr().err
    assert config(run)["training"]["rays"] == 64


def test_a_composition_is_evaluated_rendered_and_meshed_before_and_after_its_end(
    head_folder, capture, tmp_path, capsys
):
    run = tmp_path / "run"
    trainer = train(composed(capture.template), capture, run, [lambda r, b: (r.rgb - b.target).square().mean()])
    content = config(run)
    assert content["model"] is None and content["parts"]["encoder"] == "HashGrid"
    assert content["capture"] == str(head_folder.resolve())
    for finished in (True, False):
        if not finished:
            (run / "avatar.safetensors").unlink()
        assert main(["evaluate", str(run), "--device", "cpu"]) == 0
        psnr = json.loads(capsys.readouterr().out.splitlines()[-1])["psnr"]
        assert psnr == pytest.approx(hf.training.evaluate(trainer.avatar, capture)["psnr"], abs=1e-3)
        if finished:
            continue
        assert main(["render", str(run), "--limit", "1", "--device", "cpu"]) == 0
        mesh = ["mesh", str(run), "--out", str(tmp_path / "head.ply"), "--resolution", "8", "--level", "1e-6"]
        assert main([*mesh, "--device", "cpu"]) == 0
    text = error(capsys, "train", "insta", "--capture", head_folder, "--out", run, "--resume", "--steps", 4)
    assert "was trained in Python with an avatar that no preset makes; resume it there" in text


def test_a_run_that_ends_before_its_first_step_can_be_looked_at(capture, tmp_path):
    class Broken(hf.training.Callback):
        def on_start(self, trainer):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(composed(capture.template), capture, tmp_path / "run", callbacks=[Broken()])
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0


def test_a_capture_without_a_folder_is_asked_for(head_folder, capture, tmp_path, capsys):
    ball, run = BallCapture(), tmp_path / "run"
    train(hf.models.insta(ball.template, expression_width=1, **SIZES), ball, run)
    assert config(run)["capture"] is None and config(run)["capture_name"] == "ball"
    assert "a capture that has no folder, 'ball'; name one with --capture" in error(capsys, "evaluate", run)
    assert main(["mesh", str(run), "--out", str(tmp_path / "b.ply"), "--resolution", "8", "--level", "1e-6"]) == 0
    text = error(capsys, "train", "insta", "--capture", head_folder, "--out", run, "--resume", "--steps", 4)
    assert "was trained in Python with a capture that has no folder; resume it there" in text


def test_options_that_the_command_cannot_give_are_named(head_folder, capture, tmp_path, capsys):
    run = tmp_path / "run"
    train(hf.models.insta(capture.template, **SIZES), capture, run, ema=0.5, steps=1)
    text = error(capsys, "train", "insta", "--capture", head_folder, "--out", run, "--resume", "--steps", 2)
    assert "was trained in Python with ema=0.5 (now 0.95); resume it there" in text
    assert config(run)["trainer"]["ema"] == 0.5 and "training" not in config(run)


def test_resuming_with_another_avatar_leaves_the_run_as_it_was(capture, tmp_path):
    run = tmp_path / "run"
    train(hf.models.insta(capture.template, **SIZES), capture, run, steps=1)
    before = config(run)
    other = Trainer(composed(capture.template), capture, insta_losses(), out=run, bar=False, device="cpu")
    with pytest.raises(ValueError, match="belongs to another model"):
        other.fit(steps=2, resume=True)
    assert config(run) == before


def test_an_avatar_with_other_parts_is_no_preset(capture):
    avatar = hf.models.insta(capture.template, **SIZES)
    assert preset_of(avatar).arguments == SIZES
    renderer = hf.renderers.VolumeRenderer(sampler=hf.renderers.UniformSampler(8))
    assert preset_of(avatar.replace(renderer=renderer)) is None
    avatar.renderer.sampler = hf.renderers.UniformSampler(8)
    assert preset_of(avatar) is None


def test_an_entry_of_another_kind_is_refused_by_its_name(capture, tmp_path, capsys):
    run = tmp_path / "run"
    train(hf.models.insta(capture.template, expression_width=4, **SIZES), capture, run)
    written = config(run) | {"training": {"rays": 64, "learning_rates": {}}}
    wrong = [
        ("capture", 5, "a folder"), ("capture", ["a", 3], "a folder"), ("arguments", [1], "an object"),
        ("training", [1], "an object"), ("seed", True, "an integer"), ("mouth", {}, "a string"),
        ("model", 7, "a string"), ("head_frame", "x", '"keep" or "normalize"'),
        ("training", {"rays": [3]}, "a number"), ("training", {"learning_rates": {"decoder": "x"}}, "an object"),
        ("training", {"precision": 3}, "a string"),
    ]  # fmt: skip
    for name, value, expected in wrong:
        (run / "config.json").write_text(json.dumps(written | {name: value}))
        with pytest.raises(ValueError, match=rf"config\.json: {name}.* is .*; expected {expected}"):
            hf.load_run(run)
    assert "config.json: training.precision is 3" in error(capsys, "evaluate", run, "--device", "cpu")
