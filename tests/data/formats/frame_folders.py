"""Made-up folders of metrical-tracker and Pixel3DMM, written from their layouts alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headfields.heads.skinned import SkinnedHead
from tests.data.formats import silhouettes, vhap_folder

SIZE = (44, 36)
FRAMES = 4


def six(vectors: np.ndarray) -> np.ndarray:
    """6D rotations of axis-angle vectors (N, 3): the first two rows of each matrix, (1, 6 N)."""
    return np.concatenate([vhap_folder.rodrigues(v)[:2].numpy().reshape(-1) for v in vectors])[None].astype(np.float32)


def lids(head: SkinnedHead) -> Tensor:
    """(2, V, 3) displacements of the left and the right lid."""
    return 4e-3 * torch.randn(2, len(head.template_vertices), 3, generator=torch.Generator().manual_seed(5))


def values_of(head: SkinnedHead, frame: int) -> dict[str, np.ndarray]:
    """FLAME parameters of a frame, under VHAP's names; neither root nor neck turns."""
    values = vhap_folder.parameters(head, frame, offsets=False)
    for key in ("translation", "rotation", "neck_pose"):
        values[key][:] = 0
    return values


def weights_of(frame: int) -> np.ndarray:
    return np.array([[0.25, 0.5]], np.float32) * (frame + 1)


def view_of(frame: int) -> np.ndarray:
    """World to camera, OpenCV axes: the camera of metrical-tracker carries the head's pose."""
    yaw = 0.3 * (frame - 1.3)
    matrix = np.eye(4)
    turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    matrix[:3, :3] = np.diag([1.0, -1, -1]) @ turn
    matrix[:3, 3] = (0.02 * frame - 0.02, -0.01, 0.8)
    return matrix


def posed(head: SkinnedHead, frame: int, eyelids: bool = True) -> Tensor:
    """(V, 3) in FLAME's frame."""
    vertices = vhap_folder.posed(head, values_of(head, frame))
    shapes = lids(head).double()
    return vertices + torch.einsum("l,lvc->vc", torch.from_numpy(weights_of(frame)[0]).double(), shapes * eyelids)


def _save(folder: Path, kind: str, name: str, pixels: np.ndarray) -> None:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / kind / name)


def _flame(values: dict[str, np.ndarray], frame: int) -> dict[str, np.ndarray]:
    return {
        "exp": values["expr"],
        "shape": values["shape"][None],
        "eyes": six(values["eyes_pose"].reshape(2, 3)),
        "eyelids": weights_of(frame),
        "jaw": six(values["jaw_pose"]),
    }


def metrical_frame(head: SkinnedHead, frame: int, size=SIZE, order: str = "hw") -> dict:
    """The content of one `.frame` of metrical-tracker."""
    view, (height, width) = view_of(frame), size
    return {
        "flame": _flame(values_of(head, frame), frame)
        | {"tex": np.zeros((1, 140), np.float32), "sh": np.zeros((1, 9, 3), np.float32)},
        "camera": {"R": six(np.zeros((1, 3))), "t": np.zeros((1, 3)), "fl": np.ones((1, 1)), "pp": np.zeros((1, 2))},
        "opencv": {"R": view[None, :3, :3], "t": view[None, :3, 3], "K": metrical_intrinsics(size)[None]},
        "img_size": np.array([height, width] if order == "hw" else [width, height]),
        "frame_id": f"{frame:05d}",
        "global_step": 100 * frame,
    }


def metrical_intrinsics(size=SIZE) -> np.ndarray:
    return np.array([[100.0, 0, size[1] / 2 + 1], [0, 102.0, size[0] / 2 - 1], [0, 0, 1]])


def write_metrical(
    folder: Path,
    head: SkinnedHead,
    images: str = "input",
    first: int = 0,
    before: int = 0,
    after: int = 0,
    order: str = "hw",
    eyelids: bool = True,
    mattes: str | None = "matting",
) -> Path:
    """Writes an output folder of metrical-tracker.

    Args:
        images, mattes: names of their folders.
        first: number of the first image.
        before, after: images without a file before and after the others.
        order: of img_size.
        eyelids: whether the lids' blendshapes are in the folder.
    """
    (folder / "checkpoint").mkdir(parents=True)
    for frame in range(FRAMES):
        torch.save(metrical_frame(head, frame, order=order), folder / f"checkpoint/{frame:05d}.frame")
    for number in range(-before, FRAMES + after):
        # Before and after the recording the head is elsewhere, so that mattes tell one image from the next.
        shift = np.eye(4)
        shift[0, 3] = 0.03 * (min(number, 0) + max(number - FRAMES + 1, 0))
        view = shift @ view_of(min(max(number, 0), FRAMES - 1))
        vertices = posed(head, min(max(number, 0), FRAMES - 1), eyelids)
        mask = silhouettes.matte(vertices, head.faces, view, metrical_intrinsics(), SIZE)
        name = f"{number + before + first:05d}.png"
        _save(folder, images, name, silhouettes.picture(mask, 40 + 20 * (number + before)))
        if mattes is not None:
            _save(folder, mattes, name, mask)
    if eyelids:
        for side, shape in zip("lr", lids(head), strict=True):
            np.save(folder / f"{side}_eyelid.npy", shape.numpy())
    return folder


