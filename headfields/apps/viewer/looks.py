"""How the viewer shows a rendering: its colors, normals, depth, or the triangle nearest to each visible point."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headfields.ops.ray_length import ray_length
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Rendering
from headfields.records import Camera
from headfields.records.opengl_axes import flip_y_z
from headfields.viz.heat import heat
from headfields.viz.images import to_uint8

__all__ = ["LOOKS", "Look", "Picture", "drawn", "face_colors"]

Look = Literal["color", "normals", "depth", "nearest triangle"]
LOOKS: tuple[Look, ...] = get_args(Look)
_SOLID = 0.5
"""Opacity from which a pixel shows a surface: it has a depth, a normal and a nearest triangle."""
FAR = 100.0
"""Depth of empty pixels, meters, behind everything in the scene."""


@dataclass(frozen=True)
class Picture:
    """An image of the scene with its depth, so that meshes and lines hide behind it or in front of it.

    Attributes:
        rgb: (H, W, 3) of 8 bits.
        depth: (H, W) along the optical axis, meters; `FAR` where nothing is.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]


def face_colors(count: int) -> Float[Tensor, "f 3"]:
    """A color (F, 3) for each of F faces, unlike its neighbors: hues by steps of the golden ratio."""
    index = torch.arange(count, dtype=torch.float64)[:, None]
    hue, value = index * 0.618033988749895 % 1.0, 0.6 + 0.4 * (index * 0.7548776662466927 % 1.0)
    sector = (6 * hue + torch.tensor([5.0, 3.0, 1.0])) % 6  # HSV to RGB
    return (value * (1 - 0.55 * torch.minimum(sector, 4 - sector).clamp(0, 1))).float()


@torch.no_grad()
def drawn(
    rendering: Rendering,
    camera: Camera,
    look: Look,
    background: float | int = 1.0,
    mesh: tuple[Float[Tensor, "v 3"], Int[Tensor, "f 3"]] | None = None,
    depths: tuple[float | int, float | int] | None = None,
) -> Picture:
    """A rendering of (H, W, ...) as a picture.

    Args:
        rendering: what an avatar's `render` gives.
        camera: its camera.
        look: what is shown. Normals are the rendering's, or the gradients of its depth where it has none.
        background: gray behind the head in [0, 1], of looks other than color (which has its own).
        mesh: vertices (V, 3) and faces (F, 3) of the frame, for the nearest triangles.
        depths: the depths that are drawn red and blue, meters; the image's own extremes if None.

    Raises:
        ValueError: an unknown look, or the nearest triangle without a mesh.
    """
    if look not in LOOKS:
        raise ValueError(f"drawn: look is {look!r}; expected one of {', '.join(LOOKS)}")
    opacity = rendering.opacity.detach().cpu().float()
    solid = opacity > _SOLID
    along = torch.where(solid, rendering.depth.detach().cpu().float() / opacity.clamp_min(1e-6), 0.0)
    lens = camera.require_pinhole("drawn").intrinsics.reshape(1, 3, 3).to(opacity)
    length = ray_length(lens, *camera.size)[0]
    depth = torch.where(solid, along / length, FAR)
    if look == "color":
        rgb: Any = rendering.rgb.detach().cpu()
    elif look == "depth":
        if depths is None:
            depths = (float(depth[solid].min()), float(depth[solid].max())) if bool(solid.any()) else (0.0, 1.0)
        near, far = depths
        share = (depth - near) / max(far - near, 1e-6)
        rgb = heat(1.0 - share.clamp(0, 1).flatten(), 1.0).reshape(*camera.size, 3)
    else:
        directions = camera.rays().directions.reshape(*camera.size, 3).cpu().float()
        pose = camera.world_to_camera.reshape(4, 4).cpu().float()
        points = camera.center.reshape(3).cpu().float() + along[..., None] * directions
        if look == "normals":
            local = _normals(rendering, points) @ pose[:3, :3].T
            rgb = 0.5 + 0.5 * flip_y_z(local)
        else:
            if mesh is None:
                raise ValueError("drawn: the nearest triangle needs the mesh of the frame, which this scene has not")
            vertices, faces = mesh
            rgb = torch.full((*camera.size, 3), background)
            if bool(solid.any()):
                nearest = TriangleBVH(faces.cpu(), vertices.detach().cpu().float()).closest(points[solid])
                rgb[solid] = face_colors(len(faces))[nearest.face]
    if look != "color":
        rgb = torch.where(solid[..., None], rgb.float(), background)
    return Picture(to_uint8(rgb), depth.numpy())


def _normals(rendering: Rendering, points: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w 3"]:
    """Unit normals toward the camera: the rendering's, or of the surface through the visible points."""
    if rendering.normal is not None:
        return torch.nn.functional.normalize(rendering.normal.detach().cpu().float(), dim=-1)
    if min(points.shape[:2]) < 2:
        return torch.zeros_like(points)
    down, right = torch.gradient(points, dim=(0, 1))
    return torch.nn.functional.normalize(torch.linalg.cross(down, right), dim=-1)
