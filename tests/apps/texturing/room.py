"""A textured thing, a poor mesh of it, and pictures of it from around."""

import functools
import math

import torch
from torch import Tensor

from headfields.apps.texturing.images import PosedImages
from headfields.ops import TriangleBVH
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera
from headfields.renderers import MeshRenderer
from headfields.viz import view_camera
from tests.shapes import uv_sphere

RINGS, SEGMENTS = 24, 36


def bumpy() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A sphere with bumps, 0.1 m: vertices, faces, and texture coordinates in two charts (front and back)."""
    vertices, faces = uv_sphere(RINGS, SEGMENTS, 0.1)
    height = 1 + 0.12 * torch.sin(45 * vertices[:, 0]) * torch.cos(38 * vertices[:, 1] + 20 * vertices[:, 2])
    front = vertices[faces].mean(1)[:, 2] > 0
    flat = vertices / 0.1
    around = (
        flat[:, :2]
        * (torch.atan2(flat[:, :2].norm(dim=-1), flat[:, 2]) / flat[:, :2].norm(dim=-1).clamp(min=1e-6))[:, None]
    )
    back = (
        flat[:, :2]
        * (torch.atan2(flat[:, :2].norm(dim=-1), -flat[:, 2]) / flat[:, :2].norm(dim=-1).clamp(min=1e-6))[:, None]
    )
    scale = 0.23 / (math.pi / 2)
    uv = torch.cat([torch.tensor([0.25, 0.5]) + scale * around, torch.tensor([0.75, 0.5]) + scale * back])
    uv_faces = torch.where(front[:, None], faces, faces + len(vertices))
    return vertices * height[:, None], faces, uv.clamp(0, 1), uv_faces


def painted(size: int = 128) -> Tensor:
    """Soft colored patches."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 18, 18, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0].movedim(0, -1).clamp(0.05, 0.95)


def views(count: int, size: int, offset: float = 0.0) -> list[Camera]:
    points = torch.tensor([[-0.12, -0.12, -0.12], [0.12, 0.12, 0.12]])
    extent = float((points.amax(0) - points.amin(0)).norm())
    pitch = (-25.0, 0.0, 30.0)
    return [view_camera(points, offset + 360 * k / count, pitch[k % 3], size, 1.6, extent=extent) for k in range(count)]


def batch(cameras: list[Camera]) -> Camera:
    poses, lenses = (torch.stack([getattr(c, name) for c in cameras]) for name in ("world_to_camera", "intrinsics"))
    return Camera(poses, lenses, cameras[0].size)


def photographs(cameras: list[Camera], gains: Tensor | None = None) -> PosedImages:
    """What cameras see of the truth, brightened by their gains."""
    vertices, faces, uv, uv_faces = bumpy()
    renderer = MeshRenderer(faces, uv, uv_faces, painted())
    pixels = []
    for index, camera in enumerate(cameras):
        seen = renderer(vertices, camera)
        color = (seen.color / seen.alpha.clamp(min=1e-3)[..., None]).clamp(0, 1)
        if gains is not None:
            color = srgb_from_linear(linear_from_srgb(color) * gains[index]).clamp(0, 1)
        pixels.append((torch.cat([color, seen.alpha[..., None]], -1) * 255).round().to(torch.uint8))
    return PosedImages(batch(cameras), torch.stack(pixels), tuple(f"images/{k:03d}.png" for k in range(len(cameras))))


@functools.lru_cache(maxsize=1)
def poor_mesh() -> Tensor:
    """The vertices, smoothed a little and 4 mm too far out."""
    vertices, faces, _, _ = bumpy()
    smooth = vertices
    for _ in range(1):
        total, count = torch.zeros_like(smooth), torch.zeros(len(smooth), 1)
        for k in range(3):
            total = total.index_add(0, faces[:, k], smooth[faces[:, (k + 1) % 3]] + smooth[faces[:, (k + 2) % 3]])
            count = count.index_add(0, faces[:, k], torch.full((len(faces), 1), 2.0))
        smooth = 0.5 * smooth + 0.5 * total / count
    return smooth + 0.004 * vertex_normals(smooth, faces)


def surface_error(vertices: Tensor) -> float:
    """Mean distance of vertices to the true surface, meters."""
    truth, faces, _, _ = bumpy()
    return float(TriangleBVH(faces, truth).closest(vertices).distance.mean())


def likeness(vertices: Tensor, texture: Tensor, cameras: list[Camera]) -> float:
    """PSNR against the truth, where both are seen, dB."""
    truth, faces, uv, uv_faces = bumpy()
    ours, theirs = (MeshRenderer(faces, uv, uv_faces, image) for image in (texture, painted()))
    total, count = 0.0, 0
    for camera in cameras:
        mine, its = ours(vertices, camera), theirs(truth, camera)
        both = (mine.face >= 0) & (its.face >= 0)
        total += float((mine.color - its.color)[both].square().mean(-1).sum())
        count += int(both.sum())
    return -10 * math.log10(total / count)
