"""Reader of Pixel3DMM's tracking folder (Giebenhain et al. 2025, "Pixel3DMM: Versatile Screen-Space Priors for
Single-Image 3D Face Reconstruction").

    {name}_nV1_.../checkpoint/00000.frame    FLAME parameters, the head's pose, and the camera
    cropped/00000.jpg                        the images of the same number that the preprocessing cropped
    seg_og/00000.png                         facer's labels: the matte where there is no other (`image_folder.MATTES`)
    l_eyelid.npy, r_eyelid.npy               blendshapes of the lids, from the tracker's repository; optional

A `.frame` has `flame` (`exp` (1, 100), `shape` (1, 300), `jaw`, `neck`, `R` (1, 6) and `eyes` (1, 12), rotations by
their matrices' first two rows; `eyelids` (1, 2), `t` (1, 3)) and `camera` (`R_base_0` (1, 3, 3) and `t_base_0` (1, 3),
world to camera with OpenGL axes; `fl` (1, 1) and `pp` (1, 2), in image sides). R and t move the posed mesh, lids
included, about FLAME's origin. The FLAME model is the user's file.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.formats.checkpoint_folder import frame_files, paired_readings, pairings
from headfields.data.formats.eyelids import Lids
from headfields.data.formats.flame_frames import FlameFrames, RigidMotion, check_counts, coefficients, flame_recording
from headfields.data.formats.frame_fields import FrameFields
from headfields.data.formats.image_folder import ImageFolder, find_images
from headfields.data.formats.metrical_folder import open_jaw
from headfields.data.formats.transforms import FOCAL_LENGTHS, splits_from_end
from headfields.data.recording import Recording
from headfields.data.rigid_transforms import are_rigid
from headfields.files.arrays import load_arrays
from headfields.files.reading import reading
from headfields.heads.skinned import SkinnedHead
from headfields.ops.rotations import rotation_matrices

__all__ = ["read_pixel3dmm"]

_IMAGES = ("cropped", "images")
_LABELS = "seg_og"
_CONVENTION = "world-to-camera, OpenGL axes"
_FARTHEST = 50.0  # meters


@dataclass(frozen=True)
class _Frame:
    """One file: the model's arguments, what moves the posed mesh, and the camera."""

    path: Path
    arguments: dict[str, Tensor]
    eyelids: Float[Tensor, "2"]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    world_to_camera: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"]


def read_pixel3dmm(folder: Path, head: SkinnedHead, eyelids: Sequence[Path | str] | None = None) -> Recording:
    """Reads all files but images, which are decoded on demand.

    Args:
        folder: the preprocessed folder of one video (`cropped`, `seg_og`) with the tracking folder in it, or the
            tracking folder with these beside `checkpoint`.
        head: the FLAME model that the tracker used.
        eyelids: `l_eyelid.npy` and `r_eyelid.npy`; None: those of the folder, if it has them.

    Raises:
        CaptureError: names the file and the field.
    """
    report: list[str] = []
    paths = frame_files(folder)
    folders = list(dict.fromkeys([folder, paths[0].parent.parent]))
    place = find_images(folders, _IMAGES)
    if place is None:
        raise CaptureError(
            f"{folder} has checkpoint/*.frame and no images; expected a folder {_IMAGES[0]} beside it: copy that of "
            "the preprocessed video there"
        )
    images = ImageFolder(place, folders, report, find_images(folders, (_LABELS,)))
    frames = [_read(path, head, images.size) for path in paths]
    where = [str(path) for path in paths]
    check_counts([frame.arguments for frame in frames], where)
    lids = Lids(head, {str(frame.path): frame.eyelids for frame in frames}, eyelids, folders, report)
    parameters = functools.partial(_moved, frames, lids, RigidMotion(head))
    readings = paired_readings(
        np.stack([frame.world_to_camera for frame in frames]),
        np.stack([frame.intrinsics for frame in frames]),
        images,
        pairings(paths, images, same_names=True),
    )
    rest = {"shape": frames[0].arguments["shape"], "pose": open_jaw(head)}
    flame = FlameFrames(head, where, parameters, rest, images.image, images.size, lids.weights)
    splits = splits_from_end("load_capture", len(frames)) | {"all": list(range(len(frames)))}
    report.append(f"the layout has no splits: the last {len(splits['test'])} frames are test")
    names = [f"checkpoint/{path.name}" for path in paths]
    return flame_recording(folder, flame, names, splits, readings, _CONVENTION, report, stated=True)


