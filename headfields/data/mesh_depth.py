"""Depth of the tracked mesh at pixels, by ray casting, for frames without a depth map."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Rays, Template

__all__ = ["MeshDepth"]


class MeshDepth:
    """Casts the rays of pixels to posed meshes.

    Args:
        template: its faces are those of all meshes. Faces that close the mouth hide what is behind them and have no
            depth, because they are not where lips, teeth and tongue are.
    """

    def __init__(self, template: Template) -> None:
        self._tree = TriangleBVH(template.faces, template.canonical_vertices)
        self._tracked = len(template.faces) if template.face_count is None else template.face_count

    @torch.no_grad()
    def __call__(
        self, vertices: Float[Tensor, "b v 3"], rays: Rays, depth_scale: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Depth of the first surface along N rays.

        Args:
            vertices: (B, V, 3) posed meshes, meters; `rays.frame` indexes them.
            rays: the N rays.
            depth_scale: (N,) length of ray per unit of depth.

        Returns:
            (N,) meters along the optical axis, 0 where there is none.
        """
        if not len(vertices):
            return vertices.new_zeros(len(rays.origins))
        index: Int[Tensor, " n"] = rays.frame
        hit = self._tree.posed(vertices).raycast(rays.origins, rays.directions, index)
        return torch.where((hit.face >= 0) & (hit.face < self._tracked), hit.distance / depth_scale, 0.0)
