"""Pictures of scans next to a model's reconstructions: rendering by sphere tracing, comparison sheets."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.priors.codes import PriorCodes
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.avatar.avatar import Avatar
from headfields.mesh.mesh import Mesh
from headfields.parts import Field
from headfields.records import Camera, Rays
from headfields.viz.mesh import CLAY, Light, draw_mesh, view_camera

__all__ = ["comparison", "draw_field", "draw_scan", "scan_camera", "trace"]

_DIRECTION = (0.3, 0.5, 0.8)  # from above and a little from the right
_ON_COLORS = Light(0.61, 0.39, _DIRECTION)
_ON_CLAY = Light(0.35, 0.65, _DIRECTION)


def scan_camera(
    center: Float[Tensor, "3"], yaw: float | int = 0.0, pitch: float | int = 0.0, size: int = 128, extent: float = 0.31
) -> Camera:
    """A camera that looks at a head from a distance of one meter.

    Args:
        center: center of the head, meters.
        yaw, pitch: degrees, as `headfields.viz.view_camera` takes them.
        size: height and width in pixels.
        extent: height of the picture at the center, meters.
    """
    return view_camera(center.cpu()[None], yaw, pitch, size, extent=extent, distance=1.0)


def trace(field: Field, rays: Rays, steps: int = 64, near: float = 2e-4) -> tuple[Float[Tensor, " n"], Tensor]:
    """Intersections of N rays with a field of distances, by sphere tracing (Hart 1996).

    Args:
        field: signed distance field of the rays' frames.
        rays: N rays, meters.
        steps: maximum number; each is 0.9 of the distance, because learned distances are not exact.
        near: distances below this, negative ones too, count as a hit, meters.

    Returns:
        (N,) the distance along each ray and (N,) whether it hit.
    """
    start, end = field.near_far(rays)
    along, hit = start.clone(), torch.zeros(len(rays), dtype=torch.bool, device=start.device)
    active = (start < end).nonzero()[:, 0]
    last = torch.full_like(along, torch.inf)
    with torch.no_grad():
        for _ in range(steps):
            if not len(active):
                break
            ray = rays[active]
            canonical = field.canonicalize(
                ray.origins + along[active, None] * ray.directions, ray.directions, ray.frame
            )
            distance = field.decode(canonical, color=False).distance
            assert distance is not None
            hit[active], last[active] = distance < near, distance
            along[active] = along[active] + torch.where(distance.abs() < near, 0.0, 0.9 * distance)
            active = active[~hit[active] & (along[active] < end[active])]
    return along, hit | (last < 5 * near) & (along < end)  # grazing rays stay close to the surface for many steps


@torch.no_grad()
def draw_field(avatar: Avatar, codes: PriorCodes, camera: Camera) -> tuple[Tensor, Tensor]:
    """A model's colors and its shape as clay, lit: two (H, W, 3) images in [0, 1].

    Args:
        avatar: a model with a decoder of distances.
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
    """A scan's colors and its shape as clay, lit as in `draw_field`: two (H, W, 3) images in [0, 1].

    Args:
        scans: meshes.
        scan: number in the set.
        camera: one camera.
    """
    mesh = Mesh(scans.vertices[scan], scans.faces, scans.rgb[scans.person[scan]])
    return draw_mesh(mesh, camera, "colors", _ON_COLORS), draw_mesh(mesh, camera, "clay", _ON_CLAY)


def comparison(
    avatar: Avatar, scans: MeshScans, which: Int[Tensor, " b"], codes: PriorCodes, size: int = 128
) -> Float[Tensor, "h w 3"]:
    """A sheet with a row for each of B scans: truth | model in colors and as clay, from the front and from the side.

    Args:
        avatar: the model.
        scans: meshes.
        which: (B,) numbers of scans in the set.
        codes: B rows.
        size: side of each picture, pixels.
    """
    rows = []
    for row, scan in enumerate(which.tolist()):
        pictures = []
        for yaw in (0.0, 55.0):
            camera = scan_camera(scans.center, yaw, 5.0, size)
            models = draw_field(avatar, codes[row : row + 1], camera)
            for truth, model in zip(draw_scan(scans, scan, camera), models, strict=True):
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
