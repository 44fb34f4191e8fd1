"""Training while frames arrive: they are drawn at once, more often at first, and the run resumes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.cli import main
from headfields.data.formats.insta_writer import write_insta
from headfields.data.live import LiveCapture
from headfields.training.live import LiveFrames
from tests.data.test_live import Writer
from tests.data.tiny import blob, tiny_frames
from tests.training.fakes import FakeAvatar, FakeCapture


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    write_insta(tmp_path / "whole", tiny_frames(6), *blob(), test_frames=0)
    writer = Writer(tmp_path / "whole", tmp_path / "live")
    writer.write(3)
    return writer


def drawn_from(capture: Any, monkeypatch) -> dict[int, int]:
    """How often each frame is drawn from now on."""
    counts: dict[int, int] = {}
    sample = capture.sample_pixels

    def counted(frames: Any, *arguments: Any, **options: Any) -> Any:
        for frame in frames.tolist():
            counts[frame] = counts.get(frame, 0) + 1
        return sample(frames, *arguments, **options)

    monkeypatch.setattr(capture, "sample_pixels", counted)
    return counts


def trainer_of(capture: Any, callbacks: list[Any], **options: Any) -> hf.training.Trainer:
    avatar = hf.models.insta(
        capture.template, expression_width=16 if capture.expression_width is None else capture.expression_width,
        levels=2, features=2, log2_table_size=8,
    )  # fmt: skip
    return hf.training.Trainer(
        avatar, capture, [hf.losses.HuberColor()], rays_per_step=16, frames_per_step=1, bar=False,
        callbacks=callbacks, device="cpu", **options,
    )  # fmt: skip


def test_new_frames_are_drawn_at_once_and_more_often(writer: Writer, monkeypatch) -> None:
    capture = LiveCapture(writer.folder)
    drawn = drawn_from(capture, monkeypatch)
    live = LiveFrames(every=1e-6, boost=200.0, half_life=1e6)

    class Arrival:
        """The fourth frame is written after four steps, and those drawn are counted anew."""

        def on_step(self, trainer: Any, outcome: Any) -> None:
            if trainer.progress.step == 4:
                assert set(drawn) <= {0, 1, 2}
                writer.write(4)
                drawn.clear()
                live._next = 0.0

    trainer_of(capture, [Arrival(), live]).fit(steps=24)
    assert live._joined == {3: 4} and drawn[3] >= 15  # 201 of 204, in 20 steps


def test_the_share_falls_to_that_of_the_others() -> None:
    live = LiveFrames(boost=3.0, half_life=100.0)
    live._joined = {5: 1000}
    frames = torch.tensor([4, 5])
    assert live.weights(frames, 1000).tolist() == [1.0, 4.0]
    assert live.weights(frames, 1100).tolist() == [1.0, 2.5]
    assert live.weights(frames, 3000)[1] == pytest.approx(1.0, abs=1e-5)


def test_frames_that_come_between_two_runs_are_old_ones(writer: Writer) -> None:
    capture, live = LiveCapture(writer.folder), LiveFrames()
    trainer = trainer_of(capture, [live])
    writer.write(6)
    trainer.fit(steps=3)
    assert trainer.frames.tolist() == list(range(6)) and not live._joined


def test_what_it_refuses(writer: Writer) -> None:
    with pytest.raises(ValueError, match="every"):
        LiveFrames(every=0)
    with pytest.raises(ValueError, match="boost is -1"):
        LiveFrames(boost=-1)
    trainer = hf.training.Trainer(
        FakeAvatar(), FakeCapture(), [hf.losses.HuberColor()], bar=False, callbacks=[LiveFrames()], device="cpu"
    )
    with pytest.raises(TypeError, match=r"open it with headfields\.data\.LiveCapture"):
        trainer.fit(steps=1)
    trainer = trainer_of(LiveCapture(writer.folder), [])
    with pytest.raises(ValueError, match="frames is empty"):
        trainer.take_frames(torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="a positive number for each"):
        trainer.take_frames(torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))


def test_the_command_follows_a_folder_and_resumes(writer: Writer, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("headfields.data.live.LEAST", 3)
    sizes = ["--set", "levels=2", "features=2", "log2_table_size=8", "--rays", "32", "--frames", "2"]
    run = tmp_path / "run"
    command = ["train", "insta", "--live", str(writer.folder), "--out", str(run), "--device", "cpu", *sizes]
    assert main([*command, "--steps", "2"]) == 0
    assert "waiting for 3 frames" in capsys.readouterr().err
    writer.write(6)
    assert main([*command, "--steps", "4", "--resume"]) == 0
    err = capsys.readouterr().err
    assert "4 steps" in err and "frames=" not in err  # no warning of options that differ
    hf.load_avatar(run)  # of regions that the first three frames voted for, where the six vote for others
    assert json.loads((run / "config.json").read_text())["capture"] == str(writer.folder.resolve())
    assert main([*command, "--capture", "x"]) == 1 and "name one capture" in capsys.readouterr().err
    assert main(["train", "insta", "--out", str(tmp_path / "b")]) == 1
    assert "--live DIR for one that is still being written" in capsys.readouterr().err
