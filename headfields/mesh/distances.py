"""Distances from points to a surface: nearest points, normals and barycentric coordinates there."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops._checks import check_floating, check_shape
from headfields.ops.triangle_bvh import TriangleBVH


@dataclass(frozen=True)
class SurfaceDistances:
    """The nearest points of a surface to N points.

    Attributes:
        offset: (N, 3) from each point to its nearest point, meters; NaN where there is none.
        distance: (N,) length of the offset; NaN where there is none.
        normal: (N, 3) unit normal of the surface at the nearest point; 0 where it is unknown.
        face: (N,) the face, or without faces the vertex, that the nearest point is on; 0 where there is none.
        corners: (N, 3) vertices of the face that the nearest point is on.
        barycentric: (N, 3) its position on the face; 0 where there is none.
    """

    offset: Float[Tensor, "n 3"]
    distance: Float[Tensor, " n"]
    normal: Float[Tensor, "n 3"]
    face: Int[Tensor, " n"]
    corners: Int[Tensor, "n 3"]
    barycentric: Float[Tensor, "n 3"]

    def interpolate(self, values: Float[Tensor, " v"]) -> Float[Tensor, " n"]:
        """Interpolates values (V,) of the vertices at the nearest points (N,); 0 without one. Differentiable."""
        return (self.barycentric * values.to(self.barycentric)[self.corners]).sum(-1)


class SurfaceTree:
    """A search tree over a surface, for repeated nearest-point queries.

    Args:
        surface: a mesh; without faces, its vertices are the surface.

    Raises:
        ValueError: the surface has no vertices.

    >>> import torch, headfields as hf
    >>> mesh = hf.Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> hf.mesh.distances.SurfaceTree(mesh).distances(torch.tensor([[0.25, 0.25, 2.0]])).offset.tolist()
    [[0.0, 0.0, -2.0]]
    """

    def __init__(self, surface: Mesh) -> None:
        if not len(surface.vertices):
            raise ValueError("SurfaceTree: the surface has no vertices; pass a mesh or points")
        self.surface = surface
        faces = surface.faces.long()
        if not len(faces):  # the tree treats a face of one vertex as a point
            faces = torch.arange(len(surface.vertices), device=faces.device)[:, None].expand(-1, 3).contiguous()
            self._normals = torch.zeros_like(surface.vertices) if surface.normals is None else surface.normals
        else:
            self._normals = surface.face_normals()
        self._bvh = TriangleBVH(faces, surface.vertices)

    @property
    def has_normals(self) -> bool:
        """Whether the surface has normals: of its faces, or of a scan's points."""
        return bool(len(self.surface.faces)) or self.surface.normals is not None

    def distances(self, points: Float[Tensor, "n 3"]) -> SurfaceDistances:
        """Finds the nearest point of the surface to each point.

        Args:
            points: (N, 3) meters; a point that is not finite has no nearest point.

        Differentiable to second order in the points and the surface's vertices.

        Raises:
            TypeError: points are not floating point.
            ValueError: their shape does not fit.
        """
        check_floating("SurfaceTree.distances", "points", points)
        check_shape("SurfaceTree.distances", "points", points, "N 3")
        nearest = self._bvh.closest(points)
        exists, face = nearest.face >= 0, nearest.face.clamp_min(0)
        return SurfaceDistances(
            offset=torch.where(exists[:, None], nearest.point - points, torch.nan),
            distance=torch.where(exists, nearest.distance, torch.nan),
            normal=torch.where(exists[:, None], self._normals[face], 0.0),
            face=face,
            corners=self._bvh.faces[face],
            barycentric=nearest.barycentric,
        )