def _moved(frames: Sequence[_Frame], lids: Lids, motion: RigidMotion, index: int) -> dict[str, Tensor]:
    """The model's arguments for a frame."""
    frame = frames[index]
    turned = {key: value @ frame.rotation.to(value).T for key, value in lids.displacement(index).items()}
    return motion.after(frame.arguments, frame.rotation, frame.translation) | turned


def _read(path: Path, head: SkinnedHead, size: tuple[int, int]) -> _Frame:
    with reading(path, "a .frame of Pixel3DMM", CaptureError):
        fields = FrameFields(path, load_arrays(path), "Pixel3DMM")
        shape, expression = (fields.array(f"flame.{key}", (None,)) for key in ("shape", "exp"))
        neck, jaw, eyes = (fields.rotations(f"flame.{key}", n) for key, n in (("neck", 1), ("jaw", 1), ("eyes", 2)))
        lids = fields.optional("flame.eyelids", (2,))
        translation = fields.array("flame.t", (3,))
        if translation.norm() > _FARTHEST:
            raise CaptureError(f"{path}: flame.t is {translation.tolist()}; expected meters")
        return _Frame(
            path,
            {
                "shape": coefficients(shape, head.shape_count, f"{path}: flame.shape"),
                "expression": coefficients(expression, head.expression_count, f"{path}: flame.exp"),
                "pose": torch.cat([torch.zeros(1, 3, dtype=torch.float64), neck, jaw, eyes])[None],
            },
            torch.zeros(2) if lids is None else lids,
            _rotation(fields),
            translation,
            _camera(fields),
            _intrinsics(fields, size),
        )


def _rotation(fields: FrameFields) -> Float[Tensor, "3 3"]:
    """The head's rotation, which the file has in two forms."""
    rotation = rotation_matrices(fields.rotations("flame.R", 1))[0]
    stored = fields.optional("flame.R_rotation_matrix", (3, 3))
    if stored is not None and (stored - rotation).abs().max() > 1e-3:
        raise CaptureError(
            f"{fields.path}: flame.R as the first two rows of a matrix is off flame.R_rotation_matrix by "
            f"{float((stored - rotation).abs().max()):.2g}; expected one rotation: track the video again"
        )
    return rotation


def _camera(fields: FrameFields) -> Float[np.ndarray, "4 4"]:
    """World to camera, with OpenGL axes."""
    matrix = np.eye(4)
    matrix[:3, :3] = fields.array("camera.R_base_0", (3, 3)).numpy()
    matrix[:3, 3] = fields.array("camera.t_base_0", (3,)).numpy()
    if not are_rigid(matrix):
        raise CaptureError(f"{fields.path}: camera.R_base_0 is no rotation; track the video again")
    if np.linalg.norm(matrix[:3, 3]) > _FARTHEST:
        raise CaptureError(f"{fields.path}: camera.t_base_0 is {matrix[:3, 3].tolist()}; expected meters")
    return matrix


def _intrinsics(fields: FrameFields, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """Pixels of the images, which the tracker resized to squares of side `img_size`.

    Its principal point is (side / 2 + 1/2) (1 + pp) pixels from the left and upper border.
    """
    stored = fields.image_size()
    if stored[0] != stored[1] or size[0] != size[1]:
        raise CaptureError(
            f"{fields.path}: img_size is {list(stored)} and images are {size[1]}x{size[0]} pixels; expected squares, "
            "as the tracker's preprocessing crops them: use those"
        )
    focal, center = fields.array("camera.fl", (1,)), fields.array("camera.pp", (2,))
    low, high = FOCAL_LENGTHS
    if not low <= float(focal) <= high:
        raise CaptureError(f"{fields.path}: camera.fl is {float(focal):g}; expected {low:g} to {high:g} image sides")
    if center.abs().max() > 1:
        raise CaptureError(f"{fields.path}: camera.pp is {center.tolist()}; expected -1 to 1, in half image sides")
    scale = size[0] / stored[0]
    cx, cy = ((stored[0] / 2 + 0.5) * (1 + center.numpy()) * scale).tolist()
    return np.array([[float(focal) * size[0], 0, cx], [0, float(focal) * size[0], cy], [0, 0, 1]])
