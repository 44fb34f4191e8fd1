"""Frames of videos by number: each video is decoded from its start, and its last frames are kept."""

import threading
from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headfields.data.errors import CaptureError
from headfields.data.image_files import exists
from headfields.data.video import open_stream

__all__ = ["VideoFrames", "video_length", "video_size"]

_OPEN = 8  # videos that are decoded at the same time
_KEPT = 2**26  # bytes of each one's last frames


def _stream(path: Path) -> tuple[Generator[Any, None, None], tuple[int, int]]:
    """A video's stream after its description, and its (height, width)."""
    if not exists(path):
        raise CaptureError(f"{path} does not exist; copy it there")
    stream = open_stream(path)
    width, height = next(stream)["size"]
    return stream, (height, width)


def video_size(path: Path) -> tuple[int, int]:
    """(height, width) of a video's frames.

    Raises:
        CaptureError: it does not exist, or cannot be decoded.
    """
    stream, size = _stream(path)
    stream.close()
    return size


def video_length(path: Path) -> int:
    """The number of frames of a video, counted without decoding them.

    Raises:
        CaptureError: it does not exist, or cannot be read.
    """
    import imageio_ffmpeg

    if not exists(path):
        raise CaptureError(f"{path} does not exist; copy it there")
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise CaptureError(f"{path} is no video whose frames can be counted ({reason[:200]}); copy it again") from error


class _Video:
    """A video that is being decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream, (self.height, self.width) = _stream(path)
        self.following = 0
        self.kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self.room = max(_KEPT // (3 * self.width * self.height), 1)

    def close(self) -> None:
        """Ends ffmpeg."""
        self.stream.close()

    def next_frame(self) -> int:
        """Decodes one frame and returns its number."""
        try:
            data = next(self.stream)
        except (StopIteration, OSError, RuntimeError) as error:
            raise CaptureError(f"{self.path} ends after {self.following} frames; copy it again") from error
        index, self.following = self.following, self.following + 1
        self.kept[index] = np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)
        if len(self.kept) > self.room:
            self.kept.popitem(last=False)
        return index


class VideoFrames:
    """Frames of any number of videos. Reading them in order decodes each once; an earlier frame starts a video again.

    At most 8 videos are open at a time, each with an ffmpeg of its own and 64 MB of frames. Threads take turns.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _Video] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles start anew: a decoder belongs to one process."""
        return VideoFrames, ()

    def frame(self, path: Path, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """A frame of a video, sRGB.

        Raises:
            CaptureError: the video does not exist, cannot be decoded, or has fewer frames.
        """
        with self._lock:
            video = self._open.pop(path, None)
            if video is not None and index < video.following and index not in video.kept:
                video.close()
                video = None
            video = _Video(path) if video is None else video
            try:
                while index not in video.kept:
                    video.next_frame()
            except CaptureError:
                video.close()
                raise
            self._open[path] = video
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
            return video.kept[index]
