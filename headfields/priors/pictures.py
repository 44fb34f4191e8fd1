"""Pictures of scans beside what a model makes of them."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.avatar import Avatar
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.parts import Field
from headfields.priors.codes import PriorCodes
from headfields.priors.scans import MeshScans
from headfields.records import Camera, Rays

__all__ = ["comparison", "draw_field", "draw_mesh", "trace", "view"]

_LIGHT = (0.3, -0.5, -0.8)
"""Toward the light, in the camera's frame: from above and a little from the right."""


def view(
    center: Float[Tensor, "3"], yaw: float | int = 0.0, pitch: float | int = 0.0, size: int = 128, reach: float = 0.155
) -> Camera:
    """A camera that looks at a head from a meter away.

    Args:
        center: of the head, meters.
        yaw, pitch: degrees from straight ahead; the head is seen from its left side, and from above.
        size: height and width in pixels.
        reach: half of what it sees at the center, meters.
    """
    turn, tilt = math.radians(yaw), math.radians(pitch)
    back = torch.tensor([math.sin(turn) * math.cos(tilt), math.sin(tilt), math.cos(turn) * math.cos(tilt)])
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), back), dim=0)
    down = torch.linalg.cross(right, back)
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, down, -back])
    pose[:3, 3] = -pose[:3, :3] @ (center.cpu() + back)
    focal = size / (2 * reach)
    lens = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(pose[None], lens[None], (size, size))


def trace(field: Field, rays: Rays, steps: int = 64, near: float = 2e-4) -> tuple[Float[Tensor, " n"], Tensor]:
    """Where N rays meet a field of distances: sphere tracing (Hart 1996), from where the model's sphere begins.

    Args:
        field: of the frames that the rays see.
        rays: N rays, meters.
        steps: at most so many; each a little less than the distance, which is none exactly.
        near: the distance that counts as a hit, meters; so does any behind the surface.

    Returns:
        (N,) the distance along each ray and (N,) whether it hit.
    """
    start, end = field.near_far(rays)
    along, hit = start.clone(), torch.zeros(len(rays), dtype=torch.bool, device=start.device)
    left = (start < end).nonzero()[:, 0]
    last = torch.full_like(along, torch.inf)
    with torch.no_grad():
        for _ in range(steps):
            if not len(left):
                break
            ray = rays[left]
            canonical = field.canonicalize(ray.origins + along[left, None] * ray.directions, ray.directions, ray.frame)
            distance = field.decode(canonical, color=False).distance
            assert distance is not None
            hit[left], last[left] = distance < near, distance
            along[left] = along[left] + torch.where(distance.abs() < near, 0.0, 0.9 * distance)
            left = left[~hit[left] & (along[left] < end[left])]
    return along, hit | (last < 5 * near) & (along < end)  # rays that graze come close for long


@torch.no_grad()
def draw_field(avatar: Avatar, codes: PriorCodes, camera: Camera) -> tuple[Tensor, Tensor]:
    """A model's color under a soft light, and its shape alone: two (H, W, 3) images in [0, 1].

    Args:
        avatar: a model of distances.
        codes: one row.
        camera: one camera.
    """
    avatar.eval()
    field = avatar.field(codes.state())
    rays = camera.rays().to(codes.geometry.device)
    along, hit = trace(field, rays)
    points = (rays.origins + along[:, None] * rays.directions)[hit]
    canonical, values = field.signed_distance(points, rays.frame[hit], create_graph=False)
    values = field.color(values, canonical)
    assert values.normal is not None and values.rgb is not None
    return _shaded(hit.cpu(), values.normal.cpu(), values.rgb.cpu(), camera)


@torch.no_grad()
def draw_mesh(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], rgb: Float[Tensor, "v 3"], camera: Camera
) -> tuple[Tensor, Tensor]:
    """A colored mesh, as `draw_field` shows a field.

    Args:
        vertices: (V, 3) meters.
        faces: (F, 3).
        rgb: (V, 3) in [0, 1].
        camera: one camera.
    """
    rays = camera.rays()
    found = TriangleBVH(faces, vertices).raycast(rays.origins, rays.directions)
    hit = found.face >= 0
    ids, weights = faces[found.face[hit]], found.barycentric[hit]
    normals = vertex_normals(vertices, faces, unit=False)
    normal = torch.nn.functional.normalize((normals[ids] * weights[..., None]).sum(1), dim=-1)
    return _shaded(hit, normal, (rgb[ids] * weights[..., None]).sum(1), camera)


def comparison(
    avatar: Avatar, scans: MeshScans, which: Int[Tensor, " b"], codes: PriorCodes, size: int = 128
) -> Float[Tensor, "h w 3"]:
    """A sheet: a row for each of B scans, truth | model from the front, in color and as shape, and from the side.

    Args:
        avatar: the model.
        scans: meshes.
        which: (B,) the scans.
        codes: B rows.
        size: of each picture, pixels.
    """
    rows = []
    for row, scan in enumerate(which.tolist()):
        one = codes[row : row + 1]
        ahead, aside = (view(scans.center, yaw, 5.0, size) for yaw in (0.0, 55.0))
        mesh = (scans.vertices[scan], scans.faces, scans.rgb[scans.person[scan]])
        pictures = []
        for camera in (ahead, aside):
            for truth, model in zip(draw_mesh(*mesh, camera), draw_field(avatar, one, camera), strict=True):
                pictures += [truth, model]
        rows.append(torch.cat(pictures, 1))
    return torch.cat(rows, 0)


def _shaded(hit: Tensor, normal: Tensor, rgb: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    light = camera.world_to_camera[0, :3, :3].T @ torch.nn.functional.normalize(torch.tensor(_LIGHT), dim=0)
    shade = 0.35 + 0.65 * (normal @ light).clamp_min(0)[:, None]
    images = []
    for color in (rgb.clamp(0, 1) * (0.4 + 0.6 * shade), (0.85 * shade).expand(-1, 3)):
        image = torch.ones(len(hit), 3)
        image[hit] = color
        images.append(image.unflatten(0, camera.size))
    return images[0], images[1]
