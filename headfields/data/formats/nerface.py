"""Reader of NeRFace's data sets (Gafni et al. 2021, "Dynamic Neural Radiance Fields for Monocular 4D Facial Avatar
Reconstruction").

    transforms_train.json  transforms_val.json  transforms_test.json
        intrinsics [fx, fy, cx, cy]    focal lengths in pixels, of either sign; the principal point in image sides
        camera_angle_x                 radians, where there are no intrinsics
        frames: file_path (without .png), transform_matrix (camera to world, OpenGL axes), expression (76), and perhaps
                bbox [top, bottom, left, right] of the head, in image sides
    train/f_0000.png ...

There are no meshes, and the expressions are of a face model that is not published, so no head can be posed by them.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import (
    FOCAL_LENGTHS,
    TransformsFrame,
    matrix_of,
    numbers_of,
    read_frames,
    read_transforms,
)
from headfields.data.image_files import ImageHeader, decode_image, exists, image_header
from headfields.data.untracked import UntrackedRecording
from headfields.files.reading import reading
from headfields.records.opengl_axes import flip_y_z

__all__ = ["NeRFaceRecording", "is_nerface", "load_nerface"]

_LARGEST = 1e4
"""Largest coefficient of an expression."""


@dataclass(frozen=True)
class NeRFaceRecording(UntrackedRecording):
    """An untracked recording with NeRFace's expressions. Its cameras carry the head's pose, in a unit of their own.

    Attributes:
        expression: (F, 76), coefficients of NeRFace's face model.
        boxes: (F, 4) top, bottom, left and right of the head, pixels; None if the files have none.
    """

    expression: Float[np.ndarray, "f e"] | None = None
    boxes: Float[np.ndarray, "f 4"] | None = None


def is_nerface(folder: Path) -> bool:
    """Whether the folder has a transforms file whose frames have expressions, and neither meshes nor FLAME."""
    for split in ("_train", "_test", "_val", ""):
        path = folder / f"transforms{split}.json"
        if path.is_file():
            first = read_transforms(path)[:1]
            return any(
                isinstance(frame.values.get("expression"), list)
                and not {"mesh_path", "flame_param_path"} & frame.values.keys()
                for frame in first
            )
    return False


def load_nerface(path: Path | str) -> NeRFaceRecording:
    """Opens a data set of NeRFace: images, cameras and expressions, without meshes.

    JSON, matrices, expressions and the headers of all images are checked at once, pixels when they are first read.

    Args:
        path: the folder with the transforms files.

    Raises:
        CaptureError: the folder is missing or in another layout, or a file is wrong; the message names the frame and
            the field.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CaptureError(f"load_nerface: {folder} is not a folder; name the one that holds transforms_train.json")
    with reading(folder, "a data set of NeRFace", CaptureError):
        if not is_nerface(folder):
            raise CaptureError(
                f"load_nerface: {folder} has no transforms_train.json whose frames have an expression and neither "
                "mesh_path nor flame_param_path; other layouts are opened by load_capture"
            )
        return _read(folder)


def _read(folder: Path) -> NeRFaceRecording:
    report: list[str] = []
    frames, splits = read_frames(folder, report, "file_path")
    header = _checked_headers(folder, frames)
    size = header.size
    if not header.has_alpha:
        report.append("images have no alpha: there are no mattes; the head's box, if there is one, is not a matte")
    expression = np.stack([_expression(frame, frames[0]) for frame in frames])
    boxes = [_box(frame, size) for frame in frames]
    lenses = [_intrinsics(frame, size, report) for frame in frames]
    views = np.stack([_view(matrix_of(frame), signs) for frame, (_, signs) in zip(frames, lenses, strict=True)])
    if any(signs[0] * signs[1] < 0 for _, signs in lenses):
        report.append("focal lengths of opposite signs: the files' world is mirrored, and x is negated to undo that")
    report += [
        "cameras carry the head's pose; their unit is not known to be meters (NeRFace puts heads about 0.5 away)",
        f"{expression.shape[1]} expression coefficients of NeRFace's own face model: they pose no other head",
        "no meshes, landmarks and labels: INSTA, MonoAvatar, 3VP Avatar and Gaussian avatars need a tracked mesh; fit "
        "a head to the images first",
    ]
    intrinsics = np.stack([matrix for matrix, _ in lenses])

    def image(index: int) -> UInt8[np.ndarray, "h w 4"]:
        name = frames[index].path("file_path")
        return decode_image(folder / name, frames[index].where, "file_path", "rgba", size)

    return NeRFaceRecording(
        name=folder.resolve().name,
        size=size,
        frame_names=[frame.name for frame in frames],
        decode_image=image,
        decode_label=_nothing,
        decode_landmarks=_nothing,
        intrinsics=intrinsics,
        world_to_camera=views,
        own_splits=splits,
        report=report,
        expression=expression.astype(np.float32),
        boxes=None if any(box is None for box in boxes) else np.stack([box for box in boxes if box is not None]),
    )


