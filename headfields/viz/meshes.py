"""Pictures of meshes: clay, colors, normals, and distances as a heat map."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.rasterize import render_mesh
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera

Look = Literal["clay", "colors", "normals"]


def front_camera(mesh: Mesh, size: int = 512, turn: float = 0.0) -> Camera:
    """A camera that sees all of a mesh from the front (+z), far enough away for little perspective.

    Args:
        mesh: at least one vertex; those that are not finite are not looked at.
        size: side of the square image, pixels.
        turn: degrees by which the camera goes around to the head's left (+x).

    Raises:
        ValueError: no vertex is finite.
    """
    usable = mesh.vertices.detach().float()
    usable = usable[usable.isfinite().all(-1)]
    if not len(usable):
        raise ValueError("front_camera: the mesh has no finite vertex to look at")
    middle = 0.5 * (usable.amin(0) + usable.amax(0))
    radius = float((usable - middle).norm(dim=-1).max().clamp_min(1e-6))
    away = 4.0 * radius
    angle = math.radians(turn)
    backward = usable.new_tensor([math.sin(angle), 0.0, math.cos(angle)])
    down = usable.new_tensor([0.0, -1.0, 0.0])
    rotation = torch.stack([torch.linalg.cross(down, -backward), down, -backward])
    pose = torch.eye(4).to(usable)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ (middle + away * backward)
    focal = 0.5 * size * 0.95 * math.sqrt(away**2 - radius**2) / radius
    intrinsics = usable.new_tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Camera(pose, intrinsics, (size, size))


@torch.no_grad()
def mesh_picture(
    mesh: Mesh,
    camera: Camera,
    look: Look | Float[Tensor, "v 3"] = "clay",
    background: float = 1.0,
    shaded: bool = True,
) -> Float[Tensor, "h w 3"]:
    """A mesh as a camera sees it, (H, W, 3) sRGB in [0, 1].

    Args:
        mesh: with faces (points cannot be drawn); normals are those it has, or the mean of its faces'.
        camera: one camera.
        look: `"clay"`; `"colors"`, the mesh's own; `"normals"` in the camera's frame, x right, y up, z to it as
            red, green, blue; or a color for each vertex (V, 3).
        background: gray level in [0, 1].
        shaded: by a light at the camera; normals are not.

    Raises:
        ValueError: colors are asked for and the mesh has none, or another look.
    """
    normals = mesh.with_normals().normals
    assert normals is not None
    if isinstance(look, Tensor):
        colors = look
    elif look == "colors":
        if mesh.colors is None:
            raise ValueError("mesh_picture: look is 'colors', but the mesh has none")
        colors = mesh.colors
    elif look in ("clay", "normals"):
        colors = torch.full_like(mesh.vertices, 0.8)
    else:
        raise ValueError(f"mesh_picture: look is {look!r}; expected 'clay', 'colors', 'normals' or a tensor (V, 3)")
    seen = render_mesh(TriangleBVH(mesh.faces, mesh.vertices), camera, torch.cat([colors, normals], dim=-1).float())
    color, normal = seen.attributes[..., :3], torch.nn.functional.normalize(seen.attributes[..., 3:], dim=-1)
    local = normal @ camera.world_to_camera.reshape(4, 4)[:3, :3].T.to(normal)
    if isinstance(look, str) and look == "normals":
        color = 0.5 + 0.5 * local * local.new_tensor([1.0, -1.0, -1.0])
    elif shaded:
        rays = camera.rays().directions.reshape(*camera.size, 3)
        color = color * (0.25 + 0.75 * (normal * rays).sum(-1, keepdim=True).abs())
    return torch.where(seen.mask[..., None], color, background).clamp(0.0, 1.0)


def heat(values: Float[Tensor, " n"], limit: float) -> Float[Tensor, "n 3"]:
    """Colors (N, 3), sRGB, of values (N,) from 0 (dark blue) to `limit` and beyond (dark red); gray where NaN."""
    from matplotlib import colormaps

    share = (values.detach().float().cpu() / limit).clamp(0, 1)
    colors = torch.from_numpy(np.asarray(colormaps["turbo"](share.nan_to_num(0.0).numpy()))[:, :3]).float()
    return torch.where(share.isnan()[:, None], 0.6, colors).to(values.device)


def heat_legend(height: int, limit: float, unit: str = "mm", factor: float = 1e3) -> UInt8[np.ndarray, "h w 3"]:
    """A bar of `heat`'s colors with its numbers, as an image of 8 bits.

    Args:
        height: pixels.
        limit: the value at the red end.
        unit, factor: what the numbers are written in, and by what values are multiplied for it.
    """
    from PIL import Image, ImageDraw, ImageFont

    height = max(height, 40)
    bar = heat(torch.linspace(limit, 0.0, height - 20), limit).mul(255).round().byte().numpy()
    canvas = np.full((height, 76, 3), 255, np.uint8)
    canvas[10:-10, 6:22] = bar[:, None]
    image = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for share in (0.0, 0.5, 1.0):
        text = f"{'>' if share == 1 else ''}{share * limit * factor:g} {unit}"
        draw.text((26, 10 + (1 - share) * (height - 21) - 5), text, fill=(0, 0, 0), font=font)
    return np.array(image)
