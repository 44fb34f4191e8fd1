import pytest
import torch
from PIL import Image

from headfields.runs.folder import RunFolder, write_picture


def test_config_has_versions_and_comes_back(tmp_path):
    run = RunFolder(tmp_path / "a" / "run")
    run.write_config({"model": "insta", "seed": 3})
    config = RunFolder(tmp_path / "a" / "run").config()
    assert config["model"] == "insta" and config["seed"] == 3
    assert config["versions"]["torch"] == torch.__version__
    assert run.images.is_dir() and run.checkpoint.parent.is_dir()


def test_log_survives_a_line_cut_short(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_log() == []
    run.log(step=1, loss=0.5)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert [entry["step"] for entry in run.read_log()] == [1]


def test_what_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is this the --out"):
        RunFolder(tmp_path).config()
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a JSON list"):
        RunFolder(tmp_path).config()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        RunFolder(tmp_path).config()
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunFolder(tmp_path / "config.json").create()


def test_picture(tmp_path):
    image = torch.tensor([[[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]]])
    write_picture(tmp_path / "deep" / "x.png", image)
    read = Image.open(tmp_path / "deep" / "x.png")
    assert read.size == (2, 1)
    assert read.getpixel((0, 0)) == (0, 128, 255) and read.getpixel((1, 0)) == (255, 0, 64)
