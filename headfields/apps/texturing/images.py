"""Posed images of a still subject, read from a folder or a capture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headfields.apps.capturing.posed_images import PosedFrames, read_posed_frames
from headfields.data.camera_axes import CONVENTIONS, Convention, Evidence, decide_convention, named_convention
from headfields.data.errors import CaptureError
from headfields.data.formats.insta import is_insta
from headfields.data.image_files import decode_image
from headfields.data.load import load_capture
from headfields.data.undistortion import Undistortion
from headfields.files.reading import reading
from headfields.records import Camera, Record

__all__ = ["PosedImages", "read_posed_images"]

_JUDGES = 12  # images by which the camera convention is decided


@dataclass(frozen=True)
class PosedImages(Record):
    """N images of one size with their cameras.

    Attributes:
        camera: N cameras, world-to-camera, in the frame of the mesh.
        pixels: (N, H, W, 4) sRGB with straight alpha, 8 bits; alpha is the matte, 255 everywhere without one.
        names: (N,) names of the images.
        report: lines on decisions and missing data.
    """

    camera: Camera
    pixels: UInt8[Tensor, "n h w 4"]
    names: tuple[str, ...]
    report: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        n, size = len(self.names), self.camera.size
        if tuple(self.pixels.shape) != (n, *size, 4) or len(self.camera.world_to_camera) != n:
            raise ValueError(
                f"PosedImages: pixels has shape {tuple(self.pixels.shape)}, there are {n} names and "
                f"{len(self.camera.world_to_camera)} cameras of size {size}; expected (N, H, W, 4), N and N"
            )

    def __len__(self) -> int:
        return len(self.names)

    def view(self, index: int) -> tuple[Camera, Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
        """One camera, its image (H, W, 3) in [0, 1], and the matte (H, W)."""
        image = self.pixels[index].float() / 255
        return self.camera[index], image[..., :3], image[..., 3]

    def subset(self, rows: Int[Tensor, " k"] | list[int]) -> "PosedImages":
        """The images of the given rows."""
        index = torch.as_tensor(rows, dtype=torch.long)
        names = tuple(self.names[row] for row in index.tolist())
        return PosedImages(self.camera[index], self.pixels[index], names, self.report)

    @property
    def has_matte(self) -> bool:
        """Whether any pixel is not opaque."""
        return bool((self.pixels[..., 3] < 255).any())


def read_posed_images(
    folder: str | Path,
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    limit: int | None = None,
    convention: Convention = "auto",
) -> PosedImages:
    """Reads a folder of images with a `transforms.json`, as NeRF's and Nerfstudio's, or a capture in INSTA's layout.

    Each frame has `file_path` and `transform_matrix`, `fl_x` (or `camera_angle_x`, `x_fov`), and optionally `cx`, `cy`
    and `mask_path`. The matte is the image's alpha channel or that mask. A capture's own meshes are not read: its
    subject must keep the face still, with the head's motion in the cameras.

    Args:
        folder: holds `transforms.json`, or several `transforms_*.json`, whose frames are joined.
        vertices, faces: the proxy mesh (V, 3), (F, 3) in the frame of the cameras, meters. The right convention of the
            matrices is the one under which it projects onto the mattes.
        limit: most images, evenly spaced; None: all.
        convention: of the matrices, see `headfields.data.camera_axes.Convention`; "auto" decides by the mesh.

    Raises:
        CaptureError: a file is missing or malformed, sizes differ, or the cameras do not see the mesh.
    """
    folder = Path(folder)
    if limit is not None and limit < 1:
        raise CaptureError(f"read_posed_images: limit is {limit}; expected at least 1 image")
    if not folder.is_dir():
        raise CaptureError(f"read_posed_images: {folder} is not a folder; name the one that holds transforms.json")
    if is_insta(folder):
        capture = load_capture(folder, mouth="none")
        rows = _evenly_spaced(len(capture), limit)
        pixels = torch.stack([(capture.image(row) * 255).round().to(torch.uint8) for row in rows])
        names = tuple(capture.frame_names[row] for row in rows)
        images = PosedImages(capture.camera(rows), pixels, names, tuple(capture.report))
    else:
        with reading(folder, "a folder of posed images", CaptureError):
            images = _read_plain(folder, vertices, faces, limit, convention)
    _check_view(images, vertices)
    return images


def _read_plain(
    folder: Path, vertices: Tensor, faces: Tensor, limit: int | None, convention: Convention
) -> PosedImages:
    posed = read_posed_frames(folder)
    rows = _evenly_spaced(len(posed), limit)
    size, report = posed.sizes[rows[0]], [*posed.report]
    images = [_image(posed, row, size) for row in rows]
    matrices, lenses = posed.matrices[rows], posed.intrinsics[rows]
    matte = any((image[..., 3] < 255).any() for image in images)
    if not matte:
        report.append("warning: the images have no matte (alpha, or mask_path); the background may leak in")
    if posed.distortion is not None:
        lens = Undistortion(lenses, posed.distortion[rows], size, [posed.names[row] for row in rows])
        images = [lens.image(number, (image, None, None))[0] for number, image in enumerate(images)]
        if not matte:  # what the lens did not see is no background
            images = [np.concatenate([image[..., :3], np.full_like(image[..., 3:], 255)], axis=2) for image in images]
        report.append(lens.line())
    if convention == "auto":
        mesh = vertices.detach().cpu().numpy().astype(np.float32)
        chosen = _evenly_spaced(len(rows), _JUDGES)
        evidence = [
            Evidence(mesh, matrices[row], lenses[row], images[row][..., 3] > 127 if matte else None, None)
            for row in chosen
        ]
        decision = decide_convention(evidence, faces.cpu().numpy(), size, "camera-to-world, OpenGL axes")
        name = decision.name
    else:
        name = named_convention(convention)
    report.append(f"cameras: {name}{' (the mesh lands on the mattes)' if convention == 'auto' and matte else ''}")
    poses = np.stack([np.linalg.inv(CONVENTIONS[name](matrix)) for matrix in matrices])
    camera = Camera(torch.from_numpy(poses).float(), torch.from_numpy(lenses).float(), size)
    names = tuple(posed.names[row] for row in rows)
    return PosedImages(camera, torch.from_numpy(np.stack(images)), names, tuple(report))


def _image(posed: PosedFrames, row: int, size: tuple[int, int]) -> np.ndarray:
    rgba, mask = decode_image(posed.images[row], posed.names[row], "file_path", "rgba", size), posed.masks[row]
    if mask is not None:
        rgba = rgba.copy()
        rgba[..., 3] = decode_image(mask, posed.names[row], "mask_path", "rgba", size)[..., 0]
    return rgba


def _evenly_spaced(count: int, limit: int | None) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _check_view(images: PosedImages, vertices: Tensor) -> None:
    """Refuses cameras that do not see the mesh."""
    pixels, depth = images.camera.project(vertices.float().expand(len(images), -1, -1))
    height, width = images.camera.size
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels <= pixels.new_tensor([width, height])).all(-1)
    part = inside.float().mean(-1)
    if len(images) and float(part.max()) < 0.02:
        raise CaptureError(
            "read_posed_images: no camera sees 2 % of the proxy's vertices; mesh and cameras must be in one frame, in "
            "meters (--scale), and the matrices in the convention that they are read in (--convention)"
        )
