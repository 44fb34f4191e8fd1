"""What a surface is extracted from: an avatar's field as a function of points, in posed or canonical space."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.deformers.chain import Chain
from headfields.deformers.mesh import MeshDeformer
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Deformer, Field
from headfields.records import Canonical, FieldValues

Space = Literal["posed", "canonical"]
DENSITY_LEVEL = 140.0
"""1/m: the density that lets half of the light through 5 mm; our own choice."""


class FieldSource:
    """One frame of a field as functions of points: what is on the surface, negative inside, and its color.

    Args:
        field: `avatar.field(state)`.
        space: `"posed"`: points are in posed space. `"canonical"`: they are canonical points, for which the encoders
            find the nearest triangle on the canonical mesh (of a deformer that has one), and whose hyper-coordinates
            are 0. The state's codes and expression count as ever.
        frame: which row of the state.
        level: the density on the surface, 1/m (or the distance, meters); if None, `DENSITY_LEVEL` (or 0).
        solid: meters: points farther than this inside the tracked mesh are matter, whatever the field says. Behind a
            surface that hides it, what a density does was not learned.

    Raises:
        ValueError: an argument is out of range, or `solid` is given and the deformer knows no mesh.
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
        """How fast the values change at most: 1 for a distance, unknown for a density."""
        return 1.0 if self.distance else None

    def bounds(self) -> Float[Tensor, "2 3"]:
        """The box (2, 3) that holds all matter of the frame, meters."""
        return self.field.posed_bounds() if self.space == "posed" else self.field.deformer.bounds()

    def canonical(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Canonical:
        """The record that encoders take, of points of the space."""
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
        """(N,) distance minus level, or level minus density: negative inside; +infinity where the field is undefined.

        Differentiable in the points, and the parts' weights, as they are.
        """
        record = self.canonical(points, points.new_tensor([0.0, 0.0, -1.0]).expand_as(points))
        found: FieldValues = self.field.decode(record, color=False)
        if self.distance:
            assert found.distance is not None
            values = found.distance - self.level
        else:
            assert found.density is not None
            values = self.level - found.density
        values = torch.where(record.valid, values, torch.inf)
        if self.solid is not None and self._bvh is not None:
            with torch.no_grad():
                nearest = self._bvh.closest(points.detach(), sign=True)
                assert nearest.sign is not None
                deep = (nearest.sign < 0) & (nearest.distance > self.solid)
            # As a distance would, so that it meets the field's own values without a step of infinity.
            values = torch.where(deep, torch.where(values.isfinite(), values.clamp(max=-1e-6), -torch.inf), values)
        return values

    def colors(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """(N, 3) sRGB at points of the surface, as seen from straight above it."""
        rgb = self.field.decode(self.canonical(points, -normals)).rgb
        assert rgb is not None
        return rgb.clamp(0.0, 1.0)


def mesh_deformer(deformer: Deformer) -> MeshDeformer | None:
    """The deformer that knows the tracked mesh: this one, or the first such link of a chain."""
    if isinstance(deformer, MeshDeformer):
        return deformer
    if isinstance(deformer, Chain):
        for link in deformer._links:
            found = mesh_deformer(link)
            if found is not None:
                return found
    return None
