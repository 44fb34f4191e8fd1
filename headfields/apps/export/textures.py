"""A head mesh's texture: from what an avatar shows of it, or from a capture's own images. Our own choice."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.export.rigged_mesh import RiggedMesh
from headfields.apps.progress_estimate import announced
from headfields.apps.texturing.bake import bake_texture
from headfields.apps.texturing.images import PosedImages
from headfields.avatar.avatar import Avatar
from headfields.avatar.splat_avatar import SplatAvatar
from headfields.data.capture import Capture
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.records import Camera, HeadState

__all__ = ["texture_of_avatar", "texture_of_capture", "texture_side"]

_MOST_TEXELS, _MOST_PIXELS = 1024, 384
"""Largest texture and renderings that are chosen by the size of a capture's images."""
_VIEWS = tuple((yaw, pitch) for pitch in (0, 25, -20) for yaw in (0, -35, 35, -70, 70, -110, 110, 180))


def texture_of_avatar(
    avatar: Avatar | SplatAvatar,
    state: HeadState,
    rig: RiggedMesh,
    camera: Camera,
    resolution: int | None = None,
    size: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "h w 3"]:
    """The avatar of one frame, rendered from around the head and projected onto its tracked mesh.

    What stands off the mesh (hair) is painted onto it. Parts that training never saw, such as the back of a head that
    was recorded from the front, look as the avatar shows them from there.

    Args:
        avatar: any avatar.
        state: one frame, best a neutral one.
        rig: the mesh of that head, with texture coordinates; the state's vertices are its posed ones.
        camera: one that the avatar was trained with; it gives the distance and the lens.
        resolution: side of the texture, texels; `texture_side` of the camera's images if None.
        size: longer side of the renderings, pixels. If None, twice that of the camera's images, at most 384: on a
            capture of 64², 128 and 256 texels took 8 processor seconds where 384 and 1024 took 73, and the mesh looked
            as near to the avatar from the front (23.24 and 23.25 dB), 0.1 dB farther from the side.
        progress: whether to show progress bars on stderr.

    Returns:
        (H, W, 3) sRGB, row 0 at v = 1, on the CPU.

    Raises:
        ValueError: the rig has no texture coordinates.
    """
    mesh = rig.mesh
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("texture_of_avatar: the rig has no texture coordinates; headfields.ops.unwrap makes some")
    resolution = texture_side(camera.size) if resolution is None else resolution
    size = min(2 * max(camera.size), _MOST_PIXELS) if size is None else size
    vertices = state.vertices[0, : len(mesh.vertices)].detach().cpu()
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    view = camera.to("cpu").map(lambda tensor: tensor.reshape(-1, *tensor.shape[-2:])[0])
    view = view.scaled(size / max(camera.size))
    distance, focal = float((view.center - middle).norm()), float(view.intrinsics[0, 0])
    device = state.vertices.device
    cameras, pixels = [], []
    for yaw, pitch in announced(_VIEWS, "views", "view", progress):
        orbit = Camera.orbit(middle, distance, yaw=yaw, pitch=pitch, size=view.size, focal=focal)
        image = avatar.render(orbit.to(device), state, 0.0)
        alpha = image.opacity.detach().clamp(0, 1)[..., None].cpu()
        straight = (image.rgb.detach().cpu() / alpha.clamp_min(1e-3)).clamp(0, 1)
        pixels.append(_bytes(torch.cat([straight, alpha], dim=-1)))
        cameras.append(orbit)
    names = tuple(f"{yaw}_{pitch}" for yaw, pitch in _VIEWS)
    images = PosedImages(Camera.collate(cameras), torch.stack(pixels), names)
    return bake_texture(
        images, vertices, mesh.faces, mesh.uv, mesh.uv_faces, resolution, even_exposure=False, progress=progress
    ).texture


def texture_side(size: Sequence[int]) -> int:
    """Side in texels of a texture that keeps what images of this (height, width) show of a head: four times the longer
    side, since three pixels go around a head for one across it and charts leave gaps; a power of two, at most 1024.

    >>> [texture_side((side, side)) for side in (48, 64, 128, 256, 512)]
    [256, 256, 512, 1024, 1024]
    """
    return min(2 ** math.ceil(math.log2(4 * max(size))), _MOST_TEXELS)


def texture_of_capture(
    capture: Capture, rig: RiggedMesh, resolution: int | None = None, images: int = 24, progress: bool = False
) -> Float[Tensor, "h w 3"]:
    """A capture's own images, projected onto its tracked mesh.

    Of the training frames those with the most neutral faces are used, of as many directions of view as there are.

    Args:
        capture: the capture.
        rig: `rig_of_capture(capture)`.
        resolution: side of the texture, texels; `texture_side` of its images if None.
        images: most images.
        progress: whether to show a progress bar on stderr.

    Returns:
        (H, W, 3) sRGB, row 0 at v = 1.

    Raises:
        CaptureError: an image or a mesh cannot be read.
        ValueError: the rig has no texture coordinates.
    """
    mesh = rig.mesh
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("texture_of_capture: the rig has no texture coordinates; headfields.ops.unwrap makes some")
    resolution = texture_side(capture.size) if resolution is None else resolution
    frames = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    vertices = capture.state(frames).vertices[:, : len(mesh.vertices)]
    turn = rigid_transform(*fit_rigid(mesh.vertices, vertices))
    held = (vertices - turn[:, None, :3, 3]) @ turn[:, :3, :3]
    away = (held - mesh.vertices).square().sum(-1).mean(-1)
    views = capture.camera(frames)
    still = Camera(views.world_to_camera @ turn, views.intrinsics, views.size)  # as if the head had not moved
    middle = mesh.vertices.mean(0)
    directions = torch.nn.functional.normalize(still.center - middle, dim=-1)
    calm = away.argsort()[: max(len(frames) // 2, min(images, len(frames)))]
    chosen = [int(calm[0])]
    spread = directions[calm] @ directions[chosen[0]]
    while len(chosen) < min(images, len(calm)):  # farthest from those that there are
        new = int(calm[int(spread.argmin())])
        chosen.append(new)
        spread = torch.maximum(spread, directions[calm] @ directions[new])
        spread[(calm == new).nonzero()[:, 0]] = 2.0
    pixels = torch.stack([_bytes(capture.image(int(frames[row]))) for row in chosen])
    posed = PosedImages(
        still[torch.tensor(chosen)], pixels, tuple(capture.frame_names[int(frames[row])] for row in chosen)
    )
    return bake_texture(posed, mesh.vertices, mesh.faces, mesh.uv, mesh.uv_faces, resolution, progress=progress).texture


def _bytes(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