P3DMM_SIDE, P3DMM_STORED = 40, 20
ROTATION, TRANSLATION = np.array([0.1, 0.25, -0.05]), np.array([0.02, -0.03, 0.01])


def pixel3dmm_pose(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3) and t (3,) of the head, about FLAME's origin."""
    return vhap_folder.rodrigues(ROTATION * (frame - 1)).numpy(), TRANSLATION * (frame - 1)


def pixel3dmm_view() -> np.ndarray:
    """World to camera with OpenGL axes."""
    matrix = np.eye(4)
    matrix[:3, 3] = (0.005, -0.02, -0.85)
    return matrix


def pixel3dmm_frame(head: SkinnedHead, frame: int) -> dict:
    """The content of one `.frame` of Pixel3DMM."""
    values, (rotation, translation) = values_of(head, frame), pixel3dmm_pose(frame)
    view = pixel3dmm_view()
    return {
        "flame": _flame(values, frame)
        | {
            "neck": six(np.array([[0.05, 0.02 * frame, 0.0]])),
            "R": rotation[None, :2].reshape(1, 6),
            "R_rotation_matrix": rotation[None],
            "t": translation[None],
        },
        "camera": {
            "R_base_0": view[None, :3, :3],
            "t_base_0": view[None, :3, 3],
            "fl": np.array([[2.5]]),
            "pp": np.array([[0.05, -0.08]]),
        },
        "joint_transforms": np.eye(4)[None, None].repeat(5, 1),
        "img_size": np.array([P3DMM_STORED, P3DMM_STORED]),
        "frame_id": frame,
        "global_step": 7,
    }


def pixel3dmm_intrinsics() -> np.ndarray:
    """Of the images, whose side is twice that of the tracker's."""
    focal = 2.5 * P3DMM_SIDE
    return np.array([[focal, 0, 2 * 10.5 * 1.05], [0, focal, 2 * 10.5 * 0.92], [0, 0, 1]])


def pixel3dmm_posed(head: SkinnedHead, frame: int, eyelids: bool = True) -> Tensor:
    """(V, 3) in the world: R (FLAME's posed mesh with its lids) + t."""
    values = values_of(head, frame)
    values["neck_pose"] = np.array([[0.05, 0.02 * frame, 0.0]], np.float32)
    shapes = lids(head).double() * eyelids
    local = vhap_folder.posed(head, values)
    local = local + torch.einsum("l,lvc->vc", torch.from_numpy(weights_of(frame)[0]).double(), shapes)
    rotation, translation = pixel3dmm_pose(frame)
    return local @ torch.from_numpy(rotation).T + torch.from_numpy(translation)


def write_pixel3dmm(folder: Path, head: SkinnedHead, labels: bool = True, frames: int = FRAMES) -> Path:
    """Writes a preprocessed folder with the tracking folder in it."""
    checkpoint = folder / "someone_nV1_noPho_uv2000.0_n1000.0/checkpoint"
    checkpoint.mkdir(parents=True)
    view = np.diag([1.0, -1, -1, 1]) @ pixel3dmm_view()
    for frame in range(frames):
        torch.save(pixel3dmm_frame(head, frame), checkpoint / f"{frame:05d}.frame")
        vertices = pixel3dmm_posed(head, frame)
        mask = silhouettes.matte(vertices, head.faces, view, pixel3dmm_intrinsics(), (P3DMM_SIDE, P3DMM_SIDE))
        _save(folder, "cropped", f"{frame:05d}.png", silhouettes.picture(mask, 40 + 20 * frame))
        if labels:
            seg = np.where(mask > 0, 2, 0).astype(np.uint8)
            seg[-3:] = 3  # clothes
            seg[(mask > 0) & (np.arange(P3DMM_SIDE)[:, None] < 12)] = 14  # hair
            _save(folder, "seg_og", f"{frame:05d}.png", seg)
    for side, shape in zip("lr", lids(head), strict=True):
        np.save(folder / f"{side}_eyelid.npy", shape.numpy())
    return folder


def changed(path: str, field: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Changes "group.key" in a `.frame` file of a folder; an ellipsis removes it."""

    def apply(folder: Path) -> None:
        content = torch.load(folder / path, weights_only=False)
        group, _, key = field.rpartition(".")
        table = content[group] if group else content
        value = change(table[key])
        if value is ...:
            del table[key]
        else:
            table[key] = value
        torch.save(content, folder / path)

    return apply
