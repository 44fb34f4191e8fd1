"""Reader of the layout that VHAP exports and GaussianAvatars trains on: FLAME parameters in place of meshes.

`transforms*.json` with `file_path`, `fg_mask_path` and `flame_param_path` a frame, `flame_param/*.npz` and
`canonical_flame_param.npz`. One time step may be seen by several cameras; each image is a frame of the capture. Field
names and meanings are those of VHAP's export (Qian 2024). The FLAME model is the user's file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.camera_axes import Convention
from headfields.data.errors import CaptureError
from headfields.data.formats.flame_frames import CameraReading, FlameFrames, coefficients, flame_recording, row
from headfields.data.formats.transforms import (
    TransformsFrame,
    distortion_of,
    intrinsics_of,
    matrix_of,
    read_frames,
    read_transforms,
)
from headfields.data.image_files import ImageHeader, decode_image, exists, image_header
from headfields.data.recording import Recording
from headfields.data.undistortion import Undistortion
from headfields.files.arrays import load_numbers
from headfields.files.reading import reading
from headfields.heads.skinned import SkinnedHead

__all__ = [
    "CY_BORDER",
    "LOWER",
    "OFFSETS",
    "PARAMETERS",
    "UPPER",
    "flame_arguments",
    "is_vhap",
    "read_vhap",
    "report_teeth",
    "with_open_jaw",
]

CY_BORDER = "cy_counts_from"
"""Our own key, which other readers ignore: the border of the image that `cy` counts from."""
LOWER, UPPER = "lower border", "upper border"
PARAMETERS = {"rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
"""Key and width of what every file has, in the order of FLAME's joints."""
OFFSETS = ("static_offset", "dynamic_offset")
_TEETH = 120
"""Vertices that VHAP adds to FLAME's 5,023 for two rows of teeth."""
_JAW = 0.3
"""Rotation of the jaw, radians, in the canonical pose that VHAP writes."""
_FARTHEST = 50.0  # meters from the origin to a head
_LEAST_SHIFT = 0.01  # image sides: principal points nearer to each other than this are one
_CONVENTION = "camera-to-world, OpenGL axes"


def is_vhap(folder: Path) -> bool:
    """Whether the folder has a transforms file whose frames name FLAME parameters."""
    for split in ("", "_train", "_val", "_test"):
        path = folder / f"transforms{split}.json"
        if path.is_file():
            return any("flame_param_path" in frame.values for frame in read_transforms(path)[:1])
    return False


def read_vhap(folder: Path, head: SkinnedHead, root: Path | None = None, convention: Convention = "auto") -> Recording:
    """Reads everything but pixels and parameters, which are decoded on demand, and decides axes and principal point.

    Args:
        folder: the capture's folder.
        head: the FLAME model that the parameters are of. A model of V vertices reads offsets of V vertices, of V + 120,
            whose last are the teeth that VHAP adds and which are left out, and of V - 120: a model that has the teeth,
            whose offsets are then 0.
        root: a folder that holds all files, where frames refer to sibling folders (`../OTHER/images/...`), as sets
            joined from several sequences do; None: `folder`.
        convention: of the matrices, where the user knows it.

    Raises:
        CaptureError: names the file, the frame and the field.
    """
    report: list[str] = []
    frames, splits = read_frames(folder, report, "flame_param_path", _levels(folder, root))
    header = _check_files(folder, frames, report)
    size = header.size
    matrices = np.stack([matrix_of(frame) for frame in frames])
    intrinsics = np.stack([intrinsics_of(frame, size, report) for frame in frames])
    if not header.has_alpha and "fg_mask_path" not in frames[0].values:
        report.append("images have no alpha and no fg_mask_path; the matte is 1 everywhere")
    reader = _Files(folder, frames, head, size)
    coefficients = distortion_of(frames)
    if coefficients is not None:
        if _stated_border(frames) is None:
            raise CaptureError(
                f"{frames[0].where}: the layout has lens distortion (k1, ...) and no {CY_BORDER}, so the center of the "
                f"distortion is not known; add {CY_BORDER!r}: {UPPER!r} or {LOWER!r} to the transforms files, or "
                "undistort the images"
            )
        center = _flipped(intrinsics, size) if _stated_border(frames) == LOWER else intrinsics
        reader.lens = Undistortion(center, coefficients, size, [frame.where for frame in frames])
        report.append(reader.lens.line())
    flame = FlameFrames(
        head,
        [f"{frame.where}: flame_param_path" for frame in frames],
        reader.parameters,
        reader.canonical(report),
        reader.image,
        size,
    )
    reader.report_teeth(report)
    cameras = {frame.values.get("camera_index") for frame in frames} - {None}
    if len(cameras) > 1:
        report.append(f"{len(cameras)} cameras: frames of one time step share their head")
    # VHAP counts cy from the lower border; other exporters of the layout do not, and ours says which.
    readings = [CameraReading("cy counts from the lower border", matrices, _flipped(intrinsics, size))]
    stated = _stated_border(frames)
    if stated == UPPER:
        readings = [CameraReading("cy counts from the upper border", matrices, intrinsics)]
    elif stated is None and np.abs(readings[0].intrinsics - intrinsics).max() >= _LEAST_SHIFT * max(size):
        readings.append(CameraReading("cy counts from the upper border", matrices, intrinsics))
    return flame_recording(
        folder, flame, [frame.name for frame in frames], splits, readings, _CONVENTION, report, known=convention
    )


