"""Videos: H.264 files written frame by frame, or GIFs without ffmpeg; VP9 and ProRes 4444 with transparency."""

import io
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from headfields.files.atomic import replacing, write_bytes
from headfields.files.ffmpeg import ffmpeg


def write_video(
    path: Path | str, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float | int = 25, crf: int | None = None
) -> Path:
    """Writes 8-bit RGB frames to an H.264 mp4 as they arrive; without ffmpeg, to a GIF, with a warning.

    It appears at `path` once it is whole. Frames with an odd side repeat their last row or column, because H.264 in
    4:2:0 needs even sides.

    Args:
        path: the file; `.gif` writes a GIF, and without ffmpeg the ending becomes `.gif`.
        frames: (H, W, 3) uint8, all of one size.
        fps: frames per second.
        crf: H.264's constant rate factor, 0 (lossless but for the colors' resolution) to 51; None: ffmpeg's quality 8.

    Returns:
        The path written.

    Raises:
        ValueError: no frames, not (H, W, 3) uint8, frames of different sizes, fps not positive, or crf not 0 to
            51.
        OSError: the video cannot be written; an older one at `path` stays.
    """
    path = Path(path)
    if fps <= 0:
        raise ValueError(f"write_video: fps is {fps}; expected a positive number")
    if crf is not None and not 0 <= crf <= 51:
        raise ValueError(f"write_video: crf is {crf}; expected 0 to 51")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("write_video: frames is empty; a video has at least one")
    if path.suffix.lower() != ".gif":
        try:
            ffmpeg()
        except ModuleNotFoundError as error:
            path = path.with_suffix(".gif")
            warnings.warn(f"write_video: {error}. Writing {path} instead of an mp4", stacklevel=2)
    if path.suffix.lower() == ".gif":
        images = [Image.fromarray(frame) for frame in chain([first], checked)]
        gif = io.BytesIO()
        images[0].save(gif, "GIF", save_all=True, append_images=images[1:], duration=max(1000 / fps, 20), loop=0)
        return write_bytes(path, gif.getvalue())
    rate: dict[str, Any] = {"quality": 8} if crf is None else {"quality": None, "output_params": ["-crf", str(crf)]}
    return _encoded(path, chain([first], checked), fps, {"codec": "libx264", **rate})


TRANSPARENT: dict[str, dict[str, Any]] = {
    ".webm": {"codec": "libvpx-vp9", "pix_fmt_out": "yuva420p", "quality": None,
              "output_params": ["-crf", "24", "-b:v", "0", "-auto-alt-ref", "0", "-row-mt", "1", "-cpu-used", "4"]},
    ".mov": {"codec": "prores_ks", "pix_fmt_out": "yuva444p10le", "quality": None,
             "output_params": ["-profile:v", "4444", "-alpha_bits", "16"]},
}  # fmt: skip
"""How a video with transparency is written, by the file's ending: VP9 for browsers, ProRes 4444 for editors."""


def write_transparent_video(
    path: Path | str, frames: Iterable[UInt8[np.ndarray, "h w 4"]], fps: float | int = 25
) -> Path:
    """Writes 8-bit RGBA frames to a video with transparency as they arrive: VP9 (`.webm`) or ProRes 4444 (`.mov`).

    It appears at `path` once it is whole. Frames with an odd side repeat their last row or column.

    Args:
        path: the file, which ends in `.webm` or `.mov`.
        frames: (H, W, 4) uint8 with straight alpha, all of one size.
        fps: frames per second.

    Returns:
        The path.

    Raises:
        ValueError: another ending, no frames, not (H, W, 4) uint8, frames of different sizes, or fps not positive.
        ModuleNotFoundError: there is no ffmpeg.
        OSError: the video cannot be written; an older one at `path` stays.
    """
    path = Path(path)
    if path.suffix.lower() not in TRANSPARENT:
        raise ValueError(f"write_transparent_video: {path.name} ends in {path.suffix!r}; expected .webm or .mov")
    if fps <= 0:
        raise ValueError(f"write_transparent_video: fps is {fps}; expected a positive number")
    checked = _checked(frames, 4, "write_transparent_video")
    first = next(checked, None)
    if first is None:
        raise ValueError("write_transparent_video: frames is empty; a video has at least one")
    ffmpeg()
    return _encoded(path, chain([first], checked), fps, {**TRANSPARENT[path.suffix.lower()], "pix_fmt_in": "rgba"})


def _encoded(path: Path, frames: Iterable[np.ndarray], fps: float | int, options: dict[str, Any]) -> Path:
    """Sends frames of one size to ffmpeg, their sides made even."""
    program = ffmpeg()
    iterator = iter(frames)
    first = next(iterator)
    height, width = first.shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))
    size = (width + width % 2, height + height % 2)
    with replacing(path) as temporary:
        writer = program.write_frames(
            str(temporary), size, fps=fps, macro_block_size=2, ffmpeg_log_level="error", **options
        )
        writer.send(None)
        sent = 0
        try:
            for frame in chain([first], iterator):
                pixels = np.ascontiguousarray(np.pad(frame, even, mode="edge"))
                try:
                    writer.send(pixels)
                except OSError:  # it shows ffmpeg's command line, and no reason
                    raise _stopped(path) from None
                sent += 1
        finally:
            writer.close()
        try:
            written = program.count_frames_and_secs(str(temporary))[0]
        except RuntimeError as error:
            raise _stopped(path) from error
        if written != sent:  # ffmpeg may stop after the last frame was sent, without a word
            raise _stopped(path)
    return path


def _stopped(path: Path) -> OSError:
    return OSError(f"write_video: {path} cannot be written: ffmpeg stopped in the middle; is the disk full?")


def _checked(frames: Iterable[np.ndarray], channels: int = 3, op: str = "write_video") -> Iterator[np.ndarray]:
    size = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != channels:
            remedy = " (headfields.viz.images.to_uint8 converts)" if channels == 3 else ""
            raise ValueError(
                f"{op}: frame {index} has shape {frame.shape} and dtype {frame.dtype}; expected (H, W, {channels}) "
                f"uint8{remedy}"
            )
        size = size or frame.shape
        if frame.shape != size:
            raise ValueError(f"{op}: frame {index} has shape {frame.shape}; the first has {size}")
        yield frame
