"""One function behind the command: the same bits; a run opened again renders, is measured and goes on."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import headfields as hf
from headfields.cli import main
from headfields.data.formats.insta_writer import write_insta
from headfields.training.train_preset import train
from tests.data.tiny import blob, tiny_frames

SIZES = {"levels": 2, "features": 2, "log2_table_size": 6, "finest_resolution": 16, "grid_resolution": 8}
NUMBERS = {"rays": 64, "samples": 0, "frames": 2}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture whose mesh has an open mouth."""
    folder = tmp_path_factory.mktemp("captures") / "tiny"
    write_insta(folder, tiny_frames(5, True), *blob(True))
    return folder


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> hf.training.opened_run.Run:
    out = tmp_path_factory.mktemp("runs") / "python"
    return train("insta", capture, out, steps=3, arguments=SIZES, device="cpu", bar=False, mouth="interior", **NUMBERS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "avatar.safetensors")


def test_command_and_python_give_the_same_bits(run, capture: Path, tmp_path: Path) -> None:
    sizes = [f"{name}={value}" for name, value in SIZES.items()]
    numbers = [word for name, value in NUMBERS.items() for word in (f"--{name}", str(value))]
    command = ["train", "insta", "--capture", str(capture), "--out", str(tmp_path / "run"), "--steps", "3"]
    assert main([*command, "--mouth", "interior", "--device", "cpu", *numbers, "--set", *sizes]) == 0
    ours, theirs = weights(run.folder.path), weights(tmp_path / "run")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_is_opened_with_its_own_options(run) -> None:
    assert run.result.step == 3 and run.step == 3 and run.config["recipe"] == "cpu"
    again = hf.load_run(run.folder.path, device="cpu")
    assert again.capture.mouth == "interior"
    assert again.avatar.template.canonical_vertices.shape == again.capture.template.canonical_vertices.shape
    frame = again.capture.splits["train"][0]
    rendering = again.render(frame)
    assert rendering.rgb.shape == (*again.capture.camera([0]).size, 3)
    assert torch.equal(rendering.rgb, run.render(frame).rgb)
    assert again.evaluate("train", frames=[0])["frames"] == 1
    assert [line["step"] for line in again.log if "psnr" in line][-1] == 3
    assert "insta" in repr(again) and "step 3" in repr(again)


def test_a_run_goes_on(run) -> None:
    trainer = hf.load_run(run.folder.path, device="cpu").trainer(bar=False)
    assert trainer.fit(steps=4, resume=True).step == 4
    more = train("insta", run.config["capture"], run.folder.path, steps=5, resume=True, bar=False, device="cpu")
    assert more.result.step == 5 and more.config["arguments"] == run.config["arguments"]


def test_a_run_of_a_trainer_of_ones_own(capture: Path, tmp_path: Path) -> None:
    source = hf.data.load_capture(capture)
    avatar = hf.models.insta(source.template, source.expression_width, **SIZES)
    trainer = hf.training.Trainer(
        avatar, source, [hf.losses.SquaredColor()], out=tmp_path / "own", rays_per_step=32, frames_per_step=1,
        bar=False, device="cpu",
    )  # fmt: skip
    trainer.fit(steps=1)
    run = hf.load_run(tmp_path / "own", device="cpu")
    assert run.render(0).rgb.isfinite().all()
    with pytest.raises(ValueError, match="whose losses and callbacks are in your script"):
        run.trainer()


REFUSED = {
    "a model": (dict(model="nsta"), ValueError, "no model 'nsta'; did you mean insta"),
    "a prior": (dict(model="mononphm"), ValueError, "train-prior"),
    "an option": (dict(ray=4), TypeError, "no option 'ray'; did you mean rays"),
    "an argument": (dict(arguments={"level": 2}), TypeError, "no argument 'level'; did you mean levels"),
    "a number": (dict(depth=-1), ValueError, "depth is -1"),
    "no end": (dict(steps=None), ValueError, "pass a limit"),
    "a recipe": (dict(model="vp360", recipe="released"), ValueError, "no recipe 'released'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_calls_are_refused(case: str, capture: Path, tmp_path: Path) -> None:
    changes, kind, message = REFUSED[case]
    call = {"model": "insta", "capture": capture, "out": tmp_path / "run", "steps": 1, "bar": False} | changes
    with pytest.raises(kind, match=message):
        train(**call)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_or_no_run(run, capture: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already; --resume continues it"):
        train("insta", capture, run.folder.path, steps=1)
    with pytest.raises(ValueError, match="mouth is 'close', and the capture is open already"):
        train("insta", hf.data.load_capture(capture), tmp_path / "run", steps=1, mouth="close")
    with pytest.raises(FileNotFoundError, match="run folder"):
        hf.load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "scans": {}}')
    with pytest.raises(ValueError, match="no run of headfields train"):
        hf.load_run(tmp_path)


def test_a_capture_is_opened_as_an_avatar_was_trained(run, capture: Path, tmp_path: Path) -> None:
    avatar = hf.load_avatar(run.folder.path)
    assert avatar.trained_on == {"head_frame": "keep", "mouth": "interior"}
    source = hf.data.load_capture(capture, avatar=avatar)
    assert source.mouth == "interior"
    assert source.state([0]).vertices.shape[1:] == avatar.template.canonical_vertices.shape
    with pytest.raises(ValueError, match="leave these out"):
        hf.data.load_capture(capture, avatar=avatar, mouth="none")
    avatar.trained_on = None
    with pytest.raises(ValueError, match="does not say how its capture was opened"):
        hf.data.load_capture(capture, avatar=avatar)
    with pytest.raises(FileNotFoundError, match="load_run opens a run before its end"):
        hf.load_avatar(tmp_path)


def test_a_trainer_takes_no_path(capture: Path) -> None:
    avatar = hf.models.insta(hf.data.load_capture(capture).template, 3, **SIZES)
    with pytest.raises(TypeError, match=r"capture is the path .*load_capture"):
        hf.training.Trainer(avatar, str(capture), [hf.losses.SquaredColor()])


def test_a_run_whose_capture_has_moved(capture: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(capture, tmp_path / "first")
    train("insta", tmp_path / "first", out, steps=1, arguments=SIZES, rays=32, bar=False)
    (tmp_path / "first").rename(moved)
    again = train("insta", moved, out, steps=2, resume=True, bar=False)
    assert again.result.step == 2 and again.config["capture"] == str(moved)
    moved.rename(tmp_path / "second")
    run = hf.load_run(out, capture=tmp_path / "second")
    assert run.trainer(bar=False).fit(steps=3, resume=True).step == 3
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "second", other)
    first, second, *_ = sorted((other / "images").iterdir())
    shutil.copy(first, second)
    with pytest.raises(ValueError, match=r"--resume: .* holds something else: a file was changed"):
        train("insta", other, out, steps=4, resume=True, bar=False)
    with pytest.raises(ValueError, match=r"load_run: .* holds something else"):
        hf.load_run(out, capture=other).trainer()
