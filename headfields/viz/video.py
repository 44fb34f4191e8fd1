"""Videos: H.264 files written frame by frame, or GIFs without ffmpeg."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def write_video(path: Path | str, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float | int = 25) -> Path:
    """Writes 8-bit RGB frames to an H.264 mp4 as they arrive; without ffmpeg, to a GIF, with a warning.

    Frames with an odd side repeat their last row or column, because H.264 in 4:2:0 needs even sides.

    Args:
        path: the file; `.gif` writes a GIF, and without ffmpeg the ending becomes `.gif`.
        frames: (H, W, 3) uint8, all of one size.
        fps: frames per second.

    Returns:
        The path written.

    Raises:
        ValueError: no frames, not (H, W, 3) uint8, frames of different sizes, or fps not positive.
    """
    path = Path(path)
    if fps <= 0:
        raise ValueError(f"write_video: fps is {fps}; expected a positive number")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("write_video: frames is empty; a video has at least one")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() != ".gif":
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            path = path.with_suffix(".gif")
            warnings.warn(f"write_video: no ffmpeg ({error}); writing {path} instead of an mp4", stacklevel=2)
    if path.suffix.lower() == ".gif":
        images = [Image.fromarray(frame) for frame in chain([first], checked)]
        images[0].save(path, save_all=True, append_images=images[1:], duration=max(1000 / fps, 20), loop=0)
        return path
    height, width = first.shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width + width % 2, height + height % 2), fps=fps, codec="libx264", quality=8, macro_block_size=2
    )
    writer.send(None)
    try:
        for frame in chain([first], checked):
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            writer.send(np.ascontiguousarray(even))
    finally:
        writer.close()
    return path


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
