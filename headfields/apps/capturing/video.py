"""Frames of a video or of a folder of images: turned as the video's metadata says, sub-sampled, in order."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headfields.data.errors import CaptureError
from headfields.data.image_files import decode_image, image_header, images_of
from headfields.data.video_frames import decoding_failure, open_stream
from headfields.files.reading import check_file

__all__ = ["SourceFrame", "VideoSource", "open_video"]

_MISSING, _MISSING_FRAMES = 0.1, 12
"""Share, and number, of announced frames that a video lacks if it is cut short; sound may be longer than pictures."""
_SAMPLE = 9
"""Images of a folder whose size is looked at when it is opened."""


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a recording, as it was taken.

    Attributes:
        index: its number in the video or folder, from 0, whatever was left out.
        name: its name in messages: "frame 12 (0.48 s)" of a video, the file name of an image.
        stem: its name without suffix, which files of detections are matched by; `"00012"` of a video.
        rgb: (H, W, 3) sRGB.
        alpha: (H, W) matte of an image file that has one, else None. Alpha that is opaque throughout is none.
        fault: why the frame cannot be decoded (it is black then); None if it can.
    """

    index: int
    name: str
    stem: str
    rgb: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None = None
    fault: str | None = None


@dataclass(frozen=True)
class VideoSource:
    """A video or a folder of images that can be read from the start any number of times.

    Attributes:
        path: the video, or the folder that the images lie in.
        size: (height, width), turned as the metadata says.
        rate: frames per second as recorded; 0 if unknown.
        every: every which frame is read.
        rate_limit: frames per second that are read, by time; None for all.
        limit: largest number of frames that are read; None for all.
        files: the images of a folder; empty for a video.
        announced: frames that a video's header announces, about; 0 if unknown. One that is cut short has fewer.
    """

    path: Path
    size: tuple[int, int]
    rate: float
    every: int = 1
    rate_limit: float | None = None
    limit: int | None = None
    files: tuple[Path, ...] = ()
    announced: int = 0

    def line_if_cut_short(self, last: int) -> str | None:
        """A line that says so, where the frame read last is far from the end that the header announces."""
        missing = self.announced - (last + self.step)
        if self.limit is not None or missing < max(_MISSING * self.announced, _MISSING_FRAMES):
            return None
        return (
            f"warning: {self.path.name} breaks off after frame {last} of about {self.announced}; what is there is "
            "used. Copy it again from the camera for the rest"
        )

    @property
    def has_alpha(self) -> bool:
        """Whether an image of the folder may have a matte; a video has none."""
        for index, file in enumerate(self.files):
            with contextlib.suppress(CaptureError):
                if image_header(file, f"frame {index}", "image", "rgba", upright=True).has_alpha:
                    return True
        return False

    @property
    def step(self) -> float:
        """Frames of the recording from one that is read to the next."""
        if self.rate_limit is None or not self.rate:
            return float(self.every)
        return max(self.rate / self.rate_limit, 1.0) * self.every

    def __iter__(self) -> Iterator[SourceFrame]:
        """Decodes one frame after another; an image that cannot be decoded, or has another size, has a `fault`.

        Raises:
            CaptureError: the video ends before its first frame.
        """
        selected = self._indices()
        following = next(selected)
        count = 0
        for index, decode in self._decoders():
            if index < following:
                continue
            yield decode()
            count += 1
            if self.limit is not None and count >= self.limit:
                return
            following = next(selected)

    def _indices(self) -> Iterator[int]:
        row = 0
        while True:
            yield int(row * self.step + 0.5)
            row += 1

    def _decoders(self) -> Iterator[tuple[int, Any]]:
        if self.files:
            for index, file in enumerate(self.files):
                yield index, lambda index=index, file=file: self._image(index, file)
            return
        for index, pixels in enumerate(_decoded(self.path)):
            time = f" ({index / self.rate:.2f} s)" if self.rate else ""
            yield (
                index,
                lambda index=index, pixels=pixels, time=time: SourceFrame(
                    index, f"frame {index}{time}", f"{index:05d}", pixels
                ),
            )

    def _image(self, index: int, file: Path) -> SourceFrame:
        where = f"frame {index} ({file.name})"
        try:
            header = image_header(file, where, "image", "rgba", upright=True)
            if header.size != self.size:
                (height, width), (rows, columns) = header.size, self.size
                raise CaptureError(
                    f"{where} is {width}x{height} pixels and the others {columns}x{rows}; write all images in one size"
                )
            rgba = decode_image(file, where, "image", "rgba", self.size, upright=True)
            alpha = rgba[..., 3] if header.has_alpha and bool((rgba[..., 3] < 255).any()) else None
        except CaptureError as error:
            return SourceFrame(index, where, file.stem, np.zeros((*self.size, 3), np.uint8), None, str(error))
        return SourceFrame(index, where, file.stem, np.ascontiguousarray(rgba[..., :3]), alpha)


