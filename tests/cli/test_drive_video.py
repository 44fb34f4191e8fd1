"""`headfields drive --video` from pictures to frames, with a stand-in for MediaPipe that reads their brightness."""

import importlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.apps.capturing.detectors import mediapipe
from headfields.apps.driving.stream import FaceStream
from headfields.apps.faces.arkit import ARKIT_NAMES
from headfields.apps.faces.lines import motion_of_lines
from headfields.apps.faces.motion import FaceMotion
from headfields.cli import main

JAW = ARKIT_NAMES.index("jawOpen")


class Brightness:
    """The jaw opens as pictures brighten; a black one shows nobody."""

    def __init__(self, model: Path) -> None:
        assert model.name == "face_landmarker.task"

    def face(self, image: np.ndarray, time: float) -> FaceMotion | None:
        if not image.any():
            return None
        shapes = torch.zeros(1, len(ARKIT_NAMES))
        shapes[0, JAW] = float(image.mean()) / 255
        still = torch.zeros(1, 3)
        return FaceMotion(torch.tensor([time], dtype=torch.float64), shapes, still, torch.zeros(1, 2, 3), still)


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that name six pictures of 25 a second, the third of them black, and the model."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, gray in enumerate((51, 102, 0, 153, 204, 255)):
        Image.new("RGB", (24, 16), (gray,) * 3).save(folder / f"{number:03d}.png")
    monkeypatch.setattr(mediapipe, "MediaPipeFaceShapes", Brightness)
    return ["--video", str(folder), "--face-landmarker", str(tmp_path / "face_landmarker.task")]


def test_every_frame_goes_into_a_file(video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "face_landmarker.task").touch()
    out = tmp_path / "take.jsonl"
    assert main(["drive", *video, "--out", str(out)]) == 0
    assert "a face in 5 of 6 frames" in capsys.readouterr().err
    motion = motion_of_lines(out.read_text())
    assert torch.allclose(motion.shapes[:, JAW], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
    assert torch.allclose(motion.times, torch.tensor([0, 1, 3, 4, 5], dtype=torch.float64) / 25)


class Clock:
    """A clock that moves when somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_frames_go_to_a_stream_in_real_time(video: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "face_landmarker.task").touch()
    jaws: list[float] = []
    clock = Clock()
    monkeypatch.setattr(importlib.import_module("headfields.cli.drive"), "time", clock)
    with FaceStream("udp://127.0.0.1:0") as stream:
        stream.on_frame = lambda: jaws.append(float(stream.latest.shapes[0, JAW]))
        assert main(["drive", str(stream.address), *video]) == 0
        end = time.monotonic() + 20
        while len(jaws) < 5 and time.monotonic() < end:
            time.sleep(0.01)
    assert capsys.readouterr().out == "5 frames sent\n" and jaws == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert clock.now == pytest.approx(5 / 25), "it waits for each frame's time"


def test_frames_that_are_late_are_left_out(video: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "face_landmarker.task").touch()
    clock = Clock()
    seen = Brightness.face

    def slow(self: Brightness, image: np.ndarray, due: float) -> FaceMotion | None:
        clock.now += 0.1  # a landmarker that takes two and a half frames
        return seen(self, image, due)

    monkeypatch.setattr(Brightness, "face", slow)
    monkeypatch.setattr(importlib.import_module("headfields.cli.drive"), "time", clock)
    with FaceStream("udp://127.0.0.1:0") as stream:
        assert main(["drive", str(stream.address), *video]) == 0
    assert "a face in 2 of 3 frames" in capsys.readouterr().err


def test_nobody_in_a_video_is_no_file(video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "face_landmarker.task").touch()
    for path in (tmp_path / "pictures").iterdir():
        Image.new("RGB", (24, 16)).save(path)
    assert main(["drive", *video, "--out", str(tmp_path / "take.jsonl")]) == 1
    assert "there is no frame with a face" in capsys.readouterr().err
    assert not (tmp_path / "take.jsonl").exists()
