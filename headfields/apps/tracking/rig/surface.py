"""The visible surface of the posed template: per pixel triangle, albedo and normal, by ray casting."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.apps.tracking.rig.body import PosedBody
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera, Record

__all__ = ["RigSurface", "VisibleSurface"]

_FACING = 0.15
"""Cosine to the viewing direction below which a surface is too slanted for its color to count."""


@dataclass(frozen=True)
class VisibleSurface(Record):
    """The N pixels that the template covers, in row-major order.

    Attributes:
        mask: (H, W) silhouette.
        corners, weights: (N, 3) vertex indices and barycentric coordinates.
        texture: (N, 3) color of the template's texture; 0 where it has colors of vertices in its place.
        albedo: (N, 3) of the texture with its tint, or of the vertices.
        normals: (N, 3) in camera space.
        facing: (N,) cosine of normal and direction to the camera.
        outlined: (N,) whether the template's outline is the person's here.
    """

    mask: Bool[Tensor, "h w"]
    corners: Int[Tensor, "n 3"]
    weights: Float[Tensor, "n 3"]
    texture: Float[Tensor, "n 3"]
    albedo: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    facing: Float[Tensor, " n"]
    outlined: Bool[Tensor, " n"]

    @property
    def clear(self) -> Bool[Tensor, " n"]:
        """Pixels that are frontal enough for their color to count."""
        return self.facing > _FACING


class RigSurface:
    """Casts a camera's rays at the posed template and samples its texture.

    The texture is read from the mip level whose texels are on average as large as the image's pixels.

    Args:
        rig: the template; gray without a texture.
        colors: (V, 3) albedo of vertices in place of the texture.
        outlined: (V,) vertices where the template's outline is the person's; all if None. A head ends at its neck where
            the person does not.
        tint: (V, 3) added to the texture at vertices; none if None.
    """

    def __init__(
        self, rig: RiggedTemplate, colors: Float[Tensor, "v 3"] | None = None,
        outlined: Bool[Tensor, " v"] | None = None, tint: Float[Tensor, "v 3"] | None = None,
    ) -> None:  # fmt: skip
        self.tint = tint
        self.faces, self._colors, self._outlined = rig.faces, colors, outlined
        rest = rig.template_vertices
        self._bvh = TriangleBVH(rig.faces, rest[None])
        textured = rig.texture is not None and rig.uv is not None and rig.uv_faces is not None
        self._uv = rig.uv[rig.uv_faces] if textured else None  # type: ignore[index]
        self._textures: list[Tensor] = []
        self._texel = 1.0
        if textured:
            assert rig.texture is not None and self._uv is not None
            image = rig.texture
            while min(image.shape[:2]) >= 8:
                self._textures.append(image)
                image = torch.nn.functional.avg_pool2d(image.movedim(-1, 0)[None], 2)[0].movedim(0, -1)
            a, b, c = (rest[rig.faces[:, k]] for k in range(3))
            area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2
            a, b, c = (self._uv[:, k] for k in range(3))
            chart = float(((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs().sum()) / 2
            pixels = chart * rig.texture.shape[0] * rig.texture.shape[1]
            self._texel = math.sqrt(area / max(pixels, 1.0))  # meters

    def visible(self, body: PosedBody, camera: Camera) -> VisibleSurface:
        """The surface of a posed body that is visible from a camera.

        Args:
            body: posed body.
            camera: at the origin of the camera space that the body is posed in, or elsewhere in it.
        """
        self._bvh.refit(body.local[None])
        rays = camera.rays()
        hit = self._bvh.raycast(rays.origins, rays.directions, rays.frame)
        met = (hit.face >= 0).nonzero()[:, 0]
        face, weights = hit.face[met], hit.barycentric[met]
        corners = self.faces[face]
        normals = (weights[..., None] * vertex_normals(body.local, self.faces)[corners]).sum(1)
        normals = torch.nn.functional.normalize(normals, dim=1)
        texture = weights.new_zeros(len(met), 3)
        if self._colors is not None:
            albedo = (weights[..., None] * self._colors[corners]).sum(1)
        elif self._uv is None:
            texture = albedo = weights.new_full((len(met), 3), 0.6)
        else:
            size = float(body.local[:, 2].mean()) / float(camera.intrinsics.reshape(3, 3)[0, 0])  # meters per pixel
            level = round(math.log2(max(size / self._texel, 1.0)))
            image = self._textures[min(level, len(self._textures) - 1)]
            texture = albedo = sample_texture(image, (weights[..., None] * self._uv[face]).sum(1))
        if self.tint is not None:
            albedo = albedo + (weights[..., None] * self.tint[corners]).sum(1)
        facing = -(normals * rays.directions[met]).sum(1)
        mask = (hit.face >= 0).view(camera.size)
        outlined = torch.ones_like(facing, dtype=torch.bool)
        if self._outlined is not None:
            outlined = self._outlined[corners].all(1)
        return VisibleSurface(mask, corners, weights, texture, albedo, normals, facing, outlined)
