"""Videos: H.264 files written frame by frame, or GIFs without ffmpeg."""

import io
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from headfields.files.atomic import replacing, write_bytes


def write_video(path: Path | str, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float | int = 25) -> Path:
    """Writes 8-bit RGB frames to an H.264 mp4 as they arrive; without ffmpeg, to a GIF, with a warning.

    It appears at `path` once it is whole. Frames with an odd side repeat their last row or column, because H.264 in
    4:2:0 needs even sides.

    Args:
        path: the file; `.gif` writes a GIF, and without ffmpeg the ending becomes `.gif`.
        frames: (H, W, 3) uint8, all of one size.
        fps: frames per second.

    Returns:
        The path written.

    Raises:
        ValueError: no frames, not (H, W, 3) uint8, frames of different sizes, or fps not positive.
        OSError: the video cannot be written; an older one at `path` stays.
    """
    path = Path(path)
    if fps <= 0:
        raise ValueError(f"write_video: fps is {fps}; expected a positive number")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("write_video: frames is empty; a video has at least one")
    if path.suffix.lower() != ".gif":
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            path = path.with_suffix(".gif")
            warnings.warn(f"write_video: no ffmpeg ({error}); writing {path} instead of an mp4", stacklevel=2)
    if path.suffix.lower() == ".gif":
        images = [Image.fromarray(frame) for frame in chain([first], checked)]
        gif = io.BytesIO()
        images[0].save(gif, "GIF", save_all=True, append_images=images[1:], duration=max(1000 / fps, 20), loop=0)
        return write_bytes(path, gif.getvalue())
    height, width = first.shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))
    size = (width + width % 2, height + height % 2)
    with replacing(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), size, fps=fps, codec="libx264", quality=8, macro_block_size=2, ffmpeg_log_level="error"
        )
        writer.send(None)
        sent = 0
        try:
            for frame in chain([first], checked):
                pixels = np.ascontiguousarray(np.pad(frame, even, mode="edge"))
                try:
                    writer.send(pixels)
                except OSError:  # it shows ffmpeg's command line, and no reason
                    raise _stopped(path) from None
                sent += 1
        finally:
            writer.close()
        try:
            written = imageio_ffmpeg.count_frames_and_secs(str(temporary))[0]
        except RuntimeError as error:
            raise _stopped(path) from error
        if written != sent:  # ffmpeg may stop after the last frame was sent, without a word
            raise _stopped(path)
    return path


def _stopped(path: Path) -> OSError:
    return OSError(f"write_video: {path} cannot be written: ffmpeg stopped in the middle; is the disk full?")


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    size = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(
                f"write_video: frame {index} has shape {frame.shape} and dtype {frame.dtype}; expected (H, W, 3) uint8 "
                "(headfields.viz.images.to_uint8 converts)"
            )
        size = size or frame.shape
        if frame.shape != size:
            raise ValueError(f"write_video: frame {index} has shape {frame.shape}; the first has {size}")
        yield frame
