"""Reader of metrical-tracker's checkpoints (Zielonka et al. 2022, "Towards Metrical Reconstruction of Human Faces").

There is one `.frame` file per video frame, with FLAME coefficients and a camera that carries the head's pose.
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.formats.eyelids import read_eyelids
from headfields.data.formats.frame_fields import FrameFields
from headfields.data.formats.transforms import FOCAL_LENGTHS
from headfields.files.arrays import load_arrays
from headfields.files.checked import number
from headfields.files.reading import reading
from headfields.heads.flame.model import FlameHead
from headfields.records import Camera, HeadState

__all__ = [
    "MetricalTrackerFrame",
    "MetricalTrackerHead",
    "SizeOrder",
    "read_metrical_frame",
    "read_metrical_frames",
    "stored_size",
]

SizeOrder = Literal["hw", "wh"]
_FARTHEST = 50.0  # meters from the camera to the head


@dataclass(frozen=True)
class MetricalTrackerFrame:
    """One `.frame` file.

    Attributes:
        path: the file.
        frame_id: the tracker's name for it, e.g. "00012". The tracker skips the first frame of a video, so some
            pipelines pair it with image 00013; the file does not say.
        shape: (S,) FLAME shape, 300 in the tracker's files; equal in all frames of a person.
        expression: (E,) FLAME expression, 100 in the tracker's files.
        pose: (5, 3) axis-angle of root, neck, jaw, left eye and right eye, radians. Root and neck are zero: the head
            stands still, and the camera moves around it.
        eyelids: (2,) weights of the left and the right eyelid's blendshape; zero if the file has none.
        texture: (140,) coefficients of FLAME's texture model, or None.
        lighting: (9, 3) spherical harmonics, or None.
        camera: one camera (1, 4, 4), world to camera with OpenCV axes, meters, pixels.
        global_step: the optimizer's step count, or None.
    """

    path: Path
    frame_id: str
    shape: Float[Tensor, " s"]
    expression: Float[Tensor, " e"]
    pose: Float[Tensor, "5 3"]
    eyelids: Float[Tensor, "2"]
    texture: Float[Tensor, " x"] | None
    lighting: Float[Tensor, "9 3"] | None
    camera: Camera
    global_step: int | None


@dataclass(frozen=True)
class MetricalTrackerHead:
    """B frames posed by a head model.

    Attributes:
        state: the B frames, with the code `"eyelids"` (B, 2).
        camera: their B cameras.
        frames: the files' contents.
    """

    state: HeadState
    camera: Camera
    frames: tuple[MetricalTrackerFrame, ...]


def read_metrical_frame(path: Path | str, size_order: SizeOrder = "hw") -> MetricalTrackerFrame:
    """Reads one `.frame` file of metrical-tracker, without running code from it.

    Both formats of `torch.save` are read, through the same restricted unpickler as model files. Arrays may be NumPy's
    or tensors on any device; the result is on the CPU.

    Args:
        path: the file.
        size_order: the order of `img_size`. The tracker and INSTA write (height, width); FlashAvatar and what derives
            from it unpack (width, height). It is an error if the principal point is far from the image center in this
            order and near it in the other. For square images the order does not matter.

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the file names something that could run code; the message has the name.
        CaptureError: a field is missing, has another shape, is not finite, or is no rotation or camera; the message
            names file and field.
        ValueError: the file is cut short, or not written by `torch.save`.
    """
    path = Path(path)
    if size_order not in ("hw", "wh"):
        raise CaptureError(f"read_metrical_frame: size_order is {size_order!r}; expected 'hw' or 'wh'")
    with reading(path, "a .frame of metrical-tracker", CaptureError):
        return _frame(FrameFields(path, load_arrays(path), "metrical-tracker"), path, size_order)


def stored_size(path: Path) -> tuple[int, int]:
    """The two numbers of `img_size` of a file, in its order.

    Raises:
        CaptureError, OSError: as `read_metrical_frame`.
    """
    with reading(path, "a .frame of metrical-tracker", CaptureError):
        return FrameFields(path, load_arrays(path), "metrical-tracker").image_size()


def _frame(fields: FrameFields, path: Path, size_order: SizeOrder) -> MetricalTrackerFrame:
    jaw, eyes = fields.rotations("flame.jaw", 1), fields.rotations("flame.eyes", 2)
    pose = torch.cat([torch.zeros(2, 3, dtype=torch.float64), jaw, eyes])
    eyelids = fields.optional("flame.eyelids", (2,))
    texture, lighting = fields.optional("flame.tex", (None,)), fields.optional("flame.sh", (9, 3))
    step, name = fields.find("global_step"), fields.find("frame_id")
    return MetricalTrackerFrame(
        path=path,
        frame_id=path.stem if name is None else str(name),
        shape=fields.array("flame.shape", (None,)).float(),
        expression=fields.array("flame.exp", (None,)).float(),
        pose=pose.float(),
        eyelids=torch.zeros(2) if eyelids is None else eyelids.float(),
        texture=None if texture is None else texture.float(),
        lighting=None if lighting is None else lighting.float(),
        camera=_camera(fields, size_order),
        global_step=None if step is None else int(number(step, f"{path}: global_step")),
    )


def _camera(fields: FrameFields, size_order: SizeOrder) -> Camera:
    path = fields.path
    rotation, translation = fields.array("opencv.R", (3, 3)), fields.array("opencv.t", (3,))
    intrinsics, size = fields.array("opencv.K", (3, 3)), fields.image_size()
    error = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if error > 1e-3 or torch.linalg.det(rotation) < 0:
        raise CaptureError(f"{path}: opencv.R is no rotation (R Rᵀ is off the identity by {error:.2g})")
    height, width = size if size_order == "hw" else size[::-1]
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], float(intrinsics[0, 2]), float(intrinsics[1, 2])
    last = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if fx <= 0 or fy <= 0 or (intrinsics[2] - last).abs().max() > 1e-6:
        raise CaptureError(
            f"{path}: opencv.K is {intrinsics.tolist()}; expected pixel intrinsics with positive focal lengths"
        )
    low, high = FOCAL_LENGTHS[0] * max(width, height), FOCAL_LENGTHS[1] * max(width, height)
    if not (low <= fx <= high and low <= fy <= high) or intrinsics[1, 0] != 0:
        raise CaptureError(
            f"{path}: opencv.K is {intrinsics.tolist()}; expected focal lengths of {low:g} to {high:g} pixels, no turn"
        )
    if float(translation.norm()) > _FARTHEST:
        raise CaptureError(
            f"{path}: opencv.t is {translation.tolist()}, {float(translation.norm()):.4g} meters off; expected meters "
            "(multiply millimeters by 0.001)"
        )
    off = math.hypot(cx - width / 2, cy - height / 2)
    if off > 0.1 * max(height, width) and math.hypot(cx - height / 2, cy - width / 2) < 0.5 * off:
        other = "wh" if size_order == "hw" else "hw"
        raise CaptureError(
            f"{path}: img_size {list(size)}, read as {size_order!r}, gives an image {width} wide and "
            f"{height} high, whose center is far from the principal point ({cx:.0f}, {cy:.0f}), and the other order "
            f"fits; pass size_order={other!r}"
        )
    world_to_camera = torch.eye(4, dtype=torch.float64)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, translation
    return Camera(world_to_camera[None].float(), intrinsics[None].float(), (height, width))


def read_metrical_frames(
    folder: Path | str,
    head: FlameHead,
    size_order: SizeOrder = "hw",
    eyelids: tuple[Path | str, Path | str] | None = None,
    frames: slice = slice(None),
) -> MetricalTrackerHead:
    """All `.frame` files of a folder, posed by a head.

    Args:
        folder: the tracker's `checkpoint` folder, or its parent.
        head: FLAME, on any device; the result is on the same one.
        size_order: order of the image size, as for `read_metrical_frame`.
        eyelids: the tracker's `l_eyelid.npy` and `r_eyelid.npy`, (V, 3) each, which it adds to the posed mesh. Without
            them eyes do not close; a warning says so if a frame moves a lid.
        frames: indices among the files, sorted by number.

    Returns:
        The head's state with `expression`, `pose`, `joint_transforms` and the code `"eyelids"` (B, 2); B cameras; and
        the frames. Each frame has its own shape coefficients.

    Raises:
        FileNotFoundError: no such folder, or it has no `.frame` files.
        UnsafePickleError, CaptureError, ValueError: as `read_metrical_frame`; or images differ in size, or frames in
            the number of coefficients; or the head has fewer directions than they need; or an eyelid file does not fit.
    """
    folder = Path(folder)
    place = folder if any(folder.glob("*.frame")) else folder / "checkpoint"
    paths = sorted(place.glob("*.frame"), key=lambda p: (int(p.stem) if p.stem.isdecimal() else math.inf, p.name))
    if not paths:
        raise FileNotFoundError(
            f"read_metrical_frames: {folder} has no .frame files, and no checkpoint folder that has"
        )
    loaded = tuple(read_metrical_frame(path, size_order) for path in paths[frames])
    if not loaded:
        raise CaptureError(f"read_metrical_frames: frames {frames} takes none of the {len(paths)} files of {place}")
    for frame in loaded[1:]:
        if frame.camera.size != loaded[0].camera.size:
            raise CaptureError(
                f"{frame.path}: img_size gives {frame.camera.size} (height, width), but {loaded[0].path.name} "
                f"{loaded[0].camera.size}; one batch has one size, so read them apart"
            )
        for name in ("shape", "expression"):
            if getattr(frame, name).shape != getattr(loaded[0], name).shape:
                raise CaptureError(
                    f"{frame.path}: {name} has {len(getattr(frame, name))} coefficients, but {loaded[0].path.name} has "
                    f"{len(getattr(loaded[0], name))}"
                )
    for name, count in (("shape", head.shape_count), ("expression", head.expression_count)):
        if len(getattr(loaded[0], name)) > count:
            raise CaptureError(
                f"{loaded[0].path}: {name} has {len(getattr(loaded[0], name))} coefficients, but the head has {count} "
                "directions; read the full model (expression_count=100)"
            )

    def stack(name: str) -> Tensor:
        return torch.stack([getattr(frame, name) for frame in loaded]).to(head.template_vertices)

    state = head(stack("shape"), stack("expression"), stack("pose"))
    lids = stack("eyelids")
    if eyelids is not None:
        shapes = read_eyelids("read_metrical_frames", eyelids, head)
        state = state.replace(vertices=state.vertices + torch.einsum("bl,lvc->bvc", lids, shapes))
    elif (lids != 0).any():
        warnings.warn(
            f"read_metrical_frames: {folder} moves the eyelids (by up to {float(lids.abs().max()):.2f}), but eyelids "
            "is None; pass the tracker's (l_eyelid.npy, r_eyelid.npy)",
            stacklevel=2,
        )
    camera = Camera(
        torch.cat([frame.camera.world_to_camera for frame in loaded]).to(head.template_vertices),
        torch.cat([frame.camera.intrinsics for frame in loaded]).to(head.template_vertices),
        loaded[0].camera.size,
    )
    return MetricalTrackerHead(state.replace(codes={"eyelids": lids}), camera, loaded)
