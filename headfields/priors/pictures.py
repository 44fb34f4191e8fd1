"""Pictures of scans beside what a model makes of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.avatar import Avatar
from headfields.mesh.mesh import Mesh
from headfields.parts import Field
from headfields.priors.codes import PriorCodes
from headfields.priors.scans import MeshScans
from headfields.records import Camera, Rays
from headfields.viz.mesh import CLAY, Light, draw_mesh, view_camera

__all__ = ["comparison", "draw_field", "draw_scan", "scan_camera", "trace"]

_DIRECTION = (0.3, 0.5, 0.8)  # from above and a little from the right
_ON_COLORS = Light(0.61, 0.39, _DIRECTION)
_ON_CLAY = Light(0.35, 0.65, _DIRECTION)


def scan_camera(
    center: Float[Tensor, "3"], yaw: float | int = 0.0, pitch: float | int = 0.0, size: int = 128, extent: float = 0.31
) -> Camera:
    """A camera that looks at a head from a meter away.

    Args:
        center: of the head, meters.
        yaw, pitch: degrees, as `headfields.viz.view_camera` takes them.
        size: height and width in pixels.
        extent: height of the picture at the center, meters.
    """
    return view_camera(center.cpu()[None], yaw, pitch, size, extent=extent, distance=1.0)


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


def draw_scan(scans: MeshScans, scan: int, camera: Camera) -> tuple[Tensor, Tensor]:
    """A scan's color and its shape, lit as `draw_field` lights a field: two (H, W, 3) images in [0, 1].

    Args:
        scans: meshes.
        scan: which.
        camera: one camera.
    """
    mesh = Mesh(scans.vertices[scan], scans.faces, scans.rgb[scans.person[scan]])
    return draw_mesh(mesh, camera, "colors", _ON_COLORS), draw_mesh(mesh, camera, "clay", _ON_CLAY)


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
        ahead, aside = (scan_camera(scans.center, yaw, 5.0, size) for yaw in (0.0, 55.0))
        pictures = []
        for camera in (ahead, aside):
            for truth, model in zip(draw_scan(scans, scan, camera), draw_field(avatar, one, camera), strict=True):
                pictures += [truth, model]
        rows.append(torch.cat(pictures, 1))
    return torch.cat(rows, 0)


def _shaded(hit: Tensor, normal: Tensor, rgb: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    rays = camera.rays().directions[hit]
    images = []
    for color, light in ((rgb.clamp(0, 1), _ON_COLORS), (torch.full_like(rgb, CLAY), _ON_CLAY)):
        image = torch.ones(len(hit), 3)
        image[hit] = color * light.brightness(normal, rays, camera)
        images.append(image.unflatten(0, camera.size))
    return images[0], images[1]