def _nothing(frame: int) -> None:
    """The layout has none."""


def _checked_headers(folder: Path, frames: list[TransformsFrame]) -> ImageHeader:
    """The header that all images have in common."""
    first: ImageHeader | None = None
    for frame in frames:
        path = folder / frame.path("file_path")
        if not exists(path):
            raise CaptureError(
                f"{frame.where}: file_path {frame.path('file_path')!r} does not exist in {folder}; copy it there or "
                "remove the frame"
            )
        header = image_header(path, frame.where, "file_path", "rgba")
        first = header if first is None else first
        if header.size != first.size or header.has_alpha != first.has_alpha:
            raise CaptureError(
                f"{frame.where}: file_path {path.name} has {header.size[1]}x{header.size[0]} pixels and "
                f"{header.channels} channels; expected {first.size[1]}x{first.size[0]} and {first.channels} as the "
                "first: export it again"
            )
    assert first is not None  # read_frames refuses a capture without frames
    return first


def _expression(frame: TransformsFrame, first: TransformsFrame) -> Float[np.ndarray, " e"]:
    values, usual = numbers_of(frame, "expression"), len(numbers_of(first, "expression"))
    if len(values) != usual or not usual:
        raise CaptureError(
            f"{frame.where}: expression has {len(values)} numbers, the first frame {usual}; expected as many, and some"
        )
    if np.abs(values).max() > _LARGEST:
        raise CaptureError(
            f"{frame.where}: expression holds {np.abs(values).max():.3g}; expected coefficients within ±{_LARGEST:g}"
        )
    return values


def _box(frame: TransformsFrame, size: tuple[int, int]) -> Float[np.ndarray, " 4"] | None:
    """Top, bottom, left and right in pixels, or None."""
    if frame.values.get("bbox") is None:
        return None
    top, bottom, left, right = numbers_of(frame, "bbox", 4).tolist()
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise CaptureError(
            f"{frame.where}: bbox is {[top, bottom, left, right]}; expected top, bottom, left and right in image "
            "sides, 0 to 1"
        )
    return np.array([top * size[0], bottom * size[0], left * size[1], right * size[1]])


def _intrinsics(
    frame: TransformsFrame, size: tuple[int, int], report: list[str]
) -> tuple[Float[np.ndarray, "3 3"], tuple[float, float]]:
    """Pixels, with positive focal lengths, and the signs that they had."""
    height, width = size
    if frame.values.get("intrinsics"):
        fx, fy, cx, cy = numbers_of(frame, "intrinsics", 4).tolist()
        what = f"intrinsics are {[fx, fy, cx, cy]}"
    else:
        angle = frame.number("camera_angle_x")
        if not 0 < angle < math.pi:
            raise CaptureError(f"{frame.where}: camera_angle_x is {angle:g}; expected radians between 0 and pi")
        fx = fy = width / (2 * math.tan(angle / 2))
        cx = cy = 0.5
        what = f"camera_angle_x is {angle:g}"
        line = "no intrinsics: the focal length is that of camera_angle_x, and the principal point is the center"
        if line not in report:
            report.append(line)
    low, high = FOCAL_LENGTHS[0] * max(size), FOCAL_LENGTHS[1] * max(size)
    if not (low <= abs(fx) <= high and low <= abs(fy) <= high and 0 <= cx <= 1 and 0 <= cy <= 1):
        raise CaptureError(
            f"{frame.where}: {what}; expected focal lengths of {low:g} to {high:g} pixels, of either sign, and the "
            "principal point in image sides, 0 to 1"
        )
    matrix = np.array([[abs(fx), 0, cx * width], [0, abs(fy), cy * height], [0, 0, 1]])
    return matrix, (math.copysign(1.0, fx), math.copysign(1.0, fy))


def _view(pose: Float[np.ndarray, "4 4"], signs: tuple[float, float]) -> Float[np.ndarray, "4 4"]:
    """World to camera with OpenCV axes, of a camera-to-world matrix with OpenGL axes and the signs of focal lengths.

    A pixel's ray is ((u - cx) / fx, -(v - cy) / fy, -1) in the camera. Of the lens with positive focal lengths it is
    (a, b, 1), so one is the other with axes negated: two or none of them is a turn, one or three mirrors the world.
    """
    axes = flip_y_z(np.diag([*signs, 1.0, 1.0]))
    mirror = np.diag([np.linalg.det(axes[:3, :3]), 1.0, 1.0, 1.0])
    view: np.ndarray = axes @ np.linalg.inv(pose) @ mirror
    return view
