"""Pictures of a mesh from given sides, textured or plain: for looking at rigs and templates."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.rasterize import render_mesh
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera

__all__ = ["mesh_view", "view_camera"]

_LENS = 6.0  # distance of the camera over the size of what it frames: a long lens, little perspective


def view_camera(
    points: Float[Tensor, "n 3"],
    yaw: float = 0.0,
    pitch: float = 0.0,
    size: int = 512,
    zoom: float = 1.0,
    center: Float[Tensor, "3"] | None = None,
    extent: float | None = None,
) -> Camera:
    """A camera that looks at points from in front (yaw 0), from their left (yaw 90) or from behind (yaw 180).

    Args:
        points: (N, 3) what is to be in the picture, meters, y up, face toward +z.
        yaw: degrees about the vertical axis, positive toward the head's left (+x).
        pitch: degrees by which the camera stands above.
        size: height and width of the picture, pixels.
        zoom: above 1 for a closer look.
        center: (3,) the middle of the picture; that of the points' box if left out.
        extent: meters that the picture is high; what the points need if left out.

    Raises:
        ValueError: there are no points, or size or zoom is not positive.
    """
    if not len(points) or size < 1 or not zoom > 0:
        raise ValueError(f"view_camera: {len(points)} points, size {size} and zoom {zoom}; each must be positive")
    low, high = points.detach().amin(0), points.detach().amax(0)
    middle = 0.5 * (low + high) if center is None else center.detach()
    height = float((high - low).norm()) if extent is None else extent
    a, b = math.radians(yaw), math.radians(pitch)
    back = points.new_tensor([math.sin(a) * math.cos(b), math.sin(b), math.cos(a) * math.cos(b)])
    right = points.new_tensor([math.cos(a), 0.0, -math.sin(a)])
    down = torch.linalg.cross(-back, right)
    rotation = torch.stack([right, down, -back])
    distance = _LENS * max(height, 1e-6)
    pose = torch.eye(4).to(points)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ (middle + distance * back)
    focal = size * zoom * distance / max(height, 1e-6)
    lens = points.new_tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(pose, lens, (size, size))


def mesh_view(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
    uv: Float[Tensor, "t 2"] | None = None,
    uv_faces: Int[Tensor, "f 3"] | None = None,
    texture: Float[Tensor, "rows columns 3"] | None = None,
    colors: Float[Tensor, "v 3"] | Float[Tensor, "f 3 3"] | None = None,
    light: Sequence[float] = (0.35, 0.55, 0.85),
    shading: float = 0.75,
    samples: int = 2,
) -> Float[Tensor, "height width 3"]:
    """Draws a mesh over white: its texture, or colors at vertices or corners, or gray, under one far light.

    Args:
        vertices: (V, 3) meters. faces: (F, 3).
        camera: one camera.
        uv, uv_faces: (T, 2) texture coordinates, v up, and (F, 3) indices into them; with `texture`.
        texture: (H, W, 3) sRGB in [0, 1], row 0 at v = 1.
        colors: (V, 3) or (F, 3, 3) sRGB in [0, 1], where there is no texture.
        light: direction toward the light as the camera sees it: right, up, toward the camera.
        shading: how much the light does, in [0, 1]; 0 shows the colors alone. Back faces are shown blue.
        samples: rays a pixel along each side.

    Returns:
        (H, W, 3) sRGB in [0, 1].
    """
    fine = camera.scaled(float(samples))
    corners = colors
    if texture is not None and uv is not None and uv_faces is not None:
        corners = uv[uv_faces]
    elif colors is None:
        corners = torch.full_like(vertices, 0.72)
    assert corners is not None
    normals = vertex_normals(vertices, faces)[faces]
    values = corners if corners.dim() == 3 else corners[faces]
    image = render_mesh(TriangleBVH(faces, vertices), fine, torch.cat([values.to(vertices), normals], -1))
    color, normal = image.attributes[..., :-3], image.attributes[..., -3:]
    if texture is not None and uv is not None and uv_faces is not None:
        color = sample_texture(texture.to(color), color)
    turn = fine.world_to_camera.reshape(4, 4)[:3, :3]
    normal = torch.nn.functional.normalize(normal, dim=-1) @ turn.T.to(normal)
    toward = torch.nn.functional.normalize(normal.new_tensor([light[0], -light[1], -light[2]]), dim=0)
    lit = 1 - shading + shading * (0.25 + 0.75 * (normal @ toward).clamp_min(0)) * 1.15
    color = (color * lit[..., None]).clamp(0, 1)
    rays = fine.rays().directions.reshape(*fine.size, 3)
    away = (image.normal * rays.to(normal)).sum(-1) > 0
    color = torch.where(away[..., None], color.new_tensor([0.25, 0.35, 0.8]), color)
    color = torch.where(image.mask[..., None], color, torch.ones_like(color))
    height, width = camera.size
    return color.reshape(height, samples, width, samples, 3).mean((1, 3))
