"""What the command line says to a mistyped word, a wrong value and a question about itself."""

import importlib
import multiprocessing
import re
import sys
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.cli import COMMANDS, main, presets
from headfields.training import presets as library
from tests.data.tiny import blob, tiny_frames
from tests.tables import table

RUN = ["--capture", "none", "--out", "RUN", "--steps", "1"]


@table(
    ("arguments", "status", "message"),
    [
        (["trian"], 2, r"no command 'trian'; did you mean train\?"),
        (["frobnicate"], 2, r"no command 'frobnicate'; there are demo, synth"),
        (["train", "insta", "--captur", "x"], 2, r"no option --captur; did you mean --capture\?"),
        (["train", "insta", "--learning_rat=3"], 2, r"did you mean --learning-rate\?"),
        (["train", "inst", *RUN], 1, r"no model 'inst'; did you mean insta\?; headfields train has .*vp360"),
        (["train", "code_widths", *RUN], 1, r"no model 'code_widths'; headfields train has flash_avatar, gaussian"),
        (["train", "mononphm"], 2, r"mononphm is not trained on a capture.*headfields train-prior.*headfields track"),
        (["train", "insta", *RUN, "--set", "levels=abc"], 1, r"insta takes a whole number for levels, not 'abc'"),
        (["train", "insta", *RUN, "--set", "levels=1e9"], 1, r"a whole number for levels"),
        (["train", "insta", *RUN, "--set", "level=9"], 1, r"no argument 'level'; did you mean levels\?; it has"),
        (["train", "insta", *RUN, "--set", "step=nan"], 1, r"a number for step"),
        (["train", "vp360", *RUN, "--set", "kind=gird"], 1, r"grid or mlp for kind"),
        (["train", "vp360", *RUN, "--set", "joints=[1,'a']"], 1, r"a list, as \[1,2\], for joints"),
        (["train", "vp360", *RUN, "--set", "weights=1"], 1, r"a tensor or a part \(in Python only\)"),
        (["train", "insta", "--capture", "x", "--out", "RUN", "--minutes", "nan"], 1, r"--minutes is nan"),
        (["train", "insta", *RUN, "--rays", "99999999999999999999"], 1, r"--rays is 9+; expected a number below 2\^63"),
        (["train", "insta", *RUN, "--port", "9"], 1, r"--port 9 does nothing without --view"),
        (["train", "insta", "--capture", "x", "--out", "RUN", "--steps", "0"], 1, r"steps is 0; expected more than 0"),
        (["render", "RUN", "--seconds", "3"], 1, r"--seconds 3.0 does nothing in --mode frames"),
        (
            ["render", "RUN", "--mode", "turntable", "--seconds", "1e9"],
            1,
            r"a video of 2.5e\+10 frames",
        ),
        (["export", "RUN", "--out", "a.glb", "--limit", "0"], 1, r"--limit is 0; expected at least 1"),
        (["export", "RUN", "--out", "a.glb", "--scale", "2"], 1, r"--scale 2.0 does nothing for mesh \(a.glb\)"),
        (["export", "RUN", "--out", "a.glb", "--fps", "9"], 1, r"--fps 9 does nothing without --motion"),
        (["train-prior", "--out", "RUN", "--minutes", "inf"], 1, r"--minutes is inf"),
        (["render", "RUN", "--scale", "nan"], 1, r"--scale is nan"),
        (["render", "RUN", "--scale", "1e12"], 1, r"--scale is 1e12|--scale is 1000000000000"),
        (["train-prior", "--out", "RUN", "--steps", "-1"], 1, r"--steps is -1; expected 0 or more"),
        (["mesh", "RUN", "--out", "a.obj", "--level", "-inf"], 1, r"--level is -inf"),
        (["synth"], 1, r"name one folder to write"),
        (["synth", "--out", "a", "--frames", "1"], 1, r"at least 3 frames"),
        (["synth", "a", "--out", "b"], 1, r"name one folder to write"),
        (["synth", "RUN", "--seed", "-1"], 1, r"--seed is -1; expected 0 or more"),
        (["synth", "RUN", "--noise-seed", "-1"], 1, r"--noise-seed is -1; expected 0 or more"),
        (["synth", "."], 1, r"error: \. is not empty and holds no capture of these arguments"),
        (["inspect", "nowhere"], 1, r"nowhere is not a folder"),
        (["drive"], 1, r"either --motion FILE or --video FILE"),
        (["drive", "--video", "a.mp4"], 1, r"--video needs --face-landmarker face_landmarker.task"),
        (["drive", "--motion", "a.csv", "--out", "b.jsonl"], 1, r"--out are for a --video"),
        (["drive", "--motion", "none.csv"], 1, r"none.csv is not a file"),
        (["render", "RUN", "--arkit", "a.json"], 1, r"--arkit a.json does nothing in --mode frames"),
        (["evaluate", "RUN", "--import"], 1, r"--import needs a file"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments, status, message) -> None:
    assert main([argument.replace("RUN", str(tmp_path / "run")) for argument in arguments]) == status
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("headfields: error: ") and re.search(message, line), line
    assert captured.out == "" and not (tmp_path / "run").exists()


def test_the_help_of_train_lists_every_preset_and_its_arguments() -> None:
    text = presets.listing()
    for name in library.presets():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name}: "))
        names = [word.partition("=")[0] for word in line.split()[1:]]
        assert set(names) == {parameter.name for parameter in library.parameters_of(getattr(hf.models, name))} - {
            "template"
        }
    fields = {"insta", "monoavatar", "vp360", "static_field"}
    gaussians = {"gaussian_avatars", "flash_avatar", "rgb_avatar"}
    assert fields | gaussians == set(library.presets()) == {line.partition(":")[0] for line in text.splitlines()}


def test_train_help_shows_the_listing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "insta: expression_width" in text and "monoavatar: frames" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(
        r"headfields (\d+\.\d+\.\d+\S*|\(a source tree that is not installed\))\n", capsys.readouterr().out
    )


def test_the_report_of_a_capture_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf.data.formats.insta_writer.write_insta(tmp_path / "tiny", tiny_frames(5, True), *blob(True))
    assert main(["inspect", str(tmp_path / "tiny"), "--decode"]) == 0
    captured = capsys.readouterr()
    assert "Capture('tiny'" in captured.out and "camera convention" in captured.out and "vertices" in captured.out
    assert "5 frames decoded" in captured.err
    mesh = next((tmp_path / "tiny").rglob("*.obj"))
    mesh.write_text("v 0 0\n")
    assert main(["inspect", str(tmp_path / "tiny"), "--decode"]) == 1
    assert mesh.name in capsys.readouterr().err


def test_no_room_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", str(tmp_path / "a"), "--frames", str(10**13), "--size", "16"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("headfields: error: out of memory")


def test_every_command_has_a_function() -> None:
    from headfields.cli import _function

    assert all(callable(_function(command)) for command in COMMANDS)


def test_parts_of_ones_own_are_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doubling_parts.py").write_text(
        "import headfields as hf\n\n\nclass Double(hf.encoders.Coordinates):\n"
        "    def forward(self, canonical, prepared):\n        return 2 * super().forward(canonical, prepared)\n"
    )

    def save() -> None:
        torch.set_num_threads(1)  # the threads of OpenMP are not there in a forked process, which would wait for them
        sys.path.insert(0, str(tmp_path))
        double = importlib.import_module("doubling_parts").Double()
        vertices, faces = blob(True)
        hf.Avatar(
            hf.deformers.NearSurface(vertices, faces), double, hf.decoders.NeRFDecoder(8),
            hf.renderers.VolumeRenderer(hf.renderers.UniformSampler(4)),
        ).save(tmp_path / "own.safetensors")  # fmt: skip

    other = multiprocessing.get_context("fork").Process(target=save)
    other.start()
    other.join()
    assert other.exitcode == 0
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = ["mesh", str(tmp_path / "own.safetensors"), "--out", str(tmp_path / "own.ply")]
    assert main(command) == 1
    assert "doubling_parts.Double" in capsys.readouterr().err
    assert main([*command, "--import", str(tmp_path / "doubling_parts.py")]) == 1
    assert "has no frame of its own" in capsys.readouterr().err  # the avatar has been read
    (tmp_path / "json.py").touch()
    assert main([*command, f"--import={tmp_path / 'json.py'}"]) == 1
    assert "another module is named json" in capsys.readouterr().err
    assert main([*command, "--import", "no_such_module"]) == 1
    assert "no_such_module: there is no such module" in capsys.readouterr().err