def _stated_border(frames: list[TransformsFrame]) -> str | None:
    """The border that `cy` counts from, if the files say so."""
    for frame in frames:
        value = frame.values.get(CY_BORDER)
        if CY_BORDER in frame.values and value not in (LOWER, UPPER):
            raise CaptureError(
                f"{frame.where}: {CY_BORDER} is {str(value)[:40]!r}; expected {LOWER!r} or {UPPER!r}, or leave it out"
            )
        if value != frames[0].values.get(CY_BORDER):
            raise CaptureError(f"{frame.where}: {CY_BORDER} differs from the first frame's; expected one for all")
    return frames[0].values.get(CY_BORDER)


def _levels(folder: Path, root: Path | None) -> int:
    """How many folders up the frames' paths may lead."""
    if root is None:
        return 0
    inside, outside = folder.resolve(), Path(root).resolve()
    if outside != inside and outside not in inside.parents:
        raise CaptureError(f"load_capture: root {root} does not hold {folder}; name a folder above it")
    return len(inside.parts) - len(outside.parts)


def _check_files(folder: Path, frames: list[TransformsFrame], report: list[str]) -> ImageHeader:
    """The header that all images have in common; every named file must exist."""
    first: ImageHeader | None = None
    with_masks = sum("fg_mask_path" in frame.values for frame in frames)
    if 0 < with_masks < len(frames):
        bare = next(frame for frame in frames if "fg_mask_path" not in frame.values)
        raise CaptureError(
            f"{bare.where}: fg_mask_path is missing, {with_masks} other frames have one; add it or remove the frame"
        )
    for frame in frames:
        for key in ("file_path", "flame_param_path", *(("fg_mask_path",) if with_masks else ())):
            if not exists(folder / frame.path(key)):
                raise CaptureError(
                    f"{frame.where}: {key} {frame.path(key)!r} does not exist in {folder}; copy it there or remove the "
                    "frame"
                )
        header = image_header(folder / frame.path("file_path"), frame.where, "file_path", "rgba")
        first = header if first is None else first
        if header.size != first.size:
            raise CaptureError(
                f"{frame.where}: file_path {frame.path('file_path')} is {header.size[1]}x{header.size[0]} pixels; "
                f"expected {first.size[1]}x{first.size[0]} as the first image; export it again"
            )
        if header.has_alpha != first.has_alpha:
            raise CaptureError(
                f"{frame.where}: file_path {frame.path('file_path')} has {header.channels} channels, the first image "
                f"{first.channels}; expected alpha in all images or in none"
            )
        for key, side in (("w", header.size[1]), ("h", header.size[0])):
            if key in frame.values and frame.number(key) != side:
                raise CaptureError(
                    f"{frame.where}: {key} is {frame.number(key):g}, but the image is {header.size[1]}x"
                    f"{header.size[0]} pixels; expected {side}, as the intrinsics are for that size"
                )
    assert first is not None  # read_frames refuses a capture without frames
    if with_masks and first.has_alpha:
        report.append("images have alpha; fg_mask_path is not read")
    return first


def _flipped(intrinsics: Float[np.ndarray, "f 3 3"], size: tuple[int, int]) -> Float[np.ndarray, "f 3 3"]:
    """The intrinsics with the principal point counted from the lower border."""
    flipped = intrinsics.copy()
    flipped[:, 1, 2] = size[0] - flipped[:, 1, 2]
    return flipped


