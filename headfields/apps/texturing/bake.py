"""Texture baking: the colors of a mesh's texels from posed images of it.

Weights, thresholds and the order of steps are our own choice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from headfields.apps.progress_estimate import announced
from headfields.apps.texturing.exposure import view_gains
from headfields.apps.texturing.images import PosedImages
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.smoothstep import smoothstep
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from headfields.ops.texture import fill_texels, mip_pyramid, sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.uv import UVRasterizer
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera, Record
from headfields.renderers.mesh import MeshRenderer

__all__ = ["BakedTexture", "bake_texture"]

_GRAZING = 0.15  # least cosine of a view's angle
_SHARPNESS = 3.0  # power of that cosine in a view's weight
_RIM = 1.5  # texels of padding around charts, for bilinear sampling
_SPREAD = 0.02  # linear light: samples this near to the median are never outliers


@dataclass(frozen=True)
class BakedTexture(Record):
    """A baked texture, and how well each texel was observed.

    Attributes:
        texture: (H, W, 3) sRGB in [0, 1], row 0 at v = 1; without holes.
        visible: (H, W) mask of texels that some view sees; the others are filled in.
        confidence: (H, W) sum of the weights of a texel's views.
        gains: (N,) exposure of each view relative to the others, in linear light; divided out of the texture.
    """

    texture: Float[Tensor, "h w 3"]
    visible: Bool[Tensor, "h w"]
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

    A view sees a point if a ray from its camera reaches it, at an angle that does not graze, inside the matte. Its
    weight is the cube of the cosine of that angle, and falls within `margin` of the outlines of mesh and matte, where a
    small error of the mesh shows the wrong surface. Each texel keeps its `keep` heaviest samples. Exposure gains are
    divided out, samples far from the weighted median are dropped, and the rest is averaged in linear light. Texels that
    no view sees are filled in from their surroundings, coarse to fine.

    Args:
        images: images of the mesh, with cameras in its frame; the subject stands still.
        vertices, faces: (V, 3) meters, (F, 3).
        uv, uv_faces: (T, 2) texture coordinates in [0, 1] without overlaps, and (F, 3) indices into them.
        resolution: side of the square texture, texels.
        keep: most samples per texel.
        margin: pixels; None: 1 % of the images' longer side.
        even_exposure: whether to divide out differences of exposure between views.
        progress: whether to show a progress bar.

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
        barycentric = maps.barycentric.reshape(-1, 3)[texel][..., None]
        points = (vertices[corners] * barycentric).sum(1)
        normals = torch.nn.functional.normalize((vertex_normals(vertices, faces)[corners] * barycentric).sum(1), dim=-1)
        samples = _Samples(len(texel), keep)
        tree, renderer = TriangleBVH(faces, vertices), MeshRenderer(faces)
        for index in announced(range(len(images)), "baking", "view", progress):
            camera, color, matte = images.view(index)
            clear = _clearance(renderer, vertices, camera, matte, float(margin))
            samples.add(index, *_visible(camera, color, clear, points, normals, tree))
        ones = torch.ones(len(images))
        gains = view_gains(samples.light, samples.weight, samples.view, len(images)) if even_exposure else ones
        light = samples.light / gains[samples.view][..., None]
        mean, total = _robust_mean(light, samples.weight)
        blank = torch.zeros(resolution**2, 3)
        visible = torch.zeros(resolution**2, dtype=torch.bool).index_copy(0, texel, total > 0)
        linear = blank.index_copy(0, texel, mean).reshape(resolution, resolution, 3)
        confidence = blank[:, 0].index_copy(0, texel, total).reshape(resolution, resolution)
        visible = visible.reshape(resolution, resolution)
        texture = srgb_from_linear(_filled(linear, visible, maps.face >= 0)).clamp(0, 1)
    return BakedTexture(texture, visible, confidence, gains)


class _Samples:
    """The heaviest samples of each point."""

    def __init__(self, points: int, keep: int) -> None:
        self.light, self.weight = torch.zeros(points, keep, 3), torch.zeros(points, keep)
        self.view = torch.zeros(points, keep, dtype=torch.long)

    def add(self, view: int, row: Tensor, light: Tensor, weight: Tensor) -> None:
        """Replaces the lightest sample of each of the points `row`, where the new one is heavier."""
        lightest, place = self.weight[row].min(-1)
        better = weight > lightest
        row, place = row[better], place[better]
        self.light[row, place], self.weight[row, place] = light[better], weight[better]
        self.view[row, place] = view


def _clearance(
    renderer: MeshRenderer, vertices: Tensor, camera: Camera, matte: Tensor, margin: float
) -> Float[Tensor, "h w"]:
    """Weight of each pixel: 0 outside the matte and at outlines, rising to 1 at a distance of `margin`."""
    rendering = renderer(vertices, camera)
    smooth = torch.ones(rendering.face.numel(), dtype=torch.bool)
    smooth[rendering.crossings.near] = False
    smooth[rendering.crossings.far] = False
    away = distance_transform_edt(smooth.reshape(rendering.face.shape).numpy()) if not smooth.all() else None
    inside = distance_transform_edt((matte > 0.5).numpy()) if bool((matte <= 0.5).any()) else None
    ramp = torch.ones_like(matte)
    for distance in (away, inside):
        if distance is not None:
            ramp = ramp * smoothstep(torch.from_numpy(distance).float(), 0.0, max(margin, 1.0))
    return ramp * (matte > 0.5)


def _visible(
    camera: Camera, color: Tensor, clear: Tensor, points: Tensor, normals: Tensor, tree: TriangleBVH
) -> tuple[Tensor, Tensor, Tensor]:
    """The points (N,) that a view sees, their linear colors (N, 3) and weights (N,)."""
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
    heavy = weight > 1e-4
    row, uv, weight = row[heavy], uv[heavy], weight[heavy]
    if not len(row):
        return row, torch.zeros(0, 3), weight
    size = float((points.amax(0) - points.amin(0)).norm())
    slack = min(2e-3 * size / float(distance[row].min()), 0.5)
    blocked = tree.raycast(center.expand(len(row), 3), toward[row], max_distance=1 - slack).face >= 0
    row, uv, weight = row[~blocked], uv[~blocked], weight[~blocked]
    return row, linear_from_srgb(sample_texture(color, uv)), weight


def _robust_mean(light: Tensor, weight: Tensor) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"]]:
    """The mean of each point's samples near their weighted median, and the sum of their weights."""
    middle = _weighted_median(light, weight[..., None].expand_as(light))
    apart = (light - middle[:, None]).abs().mean(-1)
    usual = _weighted_median(apart[..., None], weight[..., None])
    inlier_weight = weight * (apart <= 2.5 * usual.clamp(min=_SPREAD))
    total = inlier_weight.sum(-1)
    return (light * inlier_weight[..., None]).sum(1) / total.clamp(min=1e-12)[:, None], total


def _weighted_median(values: Tensor, weight: Tensor) -> Float[Tensor, "t c"]:
    ordered, order = values.sort(1)
    share = weight.gather(1, order).cumsum(1)
    place = (share < 0.5 * share[:, -1:]).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    return ordered.gather(1, place)[:, 0]


def _filled(light: Tensor, known: Tensor, chart: Tensor) -> Float[Tensor, "h w 3"]:
    """Fills unknown texels of charts from their surroundings, coarse to fine; between charts, from the nearest."""
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
