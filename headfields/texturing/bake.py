"""A texture for a mesh, from posed images of it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from tqdm import tqdm

from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from headfields.ops.texture import fill_texels, mip_pyramid, sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.uv import UVRasterizer
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera, Record
from headfields.renderers.mesh import MeshRenderer
from headfields.texturing.exposure import view_gains
from headfields.texturing.images import PosedImages

__all__ = ["BakedTexture", "bake_texture"]

_GRAZING = 0.15  # cosine below which a view is not asked
_SHARPNESS = 3.0  # power of the cosine
_RIM = 1.5  # texels beyond a chart that are colored from the images, for bilinear reading
_SPREAD = 0.02  # linear light; samples this near to the median are never outliers


@dataclass(frozen=True)
class BakedTexture(Record):
    """What `bake_texture` gives.

    Attributes:
        texture: (H, W, 3) sRGB in [0, 1], row 0 at v = 1; without holes.
        seen: (H, W) where a view saw the texel; elsewhere it is filled.
        confidence: (H, W) sum of the weights of the views that a texel was made from.
        gains: (N,) brightness of each view beside the others, in linear light; taken out.
    """

    texture: Float[Tensor, "h w 3"]
    seen: Bool[Tensor, "h w"]
    confidence: Float[Tensor, "h w"]
    gains: Float[Tensor, " n"]


def bake_texture(
    images: PosedImages,
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    resolution: int = 1024,
    keep: int = 8,
    margin: float | int | None = None,
    even_exposure: bool = True,
    progress: bool = False,
) -> BakedTexture:
    """Colors every texel from the views that see it best.

    A view counts for a point if a ray from its camera reaches it, its surface is not grazed, and the matte is there;
    with the cube of the cosine of the viewing angle, and less within `margin` of an outline of the mesh or the matte,
    where a mesh that is a little off shows the wrong thing. The `keep` heaviest samples of each texel are kept;
    brightness of the views is evened out; what is far from the samples' weighted median is left out, and the rest
    averaged, in linear light. Texels that nobody saw take their surroundings' color, coarse to fine. Our own choices.

    Args:
        images: of the mesh, in its frame; the subject stands still.
        vertices, faces: (V, 3) meters, (F, 3).
        uv, uv_faces: (T, 2) texture coordinates in [0, 1] without overlaps, and (F, 3) indices into them.
        resolution: side of the square texture, texels.
        keep: samples a texel.
        margin: pixels; 1 % of the images' longer side if None.
        even_exposure: whether differences of brightness between views are taken out.
        progress: whether to show a bar.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, resolution or keep is less than 1, margin is negative, or there is no image.
    """
    op = "bake_texture"
    check_floating(op, "vertices", vertices)
    check_shape(op, "vertices", vertices, "V 3")
    check_integer(op, "faces", faces)
    if resolution < 1 or keep < 1 or (margin is not None and not margin >= 0):
        raise ValueError(f"{op}: resolution is {resolution}, keep {keep} and margin {margin}; expected 1 or more, 1 or "
                         "more, and 0 or more pixels")  # fmt: skip
    if not len(images):
        raise ValueError(f"{op}: there are no images")
    if margin is None:
        margin = 0.01 * max(images.camera.size)
    with torch.no_grad():
        vertices = vertices.float()
        maps = UVRasterizer(faces, uv, uv_faces, resolution, padding=_RIM, vertex_count=len(vertices))
        texel = (maps.face.reshape(-1) >= 0).nonzero()[:, 0]
        corners = faces.long()[maps.face.reshape(-1)[texel]]
        where = maps.barycentric.reshape(-1, 3)[texel][..., None]
        points = (vertices[corners] * where).sum(1)
        normals = torch.nn.functional.normalize((vertex_normals(vertices, faces)[corners] * where).sum(1), dim=-1)
        collected = _Samples(len(texel), keep)
        tree, renderer = TriangleBVH(faces, vertices), MeshRenderer(faces)
        views: Iterable[int] = range(len(images))
        for index in tqdm(views, desc="baking", unit="view", disable=not progress):
            camera, color, matte = images.view(index)
            clear = _clearance(renderer, vertices, camera, matte, float(margin))
            collected.add(index, *_seen(camera, color, clear, points, normals, tree))
        ones = torch.ones(len(images))
        gains = view_gains(collected.light, collected.weight, collected.view, len(images)) if even_exposure else ones
        light = collected.light / gains[collected.view][..., None]
        mixed, total = _mixed(light, collected.weight)
        blank = torch.zeros(resolution**2, 3)
        known = torch.zeros(resolution**2, dtype=torch.bool).index_copy(0, texel, total > 0)
        linear = blank.index_copy(0, texel, mixed).reshape(resolution, resolution, 3)
        confidence = blank[:, 0].index_copy(0, texel, total).reshape(resolution, resolution)
        known = known.reshape(resolution, resolution)
        texture = srgb_from_linear(_filled(linear, known, maps.face >= 0)).clamp(0, 1)
    return BakedTexture(texture, known, confidence, gains)


class _Samples:
    """The heaviest samples of each point."""

    def __init__(self, points: int, keep: int) -> None:
        self.light, self.weight = torch.zeros(points, keep, 3), torch.zeros(points, keep)
        self.view = torch.zeros(points, keep, dtype=torch.long)

    def add(self, view: int, row: Tensor, light: Tensor, weight: Tensor) -> None:
        """Takes samples of the points `row` into the place of their lightest ones, if these are lighter."""
        lightest, place = self.weight[row].min(-1)
        better = weight > lightest
        row, place = row[better], place[better]
        self.light[row, place], self.weight[row, place] = light[better], weight[better]
        self.view[row, place] = view


def _clearance(
    renderer: MeshRenderer, vertices: Tensor, camera: Camera, matte: Tensor, margin: float
) -> Float[Tensor, "h w"]:
    """How much each pixel counts: 0 outside the matte and at outlines, 1 from `margin` on."""
    seen = renderer(vertices, camera)
    flat = torch.ones(seen.face.numel(), dtype=torch.bool)
    flat[seen.crossings.near] = False
    flat[seen.crossings.far] = False
    away = distance_transform_edt(flat.reshape(seen.face.shape).numpy()) if not flat.all() else None
    inside = distance_transform_edt((matte > 0.5).numpy()) if bool((matte <= 0.5).any()) else None
    ramp = torch.ones_like(matte)
    for distance in (away, inside):
        if distance is not None:
            part = (torch.from_numpy(distance).float() / max(margin, 1.0)).clamp(0, 1)
            ramp = ramp * part * part * (3 - 2 * part)
    return ramp * (matte > 0.5)


def _seen(
    camera: Camera, color: Tensor, clear: Tensor, points: Tensor, normals: Tensor, tree: TriangleBVH
) -> tuple[Tensor, Tensor, Tensor]:
    """Which points the view sees, their light (N, 3) and weight (N,)."""
    height, width = camera.size
    center = camera.center.reshape(3)
    toward = points - center
    distance = toward.norm(dim=-1)
    cosine = -(toward * normals).sum(-1) / distance
    pixels, depth = (x[0] for x in camera.project(points[None]))
    inside = (pixels > 0.5).all(-1) & (pixels < pixels.new_tensor([width, height]) - 0.5).all(-1)
    row = ((cosine > _GRAZING) & (depth > 0) & inside).nonzero()[:, 0]
    uv = torch.stack([pixels[row, 0] / width, 1 - pixels[row, 1] / height], -1)
    weight = sample_texture(clear[..., None], uv)[:, 0] * cosine[row] ** _SHARPNESS
    some = weight > 1e-4
    row, uv, weight = row[some], uv[some], weight[some]
    if not len(row):
        return row, torch.zeros(0, 3), weight
    size = float((points.amax(0) - points.amin(0)).norm())
    slack = min(2e-3 * size / float(distance[row].min()), 0.5)
    blocked = tree.raycast(center.expand(len(row), 3), toward[row], max_distance=1 - slack).face >= 0
    row, uv, weight = row[~blocked], uv[~blocked], weight[~blocked]
    return row, linear_from_srgb(sample_texture(color, uv)), weight


def _mixed(light: Tensor, weight: Tensor) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"]]:
    """The mean of each point's samples without those far from their weighted median, and the weight of what is left."""
    middle = _weighted_median(light, weight[..., None].expand_as(light))
    apart = (light - middle[:, None]).abs().mean(-1)
    usual = _weighted_median(apart[..., None], weight[..., None])
    kept = weight * (apart <= 2.5 * usual.clamp(min=_SPREAD))
    total = kept.sum(-1)
    return (light * kept[..., None]).sum(1) / total.clamp(min=1e-12)[:, None], total


def _weighted_median(values: Tensor, weight: Tensor) -> Float[Tensor, "t c"]:
    ordered, order = values.sort(1)
    share = weight.gather(1, order).cumsum(1)
    place = (share < 0.5 * share[:, -1:]).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    return ordered.gather(1, place)[:, 0]


def _filled(light: Tensor, known: Tensor, chart: Tensor) -> Float[Tensor, "h w 3"]:
    """Unknown texels of charts from their surroundings, coarse to fine; what is between charts from the nearest."""
    if not bool(known.any()):
        return torch.full_like(light, 0.2)
    pyramid = mip_pyramid(torch.cat([light * known[..., None], known[..., None].to(light)], -1))
    coarse = pyramid.level(len(pyramid.sizes) - 1)
    below = coarse[..., :3] / coarse[..., 3:].clamp(min=1e-12)
    for index in range(len(pyramid.sizes) - 2, -1, -1):
        level, size = pyramid.level(index), pyramid.sizes[index]
        image = below.movedim(-1, 0)[None]
        up = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)[0].movedim(0, -1)
        cover = level[..., 3:]
        below = torch.where(cover > 1e-6, level[..., :3] / cover.clamp(min=1e-6), up)
    return fill_texels(torch.where(known[..., None], light, below), chart)