class _Files:
    """Reads the files of single frames; every error names the frame and the field."""

    def __init__(self, folder: Path, frames: list[TransformsFrame], head: SkinnedHead, size: tuple[int, int]) -> None:
        self.folder, self.frames, self.head, self.size = folder, frames, head, size
        self.lens: Undistortion | None = None

    def image(self, index: int) -> np.ndarray:
        """RGBA (H, W, 4) of a frame."""
        frame = self.frames[index]
        rgba = decode_image(self.folder / frame.path("file_path"), frame.where, "file_path", "rgba", self.size)
        if "fg_mask_path" in frame.values and (rgba[..., 3] == 255).all():
            path = self.folder / frame.path("fg_mask_path")
            mask = decode_image(path, frame.where, "fg_mask_path", "label", self.size)
            rgba[..., 3] = mask * 255 if mask.max(initial=0) == 1 else mask  # some tools write 0 and 1
        return rgba if self.lens is None else self.lens.image(index, (rgba, None, None))[0]

    def parameters(self, index: int) -> dict[str, Tensor]:
        """The model's arguments for a frame."""
        frame = self.frames[index]
        return self._read(frame.path("flame_param_path"), f"{frame.where}: flame_param_path")

    def canonical(self, report: list[str]) -> dict[str, Tensor]:
        """The model's arguments for the canonical head."""
        path = self.folder / "canonical_flame_param.npz"
        if exists(path):
            return self._read(path.name, "")
        first = self.frames[0]
        rest = self._read(first.path("flame_param_path"), f"{first.where}: flame_param_path", OFFSETS[:1])
        rest = with_open_jaw(rest, self.head)
        report.append(f"no canonical_flame_param.npz: the canonical head is the first frame's, its jaw at {_JAW} rad")
        return rest

    def report_teeth(self, report: list[str]) -> None:
        """Reports that teeth are left out, where the first frame has offsets of more vertices than the head."""
        path = self.folder / self.frames[0].path("flame_param_path")
        with reading(path, "FLAME parameters", CaptureError):
            raw = load_numbers(path, CaptureError)
        report_teeth(raw, self.head, report)

    def _read(self, name: str, where: str, offsets: tuple[str, ...] = OFFSETS) -> dict[str, Tensor]:
        path, what = self.folder / name, f"{where} {name}".strip()
        with reading(path, "FLAME parameters", CaptureError):
            raw = load_numbers(path, CaptureError)
        return flame_arguments(raw, self.head, what, offsets)


def with_open_jaw(arguments: Mapping[str, Tensor], head: SkinnedHead) -> dict[str, Tensor]:
    """The arguments of the canonical head that VHAP writes: zero pose and expression, the jaw open."""
    rest = dict(arguments)
    for name in ("expression", "translation", "pose"):
        rest[name] = torch.zeros_like(rest[name])
    rest["pose"][0, head.jaw_joint, 0] = _JAW
    return rest


def report_teeth(raw: Mapping[str, np.ndarray], head: SkinnedHead, report: list[str]) -> None:
    """Reports that teeth are left out, where there are offsets of more vertices than the head's."""
    more = len(head.template_vertices) + _TEETH
    if any(key in raw and raw[key].shape[-2:-1] == (more,) for key in OFFSETS):
        report.append(
            f"offsets are of {more} vertices, with VHAP's teeth, which the head lacks; they are left out "
            '(mouth="interior" builds our own)'
        )


def flame_arguments(
    raw: Mapping[str, np.ndarray], head: SkinnedHead, what: str, offsets: Sequence[str] = OFFSETS
) -> dict[str, Tensor]:
    """The model's arguments for one time step, batches of one.

    Args:
        raw: VHAP's parameters of that time step.
        head: the FLAME model.
        what: file and frame, for messages.
        offsets: keys of the displacements to add.

    Raises:
        CaptureError: a key is missing or holds anything but the numbers that it should; names the key.
    """
    missing = [key for key in ("shape", "expr", *PARAMETERS) if key not in raw]
    if missing:
        raise CaptureError(
            f"{what} lacks {', '.join(missing)} (it has {', '.join(sorted(raw)) or 'nothing'}); export it again"
        )
    values = {key: row(raw[key], width, f"{what}: {key}") for key, width in PARAMETERS.items()}
    if values["translation"].abs().max() > _FARTHEST:
        raise CaptureError(f"{what}: translation is {values['translation'].tolist()}; expected meters")
    shape, expression = (row(raw[key], None, f"{what}: {key}") for key in ("shape", "expr"))
    if not len(shape) or not len(expression):
        raise CaptureError(
            f"{what}: shape has {len(shape)} and expr {len(expression)} coefficients; expected one or more"
        )
    arguments = {
        "shape": coefficients(shape, head.shape_count, f"{what}: shape"),
        "expression": coefficients(expression, head.expression_count, f"{what}: expr"),
        "pose": torch.cat([values[key] for key in list(PARAMETERS)[:4]]).reshape(1, 5, 3),
        "translation": values["translation"][None],
    }
    present = [_offset(raw, key, head, what) for key in offsets if key in raw]
    if present:
        arguments["offset"] = torch.stack(present).sum(dim=0)[None]
    return arguments


def _offset(raw: Mapping[str, np.ndarray], key: str, head: SkinnedHead, what: str) -> Tensor:
    """(V, 3) displacements, without those of the teeth that the head lacks, and 0 for those that the file lacks."""
    count = len(head.template_vertices)
    values = raw[key]
    rows = values[0] if values.ndim == 3 and len(values) == 1 else values
    if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) not in (count - _TEETH, count, count + _TEETH):
        raise CaptureError(
            f"{what}: {key} has shape {values.shape}; expected (1, {count}, 3), the head's vertices, or {_TEETH} "
            "more or fewer with VHAP's teeth: pass the FLAME model that the capture was tracked with"
        )
    if values.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        raise CaptureError(f"{what}: {key} holds values that are not finite numbers; export it again")
    padded = np.zeros((count, 3))
    padded[: len(rows)] = rows[:count]
    return torch.from_numpy(padded)
