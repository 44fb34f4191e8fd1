"""Frames of videos by number: each video is decoded from its start, and its last frames are kept."""

import contextlib
import functools
import logging
import re
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headfields.data.errors import CaptureError
from headfields.data.image_files import exists
from headfields.files.ffmpeg import ffmpeg

__all__ = ["VIDEO_SUFFIXES", "VideoFrames", "decoding_failure", "open_stream", "video_length", "video_size"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".3gp", ".gif")
_OPEN = 8  # videos that are decoded at the same time
_KEPT = 2**26  # bytes of each one's last frames


def open_stream(path: Path) -> Generator[Any, None, None]:
    """ffmpeg's stream of a video: its first item is a dict that describes it, the others are the bytes of frames.

    Raises:
        CaptureError: it cannot be decoded, is a picture under a video's name, or its frames change their size.
    """
    program = ffmpeg()
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of every turned video
    # Frames as they are stored: without this, ffmpeg repeats and drops some to make the rate constant.
    stream = program.read_frames(str(path), output_params=["-fps_mode", "passthrough"])
    try:
        meta = next(stream)
        if not meta.get("size") or min(meta["size"]) < 1:
            raise OSError("it has no video stream")
    except (OSError, RuntimeError, StopIteration, IndexError, ValueError, KeyError) as error:
        stream.close()
        raise CaptureError(
            f"{path} cannot be decoded as a video ({decoding_failure(error)}); copy it again or convert it to H.264 in "
            "mp4, or pass a folder of images"
        ) from error
    status = path.stat()
    fault = _fault(path, tuple(meta["size"]), status.st_mtime_ns, status.st_size)
    if fault is not None:
        stream.close()
        raise CaptureError(f"{path} {fault}")
    return _chain(meta, stream)


@functools.lru_cache(maxsize=256)
def _fault(path: Path, size: tuple[int, int], changed: int, length: int) -> str | None:
    """What ffmpeg reads without a word and is no video of one size: it would stretch later frames to the first's size.

    Only keyframes are decoded, where a size may change; a filter that takes no other size than the first fails there.

    Args:
        path: the video.
        size: (width, height) of its first frame, as it is shown.
        changed, length: of the file, for the cache.
    """
    only = f"if(eq(iw,{size[0]})*eq(ih,{size[1]}),iw,-1)"
    said = subprocess.run(
        [ffmpeg().get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-skip_frame", "nokey", "-i", str(path),
         "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", f"crop=w='{only}'", "-f", "null", "-"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
    ).stderr  # fmt: skip
    container = re.search(r"^Input #0, (\S+),", said, re.MULTILINE)
    kind = container[1] if container is not None else ""
    if kind.endswith("_pipe") or kind in ("image2", "tty"):
        return f"is no video but a single file of {kind.removesuffix('_pipe')}; pass a folder of images, or a video"
    if kind in ("concat", "hls", "dash", "sdp"):
        return f"is no video but a list of other files ({kind}); pass the video itself"
    if re.search(r"Parsed_crop_0.*(size|Failed)", said):
        return (
            f"changes the size of its frames, which begin with {size[0]}x{size[1]} pixels; cut it where it changes "
            "and pass one part"
        )
    return None


def _chain(meta: dict[str, Any], stream: Any) -> Generator[Any, None, None]:
    with contextlib.closing(stream):
        yield meta
        yield from stream


def decoding_failure(error: BaseException) -> str:
    """Why ffmpeg could not decode a video: the line of its output that says so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if re.search(r"nvalid|rror|not found|no video|denied|moov", line)]
    if any("moov" in line for line in reasons):
        return "it is cut short, without its index, the moov atom"
    return (reasons[-1] if reasons else lines[-1] if lines else "no reason given")[:200]


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
    if not exists(path):
        raise CaptureError(f"{path} does not exist; copy it there")
    program = ffmpeg()
    try:
        return int(program.count_frames_and_secs(str(path))[0])
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
