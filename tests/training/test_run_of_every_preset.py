"""A run of each preset, opened again: as the command's, rendered one by one as in a batch, measured, and continued."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import headfields as hf
from headfields.cli import main
from headfields.data.formats.insta_writer import write_insta
from headfields.training.presets import presets
from headfields.training.train_preset import train
from tests.data.tiny import blob, tiny_frames

QUICK = {"gaussian_avatars"}


@pytest.mark.parametrize(
    "model", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in presets()]
)
def test_a_run_is_opened_and_goes_on(model: str, tmp_path: Path) -> None:
    folder, out, other = tmp_path / "open", tmp_path / "python", tmp_path / "command"
    write_insta(folder, tiny_frames(5, True), *blob(True))
    train(model, folder, out, steps=1, mouth="interior", device="cpu", bar=False)
    command = ["train", model, "--capture", str(folder), "--out", str(other), "--steps", "1", "--mouth", "interior"]
    assert main([*command, "--device", "cpu"]) == 0
    ours, theirs = (load_file(each / "avatar.safetensors") for each in (out, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    run = hf.load_run(out, device="cpu")
    cameras, states = run.capture.camera([0, 1, 2]), run.capture.state([0, 1, 2])
    images = run.avatar.render(cameras, states).rgb
    assert torch.equal(images[2], run.avatar.render(cameras[2], states[2]).rgb)
    assert torch.equal(run.avatar.render(cameras[0], states).rgb[1], run.avatar.render(cameras[0], states[1]).rgb)
    assert torch.equal(run.avatar.render(cameras, states[0]).rgb[1], run.avatar.render(cameras[1], states[0]).rgb)
    assert run.evaluate("test")["frames"] == 1

    avatar = hf.load_avatar(out)
    again = hf.data.load_capture(folder, avatar=avatar)
    assert again.mouth == run.capture.mouth == "interior"
    assert torch.equal(avatar.render(again.camera([0]), again.state([0])).rgb, run.render(0).rgb)
    assert run.trainer(bar=False).fit(steps=2, resume=True).step == 2
