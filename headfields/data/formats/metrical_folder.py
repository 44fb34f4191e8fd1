"""Reader of metrical-tracker's output folder (Zielonka et al. 2022, "Towards Metrical Reconstruction of Human Faces").

    {name}/checkpoint/00000.frame     see `metrical_tracker`
    {name}/input/00000.png            the image of the same number, written by the tracker; or
    {name}/images/00001.png           the images that it was run on (imgs and source too), paired in order
    {name}/matting/00001.png          mattes; other names are in `image_folder.MATTES`
    {name}/l_eyelid.npy, r_eyelid.npy     blendshapes of the lids, from the tracker's repository; optional

The head stands still in FLAME's frame, and the camera carries its pose. The FLAME model is the user's file.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.formats.checkpoint_folder import frame_files, paired_readings, pairings
from headfields.data.formats.eyelids import Lids
from headfields.data.formats.flame_frames import FlameFrames, check_counts, coefficients, flame_recording
from headfields.data.formats.image_folder import ImageFolder, find_images
from headfields.data.formats.metrical_tracker import MetricalTrackerFrame, read_metrical_frame, stored_size
from headfields.data.formats.transforms import splits_from_end
from headfields.data.recording import Recording
from headfields.heads.skinned import TEMPLATE_JAW, SkinnedHead

__all__ = ["open_jaw", "read_metrical_folder"]

_IMAGES = ("input", "images", "imgs", "source")
_CONVENTION = "world-to-camera, OpenCV axes"


def read_metrical_folder(folder: Path, head: SkinnedHead, eyelids: Sequence[Path | str] | None = None) -> Recording:
    """Reads all files but images, which are decoded on demand.

    Args:
        folder: the tracker's output of one video, with images.
        head: the FLAME model that the tracker used.
        eyelids: `l_eyelid.npy` and `r_eyelid.npy`; None: those of the folder, if it has them.

    Raises:
        CaptureError: names the file and the field.
    """
    report: list[str] = []
    paths = frame_files(folder)
    folders = list(dict.fromkeys([paths[0].parent.parent, folder]))
    place = find_images(folders, _IMAGES)
    if place is None:
        raise CaptureError(
            f"{folder} has checkpoint/*.frame and no images; expected a folder {' or '.join(_IMAGES)} beside it: copy "
            "the tracker's there"
        )
    images = ImageFolder(place, folders, report)
    frames = _frames(paths, images.size, report)
    lids = Lids(head, {str(frame.path): frame.eyelids for frame in frames}, eyelids, folders, report)
    rows = pairings(paths, images, same_names=place.name == "input")
    matrices = np.stack([frame.camera.world_to_camera[0].double().numpy() for frame in frames])
    intrinsics = np.stack([frame.camera.intrinsics[0].double().numpy() for frame in frames])
    readings = paired_readings(matrices, intrinsics, images, rows)
    arguments, where = [_arguments(frame, head) for frame in frames], [str(path) for path in paths]
    check_counts(arguments, where)
    flame = FlameFrames(
        head,
        where,
        functools.partial(_with_lids, arguments, lids),
        {"shape": arguments[0]["shape"], "pose": open_jaw(head)},
        images.image,
        images.size,
        lids.weights,
    )
    splits = splits_from_end("load_capture", len(frames)) | {"all": list(range(len(frames)))}
    report.append(f"the layout has no splits: the last {len(splits['test'])} frames are test")
    names = [f"checkpoint/{path.name}" for path in paths]
    return flame_recording(folder, flame, names, splits, readings, _CONVENTION, report, stated=True)


def _arguments(frame: MetricalTrackerFrame, head: SkinnedHead) -> dict[str, Tensor]:
    """The model's arguments for a frame."""
    return {
        "shape": coefficients(frame.shape, head.shape_count, f"{frame.path}: flame.shape"),
        "expression": coefficients(frame.expression, head.expression_count, f"{frame.path}: flame.exp"),
        "pose": frame.pose[None],
    }


def _with_lids(arguments: Sequence[Mapping[str, Tensor]], lids: Lids, index: int) -> dict[str, Tensor]:
    return {**arguments[index], **lids.displacement(index)}


def open_jaw(head: SkinnedHead) -> Float[Tensor, "1 5 3"]:
    """The pose of the canonical head, as metrical-tracker writes it: the jaw open by 12 degrees."""
    pose = torch.zeros(1, 5, 3)
    pose[0, head.jaw_joint, 0] = TEMPLATE_JAW
    return pose


def _frames(paths: Sequence[Path], size: tuple[int, int], report: list[str]) -> list[MetricalTrackerFrame]:
    """The files' contents, `img_size` read in the order in which it is the images' size."""
    stored = stored_size(paths[0])
    if size not in (stored, stored[::-1]):
        raise CaptureError(
            f"{paths[0]}: img_size is {list(stored)}, but images are {size[1]} wide and {size[0]} high; use those that "
            "the tracker ran on (its folder input has them)"
        )
    order = "hw" if stored == size else "wh"
    if stored[0] != stored[1]:
        report.append(
            f"img_size {list(stored)} is ({'height, width' if order == 'hw' else 'width, height'}), by the images"
        )
    frames = [read_metrical_frame(path, order) for path in paths]  # type: ignore[arg-type]
    for frame in frames:
        if frame.camera.size != size:
            raise CaptureError(
                f"{frame.path}: img_size gives {frame.camera.size} (height, width), but images are {size}; remove the "
                "file or use the images that the tracker ran on"
            )
    return frames
