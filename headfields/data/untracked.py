"""Untracked recordings: images, mattes, labels and landmarks without meshes, and perhaps without cameras."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.frame_indices import Frames, frame_index, frame_indices
from headfields.data.ibug_landmarks import ibug_points
from headfields.records import Camera

__all__ = ["UntrackedRecording", "is_untracked"]

RECORDING_FILE = "recording.json"
JOINED_FILE = "cameras.json"
"""File of a folder whose folders are the recordings of single cameras."""
_KEPT = 16  # decoded images in memory


@dataclass(frozen=True)
class UntrackedRecording:
    """A recording without tracked meshes, from one or several cameras, as trackers read it
    (`headfields.apps.tracking.frame_source.FrameSource`).

    `headfields capture` makes one from a video or a folder of images; readers of layouts that have images and cameras
    but no meshes return one.

    Attributes:
        name: for messages and folders.
        size: (height, width) of every image, pixels.
        frame_names: one name per frame, for messages.
        decode_image: frame → RGBA (H, W, 4) uint8, straight alpha, the matte in alpha.
        decode_label: frame → labels (H, W) uint8 in INSTA's numbering, or None.
        decode_landmarks: frame → landmarks (68, 2) in iBUG's order or (478, 2) of MediaPipe, pixels, NaN where unknown,
            or None.
        intrinsics: (F, 3, 3) or (1, 3, 3) for all frames, pixels; None if the focal length is unknown.
        world_to_camera: (F, 4, 4), OpenCV axes; None if the head's pose is unknown. Trackers do not read it.
        center: principal point (x, y) where `intrinsics` is None; the middle of the image if None. A cropped image has
            another one.
        default_focal: focal length in pixels that is taken where the frames do not determine it.
        failed: why frames cannot be used, by index.
        cuts: frames before which another shot begins.
        own_splits: split name → frame indices; "train" has all frames if None.
        report: lines on what was decided when the recording was made.
        others: recordings of the same moments, frame by frame, from other cameras. Each of them, and this one, knows
            its intrinsics and its camera's pose, in one space, meters; the head's pose in it is unknown.
    """

    name: str
    size: tuple[int, int]
    frame_names: list[str]
    decode_image: Callable[[int], UInt8[np.ndarray, "h w 4"]]
    decode_label: Callable[[int], UInt8[np.ndarray, "h w"] | None]
    decode_landmarks: Callable[[int], Float[np.ndarray, "l 2"] | None]
    intrinsics: Float[np.ndarray, "k 3 3"] | None = None
    world_to_camera: Float[np.ndarray, "f 4 4"] | None = None
    center: tuple[float, float] | None = None
    default_focal: float | None = None
    failed: Mapping[int, str] = field(default_factory=dict)
    cuts: Sequence[int] = ()
    own_splits: Mapping[str, Sequence[int]] | None = None
    report: Sequence[str] = ()
    others: tuple["UntrackedRecording", ...] = ()

    def __post_init__(self) -> None:
        count = len(self.frame_names)
        for key, shape in (("intrinsics", (3, 3)), ("world_to_camera", (4, 4))):
            value = getattr(self, key)
            if value is None:
                continue
            rows = (count, 1) if key == "intrinsics" else (count,)
            if value.shape[1:] != shape or len(value) not in rows:
                raise CaptureError(
                    f"{self.name}: {key} has shape {value.shape}; expected ({count}, {shape[0]}, {shape[1]})"
                )
            if not np.isfinite(value).all():
                raise CaptureError(f"{self.name}: {key} holds a value that is not finite")
        for other in self.others:
            if len(other) != count:
                raise CaptureError(
                    f"{other.name} has {len(other)} frames and {self.name} {count}; cameras of one recording are "
                    "synchronized, with a frame each of every moment"
                )
        for camera in self.cameras if self.others else ():
            if camera.intrinsics is None or camera.world_to_camera is None:
                raise CaptureError(
                    f"{camera.name} has no {'intrinsics' if camera.intrinsics is None else 'camera pose'}; several "
                    "cameras need a calibration"
                )
        # An instance's own cache: trackers read a frame's image and matte several times in a row.
        object.__setattr__(self, "_image", functools.lru_cache(maxsize=_KEPT)(self._decoded))

    def __len__(self) -> int:
        return len(self.frame_names)

    @property
    def cameras(self) -> tuple["UntrackedRecording", ...]:
        """The recordings of all cameras, this one first."""
        return (self, *self.others)

    def camera_in_first(self, other: "UntrackedRecording", frame: int) -> Float[np.ndarray, "4 4"]:
        """The transform from this camera's space to another's at a frame; the identity for this one."""
        if other is self:
            return np.eye(4)
        assert self.world_to_camera is not None and other.world_to_camera is not None
        placed: np.ndarray = other.world_to_camera[frame] @ np.linalg.inv(self.world_to_camera[frame])
        return placed

    @property
    def splits(self) -> dict[str, Tensor]:
        """Split name → frame indices, as of a capture."""
        own = {"train": range(len(self))} if self.own_splits is None else self.own_splits
        return {name: torch.tensor(list(rows), dtype=torch.int64) for name, rows in own.items()}

    @property
    def principal_point(self) -> tuple[float, float]:
        """(x, y) in pixels: of the intrinsics, else `center`, else the middle of the image."""
        if self.intrinsics is not None:
            return float(self.intrinsics[0, 0, 2]), float(self.intrinsics[0, 1, 2])
        return (self.size[1] / 2, self.size[0] / 2) if self.center is None else self.center

    def with_focal(self, focal: float) -> "UntrackedRecording":
        """The recording with one focal length, pixels, in place of its intrinsics."""
        if not 0 < focal < float("inf"):
            raise ValueError(f"UntrackedRecording.with_focal: focal is {focal}; expected a positive number of pixels")
        x, y = self.principal_point
        matrix = np.array([[[focal, 0, x], [0, focal, y], [0, 0, 1]]], np.float64)
        return dataclasses.replace(self, intrinsics=matrix)

    def camera(self, frames: Frames) -> Camera:
        """Cameras of B frames; at the origin where the head's pose is unknown.

        Raises:
            CaptureError: the focal length is unknown.
            IndexError: a frame is out of range.
        """
        rows = frame_indices(frames, len(self), self.name)
        if self.intrinsics is None:
            raise CaptureError(
                f"{self.name}: the focal length is unknown; pass one in pixels (with_focal, --focal), or let "
                "headfields capture estimate it"
            )
        lens = self.intrinsics if len(self.intrinsics) == len(self) else self.intrinsics[[0] * len(self)]
        eye = np.eye(4)[None].repeat(len(self), 0) if self.world_to_camera is None else self.world_to_camera
        return Camera(
            torch.from_numpy(eye[rows]).float().reshape(-1, 4, 4),
            torch.from_numpy(lens[rows]).float().reshape(-1, 3, 3),
            self.size,
        )

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """Color and matte, straight alpha, sRGB in [0, 1]; raises CaptureError if the frame cannot be used."""
        return torch.from_numpy(self._image(self._usable(frame))).float() / 255  # type: ignore[attr-defined]

    def label(self, frame: int) -> UInt8[Tensor, "h w"] | None:
        """Segmentation labels in INSTA's numbering, or None."""
        label = self.decode_label(self._usable(frame))
        return None if label is None else torch.from_numpy(np.ascontiguousarray(label))

    def landmarks(self, frame: int) -> Float[Tensor, "68 2"] | None:
        """68 landmarks in pixels, iBUG's order, NaN where unknown, or None."""
        points = self.decode_landmarks(self._usable(frame))
        if points is None:
            return None
        return torch.from_numpy(ibug_points(points, self.frame_names[frame]))

    def _decoded(self, frame: int) -> UInt8[np.ndarray, "h w 4"]:
        image = self.decode_image(frame)
        if image.shape != (*self.size, 4) or image.dtype != np.uint8:
            raise CaptureError(
                f"{self.frame_names[frame]}: image has shape {image.shape} and dtype {image.dtype}; expected "
                f"{(*self.size, 4)}, uint8"
            )
        return image

    def _usable(self, frame: int) -> int:
        index = frame_index(frame, len(self), self.name)
        if index in self.failed:
            raise CaptureError(self.failed[index])
        return index


def is_untracked(folder: Path) -> bool:
    """Whether the folder has a recording as `headfields capture` writes it (`apps/capturing/recording_files.py`)."""
    return (folder / RECORDING_FILE).is_file() or (folder / JOINED_FILE).is_file()
