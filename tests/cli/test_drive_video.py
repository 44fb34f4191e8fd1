"""`headfields drive --video` from pictures to frames, with a stand-in for MediaPipe that reads their brightness."""

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


def test_frames_go_to_a_stream_in_real_time(
    video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "face_landmarker.task").touch()
    jaws: list[float] = []
    with FaceStream("udp://127.0.0.1:0") as stream:
        stream.on_frame = lambda: jaws.append(float(stream.latest.shapes[0, JAW]))
        assert main(["drive", str(stream.address), *video]) == 0
        taken = stream.counts.taken
    sent = int(capsys.readouterr().out.split()[0])
    assert 1 <= taken <= sent <= 5 and jaws == sorted(jaws), "in order; late ones are left out"


def test_nobody_in_a_video_is_no_file(video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "face_landmarker.task").touch()
    for path in (tmp_path / "pictures").iterdir():
        Image.new("RGB", (24, 16)).save(path)
    assert main(["drive", *video, "--out", str(tmp_path / "take.jsonl")]) == 1
    assert "there is no frame with a face" in capsys.readouterr().err
    assert not (tmp_path / "take.jsonl").exists()
