"""Reader of the folder that MonoNPHM's tracker takes as input: frames, matte, labels, landmarks and camera of each.

Written from the layout that the released preprocessing writes (Giebenhain et al. 2024); T frames, numbered from 0:

    {name}/source/00000.png                     color, 8 bits
    {name}/matting/00000.png                    matte, 8 bits
    {name}/seg/0.png                            labels of facer, unpadded: 0 background, 3 cloth, 14 hair, ...
    {name}/pipnet/test.npy                      (T, 98, 2) WFLW landmarks, x and y as fractions of width and height
    {name}/kpt/00000.npy                        (68, 2) iBUG landmarks in pixels; optional
    {name}/metrical_tracker/{name}/checkpoint/00000_cam_params_opencv.npz    R (1, 3, 3), t (1, 3), K (1, 3, 3)
    {name}/camera_intrinsics.txt                cx cy fx fy of the source, pixels; optional
"""

import functools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import FOCAL_LENGTHS
from headfields.data.frame_indices import Frames, frame_index, frame_indices
from headfields.data.image_files import decode_image, exists, image_header, read_numbers
from headfields.files.arrays import load_npy, load_numbers
from headfields.files.checked import checked_arrays
from headfields.files.reading import reading
from headfields.records import Camera

__all__ = ["WFLW_OF_IBUG", "MonoNPHMSequence", "is_mononphm", "load_mononphm"]

WFLW_OF_IBUG = (
    *range(0, 33, 2),  # contour, every other of 33
    *range(33, 38), *range(42, 47),  # upper edges of the brows
    *range(51, 60),  # nose
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75,  # eyes without the middles of the lids
    *range(76, 96),  # lips; 96 and 97 are the pupils
)  # fmt: skip
"""Index among WFLW's 98 landmarks of each of iBUG's 68."""
CROP = 800
"""Side, pixels, of the square around the face to which sources with known intrinsics are cropped, as published."""
_CONTOUR = 17
_BACKGROUND = (0, 20)  # 20: outside of the square that facer parses
_FARTHEST = 50.0  # meters from the camera to the head
_LARGEST = 2.0  # fraction of the image: landmarks beyond are in pixels
_INTRINSICS = "camera_intrinsics.txt"


def is_mononphm(folder: Path) -> bool:
    """Whether the folder has the input of MonoNPHM's tracker."""
    return (folder / "source").is_dir() and ((folder / "pipnet").is_dir() or (folder / "metrical_tracker").is_dir())