def open_video(
    path: str | Path, every: int = 1, rate: float | int | None = None, limit: int | None = None
) -> VideoSource:
    """A video, or a folder of images, to read frames from.

    A folder has its images in it, or in `images/`, `frames/`, `source/` or `rgb/`, in natural order (`2.png` before
    `10.png`). Videos are decoded by ffmpeg. Both are turned as their metadata (EXIF's) says, as players and viewers do.

    Args:
        path: the file or folder.
        every: read every Nth frame (of those that `rate` leaves).
        rate: frames per second to read; of a folder, whose frames have no times, only `every` counts.
        limit: read at most this many frames.

    Raises:
        FileNotFoundError: there is no such file or folder.
        CaptureError: a folder without images, or a file that is no video; the message says why.
        ValueError: `every`, `rate` or `limit` is not positive.
    """
    path = Path(path)
    for name, value in (("every", every), ("rate", rate), ("limit", limit)):
        if value is not None and value <= 0:
            raise ValueError(f"open_video: {name} is {value}; expected a positive number")
    if path.is_dir():
        folder, files = images_of(path)
        return VideoSource(folder, _usual_size(files), 0.0, every, None, limit, tuple(files))
    check_file(path)
    stream = open_stream(path)
    with contextlib.closing(stream):
        meta = next(stream)
    width, height = meta["size"]
    fps = float(meta["fps"]) if meta.get("fps") else 0.0
    if rate is not None and not fps:
        raise CaptureError(f"{path}: the video does not say its frames per second; choose frames with every")
    announced = round(fps * float(meta.get("duration") or 0.0))
    return VideoSource(
        path, (height, width), fps, every, None if rate is None else float(rate), limit, announced=announced
    )


def _usual_size(files: Sequence[Path]) -> tuple[int, int]:
    """The (height, width) of most of a few images; those of other sizes, or unreadable, are faults of their frames.

    Raises:
        CaptureError: none of them can be read.
    """
    sizes: list[tuple[int, int]] = []
    fault: CaptureError | None = None
    for index in sorted({round(k * (len(files) - 1) / (_SAMPLE - 1)) for k in range(_SAMPLE)}):
        try:
            where = f"frame {index} ({files[index].name})"
            sizes.append(image_header(files[index], where, "image", "rgba", upright=True).size)
        except CaptureError as error:
            fault = fault or error
    if not sizes:
        assert fault is not None
        raise fault
    return max(sizes, key=sizes.count)  # the first one, if there are as many of another


def _decoded(path: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video; one that is cut short ends at its last whole frame.

    Raises:
        CaptureError: there is not a single frame.
    """
    stream = open_stream(path)
    count = 0
    with contextlib.closing(stream):
        width, height = next(stream)["size"]
        try:
            for data in stream:
                count += 1
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        except RuntimeError as error:
            if not count:
                raise CaptureError(
                    f"{path} cannot be decoded as a video ({decoding_failure(error)}); record it again"
                ) from None
    if not count:
        raise CaptureError(f"{path} has no frame that can be decoded; record it again, or pass a folder of images")
