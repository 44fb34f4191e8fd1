"""The commands open a capture as training did, and hand on what is to be refined."""

import json

import pytest

import headfields.data
from headfields.cli import main, runs
from headfields.training import evaluation
from tests.cli.test_cli import run, world  # noqa: F401  (fixtures)


@pytest.fixture
def asked(world, monkeypatch):  # noqa: F811
    """What `load_capture` was asked for; the capture called other has its head's motion taken out."""
    calls = []
    plain = headfields.data.load_capture

    def load_capture(path, memory_budget_mb, head_frame, mouth):
        calls.append((path.name, head_frame))
        return plain(path, memory_budget_mb, head_frame, mouth)

    monkeypatch.setattr(headfields.data, "load_capture", load_capture, raising=False)
    world["other"].head_frame = object()
    world["other"].report = ["head pose: taken out of the vertices, where the head moves by 9 degrees"]
    return calls


def test_a_run_remembers_how_its_capture_was_opened(asked, tmp_path, capsys):
    for name, decision in (("disc", "keep"), ("other", "normalize")):
        out = str(tmp_path / name)
        assert main(["train", "disc", "--capture", name, "--out", out, "--steps", "2", "--rays", "16"]) == 0
        assert json.loads((tmp_path / name / "config.json").read_text())["head_frame"] == decision
        told = capsys.readouterr().err
        assert told.count("head pose: taken out of the vertices") == (name == "other")
        assert main(["train", "disc", "--capture", name, "--out", out, "--steps", "3", "--resume"]) == 0
        assert main(["evaluate", out, "--limit", "1"]) == 0
        assert main(["evaluate", out, "--limit", "1", "--capture", "disc"]) == 0
        assert asked == [(name, "auto"), (name, decision), (name, decision), ("disc", "auto")]
        asked.clear()


def test_a_run_keeps_its_mouth(world, monkeypatch, tmp_path, capsys):  # noqa: F811
    asked, plain = [], headfields.data.load_capture

    def load_capture(path, mouth, **options):
        asked.append(mouth)
        return plain(path, mouth=mouth, **options)

    monkeypatch.setattr(headfields.data, "load_capture", load_capture)
    train = ["train", "disc", "--capture", "disc", "--out", str(tmp_path), "--rays", "16", "--steps"]
    assert main([*train, "2", "--mouth", "interior"]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["mouth"] == "interior"
    assert main([*train, "3", "--resume"]) == 0
    assert main(["evaluate", str(tmp_path), "--limit", "1", "--capture", "other"]) == 0
    assert asked == ["interior"] * 3
    assert main([*train, "4", "--resume", "--mouth", "close"]) != 0
    assert "trained with mouth 'interior', not 'close'" in capsys.readouterr().err


def test_runs_that_do_not_say_had_their_capture_as_on_disk(asked):
    assert runs.head_frame({}) == "keep"
    assert runs.capture_of({"capture": "disc"}, None, 10).name == "disc" and asked == [("disc", "keep")]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], False),
        (["--refine"], {"expression": False}),
        (["--refine", "--refine-expression"], {"expression": True}),
        (["--refine-expression"], {"expression": True}),
    ],
)
def test_refine_is_handed_on(run, monkeypatch, capsys, flags, wanted):  # noqa: F811
    given = {}

    def evaluate(avatar, capture, **options):
        given.update(options)
        return {"psnr": 20.0, "per_frame": []}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    assert main(["evaluate", str(run), *flags]) == 0
    assert given["refine"] == wanted and given["bar"] is True
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["psnr"] == 20.0
