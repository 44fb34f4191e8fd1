"""Frames of videos, turned and sub-sampled, and of folders; files that are neither."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from headfields.apps.capturing.video import open_video
from headfields.data.errors import CaptureError
from headfields.viz import write_video
from tests.data.recorded import HEIGHT, WIDTH, drawn_frame


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, [drawn_frame(index)[0] for index in range(12)], fps=25)


def test_a_video_is_read_frame_by_frame(video):
    source = open_video(video)
    frames = list(source)
    assert source.size == (HEIGHT, WIDTH) and source.rate == 25
    assert [frame.index for frame in frames] == list(range(12))
    assert frames[3].name == "frame 3 (0.12 s)" and frames[3].stem == "00003"
    assert np.abs(frames[5].rgb.astype(int) - drawn_frame(5)[0]).mean() < 6


def test_sub_sampling(video):
    assert [frame.index for frame in open_video(video, every=5)] == [0, 5, 10]
    assert [frame.index for frame in open_video(video, rate=10)] == [0, 3, 5, 8, 10]
    assert [frame.index for frame in open_video(video, rate=100)] == list(range(12))
    assert [frame.index for frame in open_video(video, every=2, limit=3)] == [0, 2, 4]
    assert len(list(open_video(video))) == len(list(open_video(video)))
    for wrong in ({"every": 0}, {"rate": 0.0}, {"limit": -1}):
        with pytest.raises(ValueError, match=f"open_video: {next(iter(wrong))} is"):
            open_video(video, **wrong)


def test_the_rotation_in_the_metadata_is_honoured(video, tmp_path):
    """A phone stores a portrait video lying down, and says so."""
    turned = tmp_path / "turned.mp4"
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run(
        [program, "-loglevel", "error", "-display_rotation", "90", "-i", str(video), "-c", "copy", str(turned)],
        check=True,
    )
    source = open_video(turned)
    frame = next(iter(source))
    assert source.size == (WIDTH, HEIGHT)
    upright = np.rot90(drawn_frame(0)[0])
    assert np.abs(frame.rgb.astype(int) - upright).mean() < 6


def test_a_folder_is_read_in_natural_order(tmp_path):
    for index in (10, 2, 1):
        image, matte, _ = drawn_frame(index)
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(np.dstack([image, matte])).save(tmp_path / "frames" / f"{index}.png")
    (tmp_path / "frames" / "notes.md").write_text("not an image")
    frames = list(open_video(tmp_path))
    assert [frame.stem for frame in frames] == ["1", "2", "10"]
    assert np.array_equal(frames[1].rgb, drawn_frame(2)[0]) and np.array_equal(frames[1].alpha, drawn_frame(2)[1])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_turned_as_viewers_show_them(orientation, tmp_path):
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "0.png", exif=exif)
    frame = next(iter(open_video(tmp_path)))
    # The first stored pixel is at the upper left, lower right, upper right, lower left.
    corner = {1: (0, 0), 3: (3, 5), 6: (0, 3), 8: (5, 0)}[orientation]
    assert frame.fault is None and frame.rgb.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))
    assert np.argwhere(frame.rgb[..., 0]).tolist() == [list(corner)]


def test_bad_sources_are_named(video, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptureError, match="has no images"):
        open_video(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        open_video(tmp_path / "none.mp4")
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"no video" * 400)
    with pytest.raises(CaptureError, match=r"noise\.mp4 cannot be decoded as a video"):
        open_video(noise)
    head = tmp_path / "head.mp4"  # the index of an mp4 is at its end
    head.write_bytes(video.read_bytes()[:800])
    with pytest.raises(CaptureError, match=r"head\.mp4 cannot be decoded"):
        open_video(head)
    sizes = tmp_path / "sizes"
    sizes.mkdir()
    Image.new("RGB", (64, 64)).save(sizes / "0.png")
    Image.new("RGB", (64, 32)).save(sizes / "1.png")
    (sizes / "2.png").write_bytes(b"no image")
    first, second, third = open_video(sizes)
    assert first.fault is None and not second.rgb.any()
    assert "frame 1 (1.png) is 64x32 pixels and the others 64x64" in second.fault
    assert "frame 2 (2.png)" in third.fault and "is not a readable image" in third.fault


def test_what_ffmpeg_would_stretch_or_hold_still_is_no_video(video, tmp_path):
    wide, tall = tmp_path / "wide.ts", tmp_path / "tall.ts"
    for path, size in ((wide, "64x36"), (tall, "36x64")):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", f"testsrc=size={size}"]
        subprocess.run([*command, "-frames:v", "3", "-c:v", "libx264", str(path)], check=True)
    both = tmp_path / "both.ts"
    both.write_bytes(wide.read_bytes() + tall.read_bytes())
    with pytest.raises(CaptureError, match=r"both\.ts changes the size of its frames, which begin with 64x36 pixels"):
        open_video(both)
    assert len(list(open_video(tall))) == 3
    picture, drawing, playlist = (tmp_path / name for name in ("picture.mp4", "drawing.mp4", "list.mp4"))
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"></svg>')
    playlist.write_text(f"ffconcat version 1.0\nfile {video.name}\n")
    (tmp_path / video.name).write_bytes(video.read_bytes())
    for path, words in ((picture, "a single file of png"), (drawing, "no video"), (playlist, "a list of other files")):
        with pytest.raises(CaptureError, match=rf"{path.name}.*{words}|{path.name} cannot be decoded"):
            open_video(path)


def test_the_size_is_that_of_most_images_and_opaque_alpha_is_no_matte(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    Image.new("RGBA", (32, 32)).save(tmp_path / "1.png")
    for index in (2, 3):
        Image.new("RGBA", (48, 32), (9, 9, 9, 255 if index == 2 else 254)).save(tmp_path / f"{index}.png")
    source = open_video(tmp_path)
    assert source.size == (32, 48)
    broken, other, opaque, cut_out = source
    assert broken.fault and "frame 1 (1.png) is 32x32 pixels and the others 48x32" in other.fault
    assert opaque.alpha is None and opaque.fault is None and int(cut_out.alpha.min()) == 254


def test_a_video_that_is_cut_short_is_read_and_said(tmp_path):
    """With its index in front, as ffmpeg's faststart puts it."""
    path = tmp_path / "whole.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), np.uint8)
    writer = imageio_ffmpeg.write_frames(
        str(path), (128, 96), fps=25, macro_block_size=1, output_params=["-movflags", "+faststart"]
    )
    writer.send(None)
    for image in noise:
        writer.send(image)
    writer.close()
    whole = open_video(path)
    assert whole.announced == 40 and whole.line_if_cut_short([frame.index for frame in whole][-1]) is None
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_video(cut)
    last = [frame.index for frame in source][-1]
    assert 5 < last < 28
    assert f"cut.mp4 breaks off after frame {last} of about 40" in source.line_if_cut_short(last)
    assert open_video(cut, limit=3).line_if_cut_short(2) is None
