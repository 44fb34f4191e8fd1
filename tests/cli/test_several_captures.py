"""`headfields train` with several captures: a model over people, evaluated and resumed; presets that refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.cli import main
from headfields.data.formats.insta_writer import write_insta
from headfields.training.presets import check_people, parameters_of, presets
from tests.data.tiny import blob, tiny_frames

SMALL = ["levels=2", "log2_table_size=8", "finest_resolution=32", "grid_resolution=8", "shell=0.045"]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two people on one mesh, with labels for the mouth."""
    generator = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        frames = [replace(frame, expression=torch.randn(16, generator=generator)) for frame in tiny_frames(4)]
        write_insta(tmp_path / name, frames, *blob(), test_frames=1)
    return [tmp_path / "one", tmp_path / "two"]


def test_a_model_over_people_is_trained_evaluated_and_resumed(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture, unchecked: None
) -> None:
    captures = [word for folder in folders for word in ("--capture", str(folder))]
    command = ["train", "insta", *captures, "--out", str(tmp_path / "run"), "--rays", "32", "--samples", "0"]
    command += ["--device", "cpu", "--set", *SMALL]
    assert main([*command, "--steps", "2"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["capture"] == [str(folder) for folder in folders] and config["arguments"]["people"] == 2
    assert main([*command[: -len(SMALL) - 1], "--steps", "3", "--resume"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 2
    run = hf.load_run(tmp_path / "run", device="cpu")
    assert isinstance(run.capture, hf.data.JoinedCaptures) and run.capture.identities == (0, 1) and run.step == 3
    with torch.no_grad():
        run.avatar.codes["person"].table[1] = 3.0
    state, camera = run.capture.state([0]), run.capture.camera([0])[0]
    other = run.avatar.render(camera, state.replace(identity=torch.tensor([1]))).rgb
    assert not torch.equal(run.avatar.render(camera, state).rgb, other)


def test_presets_of_one_person_refuse_by_name(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    captures = [word for folder in folders for word in ("--capture", str(folder))]
    out = tmp_path / "run"
    assert main(["train", "gaussian_avatars", *captures, "--out", str(out), "--steps", "1", "--device", "cpu"]) == 1
    assert "2 captures, and gaussian_avatars is of one person: its Gaussians have" in capsys.readouterr().err
    assert not out.exists()
    for model, function in presets().items():
        check_people(model, 1)
        if any(parameter.name == "people" for parameter in parameters_of(function)):
            check_people(model, 3)
        else:
            with pytest.raises(ValueError, match=f"3 captures, and {model} is of one person: .* insta shares its"):
                check_people(model, 3)
    assert main(["train", "insta", *captures, "--live", str(folders[0]), "--out", str(out), "--steps", "1"]) == 1
    assert "name one capture" in capsys.readouterr().err
