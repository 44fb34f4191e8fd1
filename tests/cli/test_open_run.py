"""Commands open a capture as training did, and pass refinement options on."""

import json

import pytest

import headfields.data
from headfields.cli import main, open_run
from headfields.data.formats.insta_writer import write_insta
from headfields.training import evaluation
from tests.cli.test_cli import run, world  # noqa: F401  (fixtures)
from tests.data.tiny import blob, tiny_frames


@pytest.fixture
def calls(world, monkeypatch):  # noqa: F811
    """The calls of `load_capture`; the capture named other has its head's motion removed."""
    requests = []
    plain = headfields.data.load_capture

    def load_capture(path, memory_budget_mb, head_frame, mouth):
        requests.append((path.name, head_frame))
        return plain(path, memory_budget_mb, head_frame, mouth)

    monkeypatch.setattr(headfields.data, "load_capture", load_capture, raising=False)
    world["other"].head_frame = object()
    world["other"].report = ["head pose: taken out of the vertices, where the head moves by 9 degrees"]
    return requests


def test_a_run_remembers_how_its_capture_was_opened(calls, tmp_path, capsys):
    for name, decision in (("disc", "keep"), ("other", "normalize")):
        out = str(tmp_path / name)
        assert main(["train", "disc", "--capture", name, "--out", out, "--steps", "2", "--rays", "16"]) == 0
        assert json.loads((tmp_path / name / "config.json").read_text())["head_frame"] == decision
        err = capsys.readouterr().err
        assert err.count("head pose: taken out of the vertices") == (name == "other")
        assert main(["train", "disc", "--capture", name, "--out", out, "--steps", "3", "--resume"]) == 0
        assert main(["evaluate", out, "--limit", "1"]) == 0
        assert main(["evaluate", out, "--limit", "1", "--capture", "disc"]) == 0
        assert calls == [(name, "auto"), (name, decision), (name, decision), ("disc", "auto")]
        calls.clear()


def test_a_run_keeps_its_mouth(world, monkeypatch, tmp_path, capsys):  # noqa: F811
    calls, plain = [], headfields.data.load_capture

    def load_capture(path, mouth, **options):
        calls.append(mouth)
        return plain(path, mouth=mouth, **options)

    monkeypatch.setattr(headfields.data, "load_capture", load_capture)
    train = ["train", "disc", "--capture", "disc", "--out", str(tmp_path), "--rays", "16", "--steps"]
    assert main([*train, "2", "--mouth", "interior"]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["mouth"] == "interior"
    assert main([*train, "3", "--resume"]) == 0
    assert main(["evaluate", str(tmp_path), "--limit", "1", "--capture", "other"]) == 0
    assert calls == ["interior"] * 3
    assert main([*train, "4", "--resume", "--mouth", "close"]) != 0
    assert "trained with mouth 'interior', not 'close'" in capsys.readouterr().err


def test_runs_without_head_frame_opened_their_capture_as_on_disk(calls):
    assert open_run.head_frame({}) == "keep"
    assert open_run.capture_of({"capture": "disc"}, None, 10).name == "disc" and calls == [("disc", "keep")]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], False),
        (["--refine"], {"expression": False}),
        (["--refine", "--refine-expression"], {"expression": True}),
        (["--refine-expression"], {"expression": True}),
    ],
)
def test_refine_is_passed_on(run, monkeypatch, capsys, flags, expected):  # noqa: F811
    options_passed = {}

    def evaluate(avatar, capture, **options):
        options_passed.update(options)
        return {"psnr": 20.0, "per_frame": []}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    assert main(["evaluate", str(run), *flags]) == 0
    assert options_passed["refine"] == expected and options_passed["bar"] is True
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["psnr"] == 20.0


def test_a_driver_with_an_inside_of_the_mouth_keeps_it(tmp_path) -> None:
    tiny = tmp_path / "tiny"
    write_insta(tiny, tiny_frames(3), *blob())  # a closed surface
    assert open_run.open_driver(tiny, 64, "close").mouth == "close"
    driver = open_run.open_driver(tiny, 64, "interior")
    assert driver.mouth == "none" and len(driver.template.faces)
