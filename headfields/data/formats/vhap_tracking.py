"""Reader of what VHAP's tracker writes before its export: `tracked_flame_params_*.npz`, with the images beside.

    {sequence}/images/00000.jpg            time step 00000
    {sequence}/alpha_maps/00000.jpg        mattes; other names are in `image_folder.MATTES`
    {sequence}/tracked_flame_params_30.npz, or in a folder or two in {sequence}: T rows of VHAP's parameters,
                                           `timestep_id` (T,), `focal_length` (1,) in longer image sides, `image_size`

Recordings of one camera without calibration: the camera stands at (0, 0, 1) and looks along -z, its principal point is
the image's center. Calibrated recordings have no cameras in this file; VHAP exports them (Qian 2024). The last row is
as good as the others, whatever `n_processed_frames` says: the tracker writes where it started. The FLAME model is the
user's file.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.formats.checkpoint_folder import paired_image
from headfields.data.formats.flame_frames import CameraReading, FlameFrames, flame_recording
from headfields.data.formats.image_folder import ImageFolder, find_images
from headfields.data.formats.transforms import FOCAL_LENGTHS, splits_from_end
from headfields.data.formats.vhap import OFFSETS, PARAMETERS, flame_arguments, report_teeth, with_open_jaw
from headfields.data.image_files import exists
from headfields.data.recording import Recording
from headfields.files.arrays import load_numbers
from headfields.files.checked import number
from headfields.files.reading import reading
from headfields.heads.skinned import SkinnedHead

__all__ = ["is_vhap_tracking", "read_vhap_tracking"]

_NAME = re.compile(r"tracked_flame_params(?:_(\d{1,9}))?\.npz")
_ROWS = ("expr", *PARAMETERS)
_CONVENTION = "camera-to-world, OpenGL axes"
_ASPECT = 0.01  # largest relative difference of two aspect ratios that rounding of a side explains


def is_vhap_tracking(folder: Path) -> bool:
    """Whether the folder, or one in it, has a file of VHAP's tracker."""
    return _tracked_file(folder) is not None


def _tracked_file(folder: Path) -> Path | None:
    """The file of the last epoch, in the folder or else in the last, by name, of the folders up to two levels down."""
    for pattern in ("", "*/", "*/*/"):
        paths = [path for path in folder.glob(f"{pattern}tracked_flame_params*.npz") if _NAME.fullmatch(path.name)]
        if paths:
            return max(paths, key=lambda path: (str(path.parent), int(_NAME.fullmatch(path.name)[1] or -1)))  # type: ignore[index]
    return None


def read_vhap_tracking(folder: Path, head: SkinnedHead) -> Recording:
    """Reads the parameters; images are decoded on demand.

    Args:
        folder: the sequence's folder with the tracker's output in it, or that output with `images` beside the file.
        head: the FLAME model that the parameters are of; see `read_vhap` on VHAP's teeth.

    Raises:
        CaptureError: names the file and the field.
    """
    report: list[str] = []
    path = _tracked_file(folder)
    assert path is not None  # is_vhap_tracking
    if not exists(path):
        raise CaptureError(f"{path} is no file; copy it from the tracker's output")
    report.append(f"parameters are those of {path.relative_to(folder)}, the last epoch")
    raw, where = _load(path), str(path)
    count = len(raw["expr"])
    place = find_images([folder, path.parent], ("images",))
    if place is None:
        raise CaptureError(
            f"{folder} has {path.name} and no images; expected a folder images: copy the sequence's there"
        )
    images = ImageFolder(place, [folder, path.parent], report)
    rows = _paired(raw, images, where)
    names = [f"{place.name}/{images.names[row]}" for row in rows]
    labels = [f"{where}: row {index} ({name})" for index, name in enumerate(names)]
    for index, label in enumerate(labels):  # names a broken row before anything is posed
        flame_arguments(_time_step(raw, index), head, label, offsets=())
    report_teeth(raw, head, report)
    rest = with_open_jaw(flame_arguments(_time_step(raw, 0), head, where, OFFSETS[:1]), head)
    parameters = functools.partial(_parameters, raw, head, labels)
    flame = FlameFrames(head, labels, parameters, rest, functools.partial(paired_image, images, rows), images.size)
    matrix = np.eye(4)
    matrix[2, 3] = 1.0
    intrinsics = _intrinsics(raw, images.size, where)
    reading_ = CameraReading("", np.repeat(matrix[None], count, axis=0), np.repeat(intrinsics[None], count, axis=0))
    splits = splits_from_end("load_capture", count) | {"all": list(range(count))}
    report.append(f"the layout has no splits: the last {len(splits['test'])} frames are test")
    return flame_recording(folder, flame, names, splits, [reading_], _CONVENTION, report, stated=True)


