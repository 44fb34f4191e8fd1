"""Reader of the layout of IMavatar and PointAvatar: `flame_params.json`, `image/`, `mask/`.

Field names and meanings are those of IMavatar's data set (Zheng et al. 2022, "I M Avatar"). The head stands still in
FLAME's frame but for its pose, four times as large as in meters; the camera's axes are OpenGL's, which the files
express by a negative focal length. The FLAME model is the user's file.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.formats.flame_frames import CameraReading, FlameFrames, coefficients, flame_recording
from headfields.data.formats.transforms import (
    FOCAL_LENGTHS,
    TransformsFrame,
    matrix_of,
    numbers_of,
    read_transforms,
    splits_from_end,
)
from headfields.data.image_files import ImageHeader, decode_image, exists, image_header
from headfields.data.recording import Recording
from headfields.heads.skinned import SkinnedHead

__all__ = ["is_imavatar", "read_imavatar"]

FILE = "flame_params.json"
_JAW = 0.2
"""Rotation of the jaw, radians, in IMavatar's canonical pose."""
_SCALE = 4.0
"""FLAME's vertices and the cameras' translations are this many times larger than in meters."""
_OLD_SIDE = 512
"""Old files give intrinsics in pixels of images of this side, told by a principal point above 1."""
_CONVENTION = "world-to-camera, OpenGL axes"


def is_imavatar(folder: Path) -> bool:
    """Whether the folder has the layout's file."""
    return exists(folder / FILE)


def read_imavatar(folder: Path, head: SkinnedHead) -> Recording:
    """Reads everything but pixels, which are decoded on demand, and decides the cameras' unit and axes.

    Args:
        folder: the folder of one sequence, with `flame_params.json`.
        head: the FLAME model that the parameters are of.

    Raises:
        CaptureError: names the frame and the field.
    """
    report: list[str] = []
    frames = [_relative(frame) for frame in read_transforms(folder / FILE)]
    if not frames:
        raise CaptureError(f"{folder / FILE}: frames is empty; a capture has at least one")
    reader = _Files(folder, frames, head)
    size = reader.check(report)
    intrinsics = np.repeat(_intrinsics(frames[0], size)[None], len(frames), axis=0)
    matrices = np.stack([matrix_of(frame, "world_mat") for frame in frames])
    scaled = matrices.copy()
    scaled[:, :3, 3] /= _SCALE
    flame = FlameFrames(
        head, [frame.where for frame in frames], reader.parameters, reader.canonical(), reader.image, size
    )
    splits = splits_from_end("load_capture", len(frames)) | {"all": list(range(len(frames)))}
    report.append(f"the layout has no splits: the last {len(splits['test'])} frames are test")
    readings = [
        CameraReading("translations are four times meters", scaled, intrinsics),
        CameraReading("translations are meters", matrices, intrinsics),
    ]
    names = [reader.image_name(index) for index in range(len(frames))]
    return flame_recording(folder, flame, names, splits, readings, _CONVENTION, report)


def _relative(frame: TransformsFrame) -> TransformsFrame:
    """The frame with `file_path` relative to the folder, also where it begins with a slash."""
    name = frame.values.get("file_path")
    return replace(frame, values={**frame.values, "file_path": name.lstrip("/")}) if isinstance(name, str) else frame


