"""Pictures: what is drawn is where it should be."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.viz.contact_sheet import contact_sheet
from headfields.viz.images import CAPTION_HEIGHT, save_image, side_by_side, to_uint8
from headfields.viz.mesh import draw_wireframe
from headfields.viz.video import write_video
from tests.data.tiny import blob, tiny_frames


def test_contact_sheet(tmp_path: Path) -> None:
    write_insta(tmp_path / "c", tiny_frames(3), *blob())
    capture = load_capture(tmp_path / "c")
    sheet = contact_sheet(capture, frames=[0, 2], path=tmp_path / "out" / "sheet.png", tile=80)
    assert sheet.shape == (2 * (96 + CAPTION_HEIGHT), 5 * 80, 3)  # image, matte, labels, mesh, landmarks
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/sheet.png")), sheet)
    matte = sheet[CAPTION_HEIGHT : CAPTION_HEIGHT + 96, 80:160, 0] > 127
    drawn = sheet[CAPTION_HEIGHT : CAPTION_HEIGHT + 96, 240:320].astype(int)
    colored = (drawn.max(axis=-1) - drawn.min(axis=-1)) > 90  # the wireframe's blue, green and red
    assert colored.sum() > 300 and matte[colored].mean() > 0.9
    assert contact_sheet(capture, frames=[]).shape == (0, 0, 3)


def test_contact_sheet_of_a_bare_capture(tmp_path: Path) -> None:
    write_insta(tmp_path / "c", tiny_frames(3, optional=False), *blob())
    assert contact_sheet(load_capture(tmp_path / "c"), tile=40).shape == (3 * (48 + CAPTION_HEIGHT), 3 * 40, 3)


def test_faces_behind_or_turned_away_are_not_drawn() -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    pixels = torch.tensor([[2.0, 2], [2, 17], [17, 17]])
    toward, away = ((0, 1, 2), (255, 0, 0)), ((0, 2, 1), (255, 0, 0))
    assert draw_wireframe(black, pixels, torch.ones(3), [toward]).any()
    assert not draw_wireframe(black, pixels, torch.ones(3), [away]).any()
    assert not draw_wireframe(black, pixels, torch.tensor([1.0, 1, -1]), [toward]).any()


def test_to_uint8() -> None:
    assert to_uint8(torch.tensor([[-1.0, 0.5, 2.0]])).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    assert to_uint8(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])).tolist() == [[[255, 255, 255]]]  # clear over white
    assert to_uint8(torch.tensor([[[0.0, float("nan"), 0.0]]])).tolist() == [[[255, 0, 255]]]
    assert to_uint8(torch.tensor([[[9, 200, 0]]], dtype=torch.uint8)).tolist() == [[[9, 200, 0]]]
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2\)"):
        to_uint8(torch.zeros(1, 1, 2))


def test_saved_image_keeps_alpha(tmp_path: Path) -> None:
    image = torch.tensor([[[1.0, 0.0, 0.2, 0.4], [0.0, 1.0, 0.0, 0.0]]])
    path = save_image(tmp_path / "a" / "b.png", image)
    assert np.asarray(Image.open(path)).tolist() == [[[255, 0, 51, 102], [0, 255, 0, 0]]]
    assert Image.open(save_image(tmp_path / "c.jpg", image)).mode == "RGB"


def test_side_by_side() -> None:
    row = side_by_side([torch.zeros(10, 30, 3), torch.full((20, 40), 0.5)], ["left", "right"])
    assert row.shape == (20 + CAPTION_HEIGHT, 70, 3)
    assert (row[CAPTION_HEIGHT : CAPTION_HEIGHT + 10, :30] == 0).all() and (
        row[CAPTION_HEIGHT + 10 :, :30] == 255
    ).all()
    assert (row[CAPTION_HEIGHT:, 30:] == 128).all() and (row[:CAPTION_HEIGHT, :30] < 128).any()
    assert side_by_side([]).shape == (0, 0, 3)
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        side_by_side([torch.zeros(1, 1)] * 2, ["one"])


def clip(count: int, height: int = 32, width: int = 48):
    for index in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, : width // 2, index % 3] = 200
        yield frame


def test_video(tmp_path: Path) -> None:
    import imageio_ffmpeg

    path = write_video(tmp_path / "v" / "a.mp4", clip(7, 31, 47), fps=10)
    reader = imageio_ffmpeg.read_frames(str(path))
    assert next(reader)["size"] == (48, 32)
    frames = [np.frombuffer(frame, np.uint8).reshape(32, 48, 3) for frame in reader]
    assert len(frames) == 7
    for index, frame in enumerate(frames):
        left = frame[8:24, 4:20].mean(axis=(0, 1))
        assert left.argmax() == index % 3 and left.max() > 120 and frame[8:24, 30:44].max() < 60


def test_gif_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.warns(UserWarning, match="no ffmpeg"):
        path = write_video(tmp_path / "a.mp4", clip(4))
    assert path == tmp_path / "a.gif" and Image.open(path).n_frames == 4


def test_video_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames is empty"):
        write_video(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match=r"frame 1 has shape \(16, 48, 3\); the first has \(32, 48, 3\)"):
        write_video(tmp_path / "a.mp4", [*clip(1), *clip(1, height=16)])
    with pytest.raises(ValueError, match="fps is 0"):
        write_video(tmp_path / "a.mp4", clip(1), fps=0)


def test_what_side_by_side_gives_can_be_saved(tmp_path):
    import torch
    from PIL import Image

    from headfields.viz import save_image, side_by_side

    row = side_by_side([torch.zeros(4, 5, 3), torch.ones(4, 6, 3)], ["left", "right"])
    assert Image.open(save_image(tmp_path / "row.png", row)).size == (11, row.shape[0])