def _load(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays, those of the time steps with as many rows each."""
    with reading(path, "parameters of VHAP's tracker", CaptureError):
        raw = load_numbers(path, CaptureError)
    missing = [key for key in ("shape", *_ROWS) if key not in raw]
    if missing:
        raise CaptureError(
            f"{path} lacks {', '.join(missing)} (it has {', '.join(sorted(raw)) or 'nothing'}); copy it again"
        )
    for key in [*_ROWS, *(key for key in OFFSETS[1:] if key in raw)]:
        shape, count = raw[key].shape, raw["expr"].shape[:1]
        if len(shape) != (3 if key in OFFSETS else 2) or shape[:1] != count or not shape[0]:
            raise CaptureError(
                f"{path}: {key} has shape {shape}; expected a row for each time step, one or more, as many as expr has"
            )
    if "focal_length" not in raw:
        raise CaptureError(
            f"{path} has no focal_length: the recording was calibrated, and its cameras are not in this file; export "
            "it with VHAP's export_as_nerf_dataset and open that folder"
        )
    return raw


def _parameters(
    raw: Mapping[str, np.ndarray], head: SkinnedHead, labels: Sequence[str], index: int
) -> dict[str, Tensor]:
    return flame_arguments(_time_step(raw, index), head, labels[index])


def _time_step(raw: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """The parameters of one time step, as an exported file has them."""
    rows = {key: raw[key][index] for key in (*_ROWS, *OFFSETS[1:]) if key in raw}
    return rows | {key: raw[key] for key in ("shape", *OFFSETS[:1]) if key in raw}


def _paired(raw: Mapping[str, np.ndarray], images: ImageFolder, where: str) -> list[int]:
    """The image of each time step: the one whose name ends in its `timestep_id`, or all in order without any."""
    count = len(raw["expr"])
    if "timestep_id" not in raw:
        if count != len(images):
            raise CaptureError(
                f"{where} has {count} time steps, no timestep_id, and images has {len(images)} images; expected as many"
            )
        return list(range(count))
    ids = raw["timestep_id"]
    if ids.shape != (count,) or ids.dtype.kind not in "US":
        raise CaptureError(
            f"{where}: timestep_id has shape {ids.shape} and dtype {ids.dtype}; expected ({count},) names of images"
        )
    names = [str(name, "latin-1") if isinstance(name, bytes) else str(name) for name in ids.tolist()]
    rows: dict[str, int] = {}
    for row, name in enumerate(images.names):
        step = Path(name).stem.rsplit("_", 1)[-1]
        if step in rows:
            raise CaptureError(
                f"{images.folder}: {images.names[rows[step]]} and {name} are of one time step; this layout has one "
                "camera: remove the others"
            )
        rows[step] = row
    missing = [name for name in names if name not in rows]
    if missing:
        raise CaptureError(
            f"{where}: timestep_id {missing[0]!r} has no image in {images.folder}; add it, named {missing[0]}.png or "
            ".jpg"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CaptureError(f"{where}: timestep_id {twice!r} is listed twice; expected each once")
    return [rows[name] for name in names]


def _intrinsics(raw: Mapping[str, np.ndarray], size: tuple[int, int], where: str) -> np.ndarray:
    """(3, 3) pixels of the images, which may have another resolution than the tracker's."""
    height, width = size
    with reading(where, "parameters of VHAP's tracker", CaptureError):
        focal = number(raw["focal_length"], f"{where}: focal_length")
    low, high = FOCAL_LENGTHS
    if not low <= focal <= high:
        raise CaptureError(f"{where}: focal_length is {focal:g}; expected {low:g} to {high:g} longer image sides")
    if "image_size" in raw:
        stored = raw["image_size"].reshape(-1)
        if stored.dtype.kind not in "fiu" or len(stored) != 2 or not (np.isfinite(stored) & (stored >= 1)).all():
            raise CaptureError(
                f"{where}: image_size is {str(raw['image_size'].tolist())[:60]}; expected (height, width)"
            )
        ratio = stored[0] * width / (stored[1] * height)
        if abs(ratio - 1) > _ASPECT:
            raise CaptureError(
                f"{where}: image_size is {stored.tolist()} (height, width), but images are {width} wide and {height} "
                "high; use those that the tracker ran on"
            )
    return np.array([[focal * max(size), 0, width / 2], [0, focal * max(size), height / 2], [0, 0, 1]])
