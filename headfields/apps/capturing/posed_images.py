"""Reader of plain images with cameras: `transforms*.json` of nerfstudio, instant-ngp, COLMAP's converters and Blender.

Axes and units, as these programs write them: `transform_matrix` is camera-to-world with OpenGL's axes of the camera (x
right, y up, z backward). The world is the scene's: z is up where a converter has turned it, and the unit has no length
(COLMAP has none; instant-ngp scales to a mean distance of 4). `applied_transform` and `applied_scale` say how the
converter has moved COLMAP's own world, and `aabb_scale`, `scale` and `offset` what a viewer does with it; none of them
changes where the cameras are in relation to each other. Intrinsics are pixels of a `w` x `h` image, counted from the
image's corner (COLMAP's convention, and ours).

Sources: nerfstudio's page "Data conventions" and `process_data/colmap_utils.py`; instant-ngp's
`scripts/colmap2nerf.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import (
    TransformsFrame,
    distortion_of,
    intrinsics_of,
    matrix_of,
    read_transforms,
)
from headfields.data.image_files import exists, image_header, natural_key

__all__ = ["PosedFrames", "posed_transforms", "read_posed_frames"]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_NAMES = ("transforms.json", "transforms_train.json", "transforms_val.json", "transforms_test.json")
_FACTORS = (2, 4, 8)
"""Of the smaller copies that nerfstudio writes beside images/, as images_2/."""
_MESHES = ("mesh_path", "flame_param_path")
_SAME_ASPECT = 0.02  # sizes of smaller copies are rounded
_ORIENTATION = 0x0112  # EXIF's tag


@dataclass(frozen=True)
class PosedFrames:
    """N images with their cameras, in natural order of their names.

    Attributes:
        folder: of the transforms file.
        names: `file_path` of each.
        images: the files.
        masks: `mask_path` of each, or None.
        sizes: (height, width) of each file.
        matrices: (N, 4, 4) as in the file.
        intrinsics: (N, 3, 3) pixels of the files.
        distortion: (N, 5) radial-tangential or (N, 4) fisheye, as `Camera.distortion`; None for none.
        report: lines on what was decided and left out.
    """

    folder: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    sizes: tuple[tuple[int, int], ...]
    matrices: Float[np.ndarray, "n 4 4"]
    intrinsics: Float[np.ndarray, "n 3 3"]
    distortion: Float[np.ndarray, "n c"] | None
    report: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def posed_transforms(folder: Path) -> list[Path]:
    """The transforms files of plain images in a folder, or in the one above it (`DIR/images_4`); [] if there are none.

    Files whose frames name meshes or parameters of heads are captures, and are none of these.
    """
    for place in (folder, folder.parent):
        files = [place / name for name in _NAMES if (place / name).is_file()]
        if files:
            frames = read_transforms(files[0])
            plain = not any(key in frame.values for frame in frames[:1] for key in _MESHES)
            return files if plain and any("transform_matrix" in frame.values for frame in frames) else []
    return []


def read_posed_frames(folder: Path, files: list[Path] | None = None) -> PosedFrames:
    """The images of a folder that its transforms files have cameras of.

    Args:
        folder: with transforms.json (or transforms_train.json and the like, whose frames are joined), or the folder of
            the images, beside transforms.json. A smaller copy, `images_2`, may be named; it is also taken where
            `images` is not there. Intrinsics follow the size of the files.
        files: the transforms files; None: those of `posed_transforms`.

    Raises:
        CaptureError: names the frame and the field: no cameras, images that are missing, turned by EXIF, of another
            aspect, twice; lenses other than pinhole, OpenCV's and its fisheye.
    """
    files = posed_transforms(folder) if files is None else files
    if not files:
        raise CaptureError(f"{folder}: no transforms.json with a transform_matrix for each image")
    base, report = files[0].parent, list[str]()
    frames = [frame for file in files for frame in read_transforms(file)]
    if not frames:
        raise CaptureError(f"{files[0]}: it lists no frames; the converter has found no camera")
    frames.sort(key=lambda frame: natural_key(frame.path("file_path")))
    folder_of_images = None if folder.resolve() == base.resolve() else folder
    images = [_image(base, frame, folder_of_images) for frame in frames]
    twice = next((path for number, path in enumerate(images) if path in images[:number]), None)
    if twice is not None:
        raise CaptureError(f"{base}: {twice} has two frames; expected one camera for each image")
    sizes = [image_header(path, frame.where, "file_path", "rgba").size
             for frame, path in zip(frames, images, strict=True)]  # fmt: skip
    for frame, path in zip(frames, images, strict=True):
        with Image.open(path) as image:
            if image.getexif().get(_ORIENTATION, 1) != 1:
                raise CaptureError(
                    f"{frame.where}: {path.name} is turned by its EXIF, and its camera may be that of the image before "
                    "or after the turn; write the pixels upright (mogrify -auto-orient) and run the converter again"
                )
    for line in _unregistered(images, folder_of_images or images[0].parent):
        report.append(line)
    lenses = [_lens(frame, path, size, report) for frame, path, size in zip(frames, images, sizes, strict=True)]
    masks = [_mask(base, frame) for frame in frames]
    if any(masks):
        report.append(f"mattes: mask_path of {sum(mask is not None for mask in masks)} of {len(masks)} images")
    for key in ("depth_file_path", "ply_file_path"):
        if any(key in frame.values for frame in frames):
            report.append(f"{key} is not read: depth is that of the tracked head")
    names = tuple(frame.path("file_path") for frame in frames)
    matrices = np.stack([_matrix(frame) for frame in frames])
    return PosedFrames(
        base, names, tuple(images), tuple(masks), tuple(sizes), matrices, np.stack(lenses), distortion_of(frames),
        tuple(report),
    )  # fmt: skip


def _matrix(frame: TransformsFrame) -> Float[np.ndarray, "4 4"]:
    if "transform_matrix" not in frame.values:
        raise CaptureError(f"{frame.where}: transform_matrix is missing; remove the frame, or run the converter again")
    return matrix_of(frame)


def _image(base: Path, frame: TransformsFrame, folder_of_images: Path | None) -> Path:
    """The file of a frame: with its suffix or one of the usual, in its folder or that of images, or a smaller copy."""
    named = base / str(frame.values.get("file_path", "")).replace("\\", "/")
    frame.path("file_path")  # refuses what leads out of the folder
    places = [named.parent] if folder_of_images is None else [folder_of_images]
    if folder_of_images is None:
        places += [named.parent.with_name(f"{named.parent.name}_{factor}") for factor in _FACTORS]
    suffixes = ("",) if named.suffix.lower() in _SUFFIXES else _SUFFIXES
    for place in places:
        for suffix in suffixes:
            path = place / (named.name + suffix)
            if exists(path):
                return path
    raise CaptureError(
        f"{frame.where}: file_path {frame.values.get('file_path')!r} is no file in "
        f"{', '.join(str(place) for place in places)}; copy the image there, or remove the frame"
    )


def _mask(base: Path, frame: TransformsFrame) -> Path | None:
    if "mask_path" not in frame.values:
        return None
    path = base / frame.path("mask_path")
    if not exists(path):
        raise CaptureError(f"{frame.where}: mask_path {path} is no file; copy it there, or remove mask_path")
    return path


def _unregistered(images: list[Path], folder: Path) -> list[str]:
    every = {path.name for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES}
    without = sorted(every - {path.name for path in images})
    if not without:
        return []
    return [f"{len(without)} of {len(every)} images in {folder.name} have no camera and are left out "
            f"({', '.join(without[:3])}{', ...' if len(without) > 3 else ''})"]  # fmt: skip


def _lens(frame: TransformsFrame, path: Path, size: tuple[int, int], report: list[str]) -> Float[np.ndarray, "3 3"]:
    """Intrinsics in pixels of the file."""
    if "w" not in frame.values or "h" not in frame.values:
        factor = next((factor for factor in _FACTORS if path.parent.name.endswith(f"_{factor}")), 1)
        known = {"camera_angle_x", "x_fov"} & {*frame.values} and not {"cx", "cy", "fl_x"} & {*frame.values}
        if factor > 1 and not known:
            raise CaptureError(
                f"{frame.where}: w and h are missing, so that it is not known which size the intrinsics are for, and "
                f"{path.parent.name} holds smaller copies; add w and h"
            )
        return intrinsics_of(frame, size, report)
    stated = (int(frame.number("h")), int(frame.number("w")))
    lens = intrinsics_of(frame, stated, report)
    if stated == size:
        return lens
    down, across = size[0] / stated[0], size[1] / stated[1]
    if abs(down / across - 1) > _SAME_ASPECT:
        turned = abs(size[0] / stated[1] / (size[1] / stated[0]) - 1) <= _SAME_ASPECT
        cause = "turned: write it upright" if turned else "cropped: crop cx and cy with it, and write its w and h"
        raise CaptureError(
            f"{frame.where}: {path.name} is {size[1]}x{size[0]} pixels, and its intrinsics are for "
            f"{stated[1]}x{stated[0]}; the image was {cause}"
        )
    line = f"intrinsics are for {stated[1]}x{stated[0]} pixels and scaled to the images' {size[1]}x{size[0]}"
    if line not in report:
        report.append(line)
    lens[0] *= across
    lens[1] *= down
    return lens
