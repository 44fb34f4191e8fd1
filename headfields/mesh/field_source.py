"""An avatar's field as functions of points, in posed or canonical space, for the extraction of its surface."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.deformers.chain import Chain
from headfields.deformers.mesh_deformer import MeshDeformer
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Deformer, Field
from headfields.records import Canonical, FieldValues
from headfields.records.device_copy import any_directions

Space = Literal["posed", "canonical"]
DENSITY_LEVEL = 140.0
"""1/m: the density of which 5 mm let half of the light pass; our own choice."""


class FieldSource:
    """One frame of a field as two functions of points: a value that is 0 on the surface and negative inside; a color.

    Args:
        field: `avatar.field(state)`.
        space: the space of the points, `"posed"` or `"canonical"`. Canonical points get the nearest triangle of the
            canonical mesh, if the deformer has one, and hyper-coordinates of 0; codes and expression are the state's.
        frame: row of the state.
        level: the density on the surface, 1/m, or the distance, meters; `DENSITY_LEVEL` or 0 if None.
        solid: depth inside the tracked mesh from which all points are matter, meters: training does not constrain a
            density that the surface hides.

    Raises:
        ValueError: an argument is out of range, or `solid` is given and the deformer has no mesh.
    """

    def __init__(
        self, field: Field, space: Space = "posed", frame: int = 0, level: float | None = None,
        solid: float | None = None,
    ) -> None:  # fmt: skip
        if space not in ("posed", "canonical"):
            raise ValueError(f"FieldSource: space is {space!r}; expected 'posed' or 'canonical'")
        if not 0 <= frame < len(field.state):
            raise ValueError(f"FieldSource: frame is {frame}, but the field's state has {len(field.state)} frames")
        self.field, self.space, self.frame = field, space, frame
        self.distance = field.decoder.gives == "distance"
        self.level = level if level is not None else (0.0 if self.distance else DENSITY_LEVEL)
        self.solid = solid
        deformer = mesh_deformer(field.deformer)
        self._bvh = self._shell = None
        if deformer is not None:
            self._shell = deformer.shell
            vertices = field.state.vertices[frame] if space == "posed" else deformer.canonical_vertices
            if space == "canonical" or solid is not None:
                self._bvh = TriangleBVH(deformer.faces, vertices.detach())
        if solid is not None and (self._bvh is None or not solid >= 0):
            raise ValueError(
                f"FieldSource: solid is {solid}; expected a depth >= 0 in meters, for a deformer on a tracked mesh "
                f"(this one is {type(field.deformer).__name__}), or None"
            )

    @property
    def lipschitz(self) -> float | None:
        """Bound of the slope of the values: 1 for a distance, unknown for a density."""
        return 1.0 if self.distance else None

    def bounds(self) -> Float[Tensor, "2 3"]:
        """Corners (2, 3) of the box that holds all matter, meters."""
        return self.field.posed_bounds() if self.space == "posed" else self.field.deformer.bounds()

    def canonical(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Canonical:
        """The record of the points that encoders take."""
        frame = torch.full(points.shape[:1], self.frame, dtype=torch.long, device=points.device)
        if self.space == "posed":
            return self.field.canonicalize(points, directions, frame)
        deformer = self.field.deformer
        valid = torch.ones_like(frame, dtype=torch.bool)
        record = Canonical(points, directions, points, frame, valid)
        if deformer.ambient_width:
            record = record.replace(ambient=points.new_zeros(len(points), deformer.ambient_width))
        if self._bvh is not None and deformer.gives_faces:
            nearest = self._bvh.closest(points, max_distance=self._shell or torch.inf)
            record = record.replace(
                valid=nearest.face >= 0, face=nearest.face, barycentric=nearest.barycentric, distance=nearest.distance
            )
        return record

    def values(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Distance minus level, or level minus density, (N,); +infinity where the field is undefined.

        Differentiable in the points and in the parameters of the parts, as those are.
        """
        record = self.canonical(points, any_directions(points))
        decoded: FieldValues = self.field.decode(record, color=False)
        if self.distance:
            assert decoded.distance is not None
            values = decoded.distance - self.level
        else:
            assert decoded.density is not None
            values = self.level - decoded.density
        values = torch.where(record.valid, values, torch.inf)
        if self.solid is not None and self._bvh is not None:
            with torch.no_grad():
                nearest = self._bvh.closest(points.detach(), sign=True)
                assert nearest.sign is not None
                deep = (nearest.sign < 0) & (nearest.distance > self.solid)
            # Finite where the field is finite, so that vertices between the two are interpolated.
            values = torch.where(deep, torch.where(values.isfinite(), values.clamp(max=-1e-6), -torch.inf), values)
        return values

    def colors(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colors (N, 3), sRGB, at points of the surface, viewed along their normals."""
        rgb = self.field.decode(self.canonical(points, -normals)).rgb
        assert rgb is not None
        return rgb.clamp(0.0, 1.0)


def mesh_deformer(deformer: Deformer) -> MeshDeformer | None:
    """The deformer on a tracked mesh: this one, or the first such link of a chain."""
    if isinstance(deformer, MeshDeformer):
        return deformer
    if isinstance(deformer, Chain):
        for link in deformer._links:
            inner = mesh_deformer(link)
            if inner is not None:
                return inner
    return None