def _intrinsics(frame: TransformsFrame, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """Pixels, with positive focal lengths; their sign is that of the axes, which are told by the mattes."""
    height, width = size
    fx, fy, cx, cy = _numbers(frame, "intrinsics", 4).tolist()
    across, down = (width / _OLD_SIDE, height / _OLD_SIDE) if cy > 1 else (width, height)
    matrix = np.array([[abs(fx) * across, 0, cx * across], [0, abs(fy) * down, cy * down], [0, 0, 1]])
    low, high = FOCAL_LENGTHS[0] * max(size), FOCAL_LENGTHS[1] * max(size)
    inside = 0 <= matrix[0, 2] <= width and 0 <= matrix[1, 2] <= height
    if not (low <= matrix[0, 0] <= high and low <= matrix[1, 1] <= high and inside):
        raise CaptureError(
            f"{FILE}: intrinsics are {[fx, fy, cx, cy]}; expected -fx, fy, cx, cy in image sides (or in pixels of "
            f"{_OLD_SIDE} x {_OLD_SIDE} images), with the principal point in the image"
        )
    return matrix


def _numbers(frame: TransformsFrame, key: str, width: int | None) -> Float[Tensor, " c"]:
    return torch.from_numpy(numbers_of(frame, key, width))


class _Files:
    """Reads the files of single frames; every error names the frame and the field."""

    def __init__(self, folder: Path, frames: list[TransformsFrame], head: SkinnedHead) -> None:
        self.folder, self.frames, self.head = folder, frames, head
        self.size = (0, 0)
        self.mattes = False

    def image_name(self, index: int) -> str:
        """The image's path relative to the folder."""
        return self.frames[index].path("file_path")

    def _mask(self, index: int) -> Path:
        return self.folder / "mask" / Path(self.image_name(index)).name

    def check(self, report: list[str]) -> tuple[int, int]:
        """The (height, width) of all images; every image must exist, and every mask or none."""
        first: ImageHeader | None = None
        masks = [exists(self._mask(index)) for index in range(len(self.frames))]
        for index, frame in enumerate(self.frames):
            path = self.folder / self.image_name(index)
            if not exists(path):
                raise CaptureError(
                    f"{frame.where}: file_path {self.image_name(index)} does not exist in {self.folder}; copy it there "
                    "or remove the frame"
                )
            header = image_header(path, frame.where, "file_path", "rgba")
            first = header if first is None else first
            if header.size != first.size:
                raise CaptureError(
                    f"{frame.where}: file_path {path.name} is {header.size[1]}x{header.size[0]} pixels; expected "
                    f"{first.size[1]}x{first.size[0]} as the first image; export it again"
                )
            if any(masks) and not masks[index]:
                raise CaptureError(
                    f"{frame.where}: mask/{path.name} is missing, {sum(masks)} other frames have one; add it or remove "
                    "the frame"
                )
        assert first is not None
        self.mattes = any(masks) and not first.has_alpha
        if not any(masks) and not first.has_alpha:
            report.append("images have no alpha and there is no mask folder; the matte is 1 everywhere")
        self.size = first.size
        return first.size

    def image(self, index: int) -> np.ndarray:
        """RGBA (H, W, 4) of a frame."""
        frame = self.frames[index]
        rgba = decode_image(self.folder / self.image_name(index), frame.where, "file_path", "rgba", self.size)
        if self.mattes:
            mask = decode_image(self._mask(index), frame.where, "mask", "label", self.size)
            rgba[..., 3] = mask * 255 if mask.max(initial=0) == 1 else mask
        return rgba

    def parameters(self, index: int) -> dict[str, Tensor]:
        """The model's arguments for a frame."""
        frame, what = self.frames[index], f"{self.frames[index].where}: expression"
        expression = _numbers(frame, "expression", None)
        usual = len(_numbers(self.frames[0], "expression", None))
        if len(expression) != usual:
            raise CaptureError(f"{what} has {len(expression)} coefficients, the first frame {usual}; expected as many")
        return {
            "shape": self._shape(frame),
            "expression": coefficients(expression, self.head.expression_count, what),
            "pose": _numbers(frame, "pose", 15).reshape(1, 5, 3),
        }

    def canonical(self) -> dict[str, Tensor]:
        """The model's arguments for the canonical head."""
        pose = torch.zeros(1, 5, 3, dtype=torch.float64)
        pose[0, self.head.jaw_joint, 0] = _JAW
        return {"shape": self._shape(self.frames[0]), "pose": pose}

    def _shape(self, frame: TransformsFrame) -> Float[Tensor, "1 _"]:
        return coefficients(_numbers(frame, "shape_params", None), self.head.shape_count, f"{FILE}: shape_params")
