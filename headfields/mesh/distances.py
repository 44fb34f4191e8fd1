"""From points to the nearest points of a surface."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.triangle_bvh import TriangleBVH


@dataclass(frozen=True)
class SurfaceDistances:
    """How N points lie to a surface.

    Attributes:
        offset: (N, 3) from each point to the nearest point of the surface, meters; NaN where there is none.
        distance: (N,) its length; NaN where there is none.
        normal: (N, 3) unit normal of the surface there; 0 where it is not known.
        corners: (N, 3) the vertices between which the nearest point lies.
        barycentric: (N, 3) and where between them; 0 where there is none.
    """

    offset: Float[Tensor, "n 3"]
    distance: Float[Tensor, " n"]
    normal: Float[Tensor, "n 3"]
    corners: Int[Tensor, "n 3"]
    barycentric: Float[Tensor, "n 3"]

    def interpolate(self, values: Float[Tensor, " v"]) -> Float[Tensor, " n"]:
        """Values of the surface's vertices (V,) at the nearest points (N,); 0 where there is none. Differentiable."""
        return (self.barycentric * values.to(self.barycentric)[self.corners]).sum(-1)


class SurfaceTree:
    """A mesh that is asked for the nearest point of its surface, more than once.

    Args:
        surface: a mesh; without faces, its vertices are the surface.

    Raises:
        ValueError: it has no vertices.
    """

    def __init__(self, surface: Mesh) -> None:
        if not len(surface.vertices):
            raise ValueError("SurfaceTree: the surface has no vertices; nothing is near")
        self.surface = surface
        faces = surface.faces.long()
        if not len(faces):  # a face without extent is a point to the tree
            faces = torch.arange(len(surface.vertices), device=faces.device)[:, None].expand(-1, 3).contiguous()
            self._normals = torch.zeros_like(surface.vertices) if surface.normals is None else surface.normals
        else:
            self._normals = surface.face_normals()
        self._bvh = TriangleBVH(faces, surface.vertices)

    @property
    def has_normals(self) -> bool:
        """Whether normals are known: of faces, or of a scan's points."""
        return bool(len(self.surface.faces)) or self.surface.normals is not None

    def distances(self, points: Float[Tensor, "n 3"]) -> SurfaceDistances:
        """From each point to the nearest point of the surface.

        Args:
            points: (N, 3) meters; one that is not finite has no nearest point.

        Differentiable to second order in the points and the surface's vertices.

        Raises:
            TypeError: points are not floating point.
            ValueError: their shape does not fit.
        """
        check_floating("SurfaceTree.distances", "points", points)
        check_shape("SurfaceTree.distances", "points", points, "N 3")
        nearest = self._bvh.closest(points)
        found, face = nearest.face >= 0, nearest.face.clamp_min(0)
        return SurfaceDistances(
            offset=torch.where(found[:, None], nearest.point - points, torch.nan),
            distance=torch.where(found, nearest.distance, torch.nan),
            normal=torch.where(found[:, None], self._normals[face], 0.0),
            corners=self._bvh.faces[face],
            barycentric=nearest.barycentric,
        )