def load_mononphm(path: Path | str) -> "MonoNPHMSequence":
    """Opens the input folder of MonoNPHM's tracker.

    The names and the landmarks of all frames, the first frame's files and the intrinsics are checked at once, the other
    files when they are first used. `MonoNPHMSequence.validate()` checks everything.

    Args:
        path: the sequence's folder.

    Raises:
        CaptureError: the folder lacks a part, or a file is wrong; the message names it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CaptureError(f"load_mononphm: {folder} is not a folder; name the one that holds source and pipnet")
    with reading(folder, "the input of MonoNPHM's tracker", CaptureError):
        sequence = MonoNPHMSequence(folder)
        sequence.camera([0])
        return sequence


class MonoNPHMSequence:
    """Frames of the input folder of MonoNPHM's tracker, for `headfields.tracking.PriorTracker`; see `load_mononphm`.

    It has no tracked meshes, so it is no `Capture`. The world is FLAME's space, meters, y up, in which the head stands
    and the camera moves; the released tracker multiplies camera positions by 4, into the space of its networks.

    With `camera_intrinsics.txt` in the folder, frames are cropped to a square of 800 pixels around the mean of the
    landmarks, as published, moved into the image where it would stick out (the released tracker makes it smaller).
    Otherwise K is that of the camera files.

    Attributes:
        name: the folder's name.
        path: the folder.
        size: (height, width) of the frames, pixels.
        frame_names: "00000", ...
        label_names: `"facer"`, the naming of `label`'s numbers.
    """

    label_names = "facer"

    def __init__(self, folder: Path) -> None:
        self.path, self.name = folder, folder.resolve().name
        names = sorted(path.stem for path in (folder / "source").glob("*.png") if path.stem.isdecimal())
        self.frame_names = tuple(f"{frame:05d}" for frame in range(len(names)))
        missing = sorted(set(self.frame_names) - set(names))
        if missing or not names:
            first = missing[0] if missing else "00000"
            raise CaptureError(f"{folder / 'source'}: {first}.png is missing; frames are numbered from 00000 on")
        first_source = folder / "source" / "00000.png"
        self.source_size = image_header(first_source, "frame 00000", "source", "rgba").size
        self._wflw = self._read_wflw()
        self._checkpoints = self._find_checkpoints()
        self._intrinsics = self._read_intrinsics()
        height, width = self.source_size
        side = min(CROP, height, width)
        self.size = self.source_size if self._intrinsics is None else (side, side)

    def __len__(self) -> int:
        return len(self.frame_names)

    def __repr__(self) -> str:
        return f"MonoNPHMSequence({self.name!r}, {self.size[1]}x{self.size[0]} pixels, {len(self)} frames)"

    def validate(self) -> None:
        """Reads every file of every frame.

        Raises:
            CaptureError, OSError: a file is missing or wrong; the message names it.
        """
        for frame in range(len(self)):
            self.camera([frame]), self.image(frame), self.label(frame), self.landmarks(frame)

    def camera(self, frames: Frames) -> Camera:
        """The B cameras of B frames: world-to-camera, OpenCV axes, meters.

        Frame t has the camera of file max(t - 1, 0): the metrical tracker numbers from the second frame on.

        Args:
            frames: as of `Capture.camera`.

        Raises:
            IndexError: a frame is out of range.
            CaptureError, OSError: a file is missing or wrong.
        """
        indices = frame_indices(frames, len(self), f"MonoNPHMSequence {self.name!r}")
        matrices = [self._camera(frame) for frame in indices]
        views = np.stack([view for view, _ in matrices]) if matrices else np.zeros((0, 4, 4))
        intrinsics = np.stack([own for _, own in matrices]) if matrices else np.zeros((0, 3, 3))
        return Camera(torch.from_numpy(views).float(), torch.from_numpy(intrinsics).float(), self.size)

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """Color and matte (H, W, 4), straight alpha, sRGB in [0, 1]; the matte is 0 where the labels are background.

        Raises:
            IndexError: the frame is out of range.
            CaptureError, OSError: a file is missing or wrong.
        """
        frame = self._frame(frame)
        rgba = self._decoded(frame, "source", "rgba").astype(np.float32) / 255
        matte = self._decoded(frame, "matting", "label").astype(np.float32) / 255
        rgba[..., 3] = matte * ~np.isin(self._labels(frame), _BACKGROUND)
        return torch.from_numpy(self._cropped(rgba, frame))

    def label(self, frame: int) -> UInt8[Tensor, "h w"]:
        """Labels of facer (H, W).

        Raises:
            IndexError, CaptureError, OSError: as `image`.
        """
        frame = self._frame(frame)
        return torch.from_numpy(self._cropped(self._labels(frame), frame))

    def landmarks(self, frame: int) -> Float[Tensor, "68 2"] | None:
        """The 68 landmarks of iBUG (68, 2) in pixels, NaN where unknown; None for a frame in which no face was found.

        Those of WFLW at the same places; without `camera_intrinsics.txt`, the contour is that of `kpt`, if the folder
        has it, as published.

        Raises:
            IndexError, CaptureError, OSError: as `image`.
        """
        frame = self._frame(frame)
        if not self._detected[frame]:
            return None
        height, width = self.source_size
        points = self._wflw[frame, list(WFLW_OF_IBUG)] * [width, height]
        if self._intrinsics is None and (self.path / "kpt").is_dir():
            path = self.path / "kpt" / f"{self.frame_names[frame]}.npy"
            with reading(path, "landmarks of a frame", CaptureError):
                contour = checked_arrays(str(path), {"array": load_npy(path)}, {"array": "68 2"})["array"]
            if contour.any():  # zeros where no face was found
                points[:_CONTOUR] = contour[:_CONTOUR]
        return torch.from_numpy(points - self._corner(frame)).float()

    def _frame(self, frame: int) -> int:
        return frame_index(frame, len(self), f"MonoNPHMSequence {self.name!r}")

    def _decoded(self, frame: int, folder: str, kind: str) -> np.ndarray:
        name = f"{frame}.png" if folder == "seg" else f"{self.frame_names[frame]}.png"
        where = f"frame {self.frame_names[frame]}"
        return decode_image(self.path / folder / name, where, folder, kind, self.source_size)  # type: ignore[arg-type]

    def _labels(self, frame: int) -> np.ndarray:
        return self._decoded(frame, "seg", "label")

    def _cropped(self, image: np.ndarray, frame: int) -> np.ndarray:
        left, top = self._corner(frame)
        return np.ascontiguousarray(image[top : top + self.size[0], left : left + self.size[1]])

    @functools.cached_property
    def _detected(self) -> np.ndarray:
        """Whether each frame's face was found: otherwise the release writes one point 98 times."""
        known = np.isfinite(self._wflw).all(axis=2)
        spread = np.ptp(np.where(known[..., None], self._wflw, self._wflw[:, :1]), axis=1).max(axis=1)
        return known.any(axis=1) & ~(spread < 1e-6)

    def _corner(self, frame: int) -> np.ndarray:
        """Left and top of the frame's crop, pixels of the source."""
        room = np.array([self.source_size[1] - self.size[1], self.source_size[0] - self.size[0]])
        if not room.any():
            return room
        detected = np.nonzero(self._detected)[0]
        if not len(detected):
            return room // 2
        nearest = detected[np.abs(detected - frame).argmin()]
        center = np.nanmean(self._wflw[nearest], axis=0) * [self.source_size[1], self.source_size[0]]
        return np.clip(center.astype(int) - np.array([self.size[1], self.size[0]]) // 2, 0, room)

    def _camera(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        path = self._checkpoints / f"{max(frame - 1, 0):05d}_cam_params_opencv.npz"
        with reading(path, "a camera of the metrical tracker", CaptureError):
            raw = {name: _without_batch(array) for name, array in load_numbers(path).items()}
            arrays = checked_arrays(str(path), raw, {"R": "3 3", "t": "3", "K": "3 3"})
        rotation, translation = arrays["R"], arrays["t"]
        off = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if off > 1e-3 or np.linalg.det(rotation) < 0:
            raise CaptureError(f"{path}: R is no rotation (R Rᵀ is off the identity by {off:.2g})")
        if np.linalg.norm(translation) > _FARTHEST:
            raise CaptureError(f"{path}: t is {translation.tolist()}; expected meters (of the tracker, not times 4)")
        intrinsics = arrays["K"] if self._intrinsics is None else self._intrinsics.copy()
        if self._intrinsics is None:
            _check_intrinsics(intrinsics, self.source_size, f"{path}: K")
        intrinsics[:2, 2] -= self._corner(frame)
        view = np.eye(4)
        view[:3, :3], view[:3, 3] = rotation, translation
        return view, intrinsics

    def _read_wflw(self) -> np.ndarray:
        path = self.path / "pipnet" / "test.npy"
        array = load_npy(path, CaptureError)
        if array.dtype.kind != "f" or array.shape != (len(self), 98, 2):
            raise CaptureError(
                f"{path} has shape {array.shape} and dtype {array.dtype}; expected floats ({len(self)}, 98, 2), as "
                f"source has {len(self)} frames"
            )
        largest = np.abs(np.nan_to_num(array, nan=0.0)).max()
        if not largest <= _LARGEST:
            raise CaptureError(f"{path} holds {largest:g}; expected fractions of width and height, 0 to 1")
        return array.astype(np.float64)

    def _find_checkpoints(self) -> Path:
        root = self.path / "metrical_tracker"
        own = root / self.name / "checkpoint"
        places = [own] if own.is_dir() else sorted(path for path in root.glob("*/checkpoint") if path.is_dir())
        if len(places) != 1:
            shown = ", ".join(path.parent.name for path in places[:4]) or "none"
            raise CaptureError(f"{own} is not a folder, and others with a checkpoint in {root} are: {shown}")
        return places[0]

    def _read_intrinsics(self) -> np.ndarray | None:
        path = self.path / _INTRINSICS
        if not exists(path):
            return None
        values = read_numbers(path, self.name, "intrinsics").astype(np.float64)
        if len(values) < 4:
            raise CaptureError(f"{path} has {len(values)} numbers; expected cx cy fx fy (more are ignored)")
        cx, cy, fx, fy = values[:4]
        intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        _check_intrinsics(intrinsics, self.source_size, str(path))
        return intrinsics


def _without_batch(array: np.ndarray) -> np.ndarray:
    return array[0] if array.ndim > 1 and array.shape[0] == 1 else array


def _check_intrinsics(intrinsics: np.ndarray, size: tuple[int, int], where: str) -> None:
    height, width = size
    (fx, skew, cx), (turn, fy, cy), last = intrinsics
    low, high = FOCAL_LENGTHS[0] * max(size), FOCAL_LENGTHS[1] * max(size)
    if not (low <= fx <= high and low <= fy <= high) or skew or turn or np.abs(last - [0, 0, 1]).max() > 1e-6:
        raise CaptureError(
            f"{where} is {intrinsics.tolist()}; expected focal lengths of {low:g} to {high:g} pixels, no skew"
        )
    if not (0.2 * width < cx < 0.8 * width and 0.2 * height < cy < 0.8 * height):
        raise CaptureError(
            f"{where} has its principal point at ({cx:g}, {cy:g}), far from the center of a source of {width}x{height} "
            f"pixels; if the metrical tracker ran on resized images, write the source's cx cy fx fy into {_INTRINSICS}"
        )
