"""The surface of a head at an earlier step of tracking, near which rays are sampled."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.prior.head import PriorHead
from headfields.mesh import extract
from headfields.ops import TriangleBVH
from headfields.parts import Field

__all__ = ["LastSurface", "SurfaceFollower"]

CELLS, COARSEST = 40, 10
"""Cells along the longest side of the grids on which the surface is extracted; 0.3 mm from one of 64, on average."""
POINTS = 256
"""Points of it at which a later field is compared with it."""
ON_SURFACE = 0.001
"""Distance, meters, within which a vertex is on the surface, and not on a face that closes it at the border of the box.
"""
STRAYED = 0.02
"""Fraction of the points that may be farther than half the band from the surface of a later field."""
EVERY = 4
"""Steps of a frame between comparisons, where the surface is extracted again."""
SHARP = 20.0
"""Least product of sharpness and half width of the band. With 6, although the opacity of what is beyond is below 1 % of
that of a plane, depths were 4 mm short; with 27 they are nearer than those of whole rays (docs/tracking.md)."""


class LastSurface:
    """A mesh of a field, and whether the surface of a later field is still near it.

    Args:
        field: field of one frame, in whose space the rays are.
        band: distance within which rays are sampled, meters.

    Attributes:
        tree: the mesh; None if the field has no surface.
    """

    def __init__(self, field: Field, band: float) -> None:
        mesh = extract(field, resolution=CELLS, coarse=COARSEST, colors=False, normals="mesh", progress=False)
        self.band = band
        self.tree = TriangleBVH(mesh.faces, mesh.vertices) if len(mesh.faces) else None
        on_surface = mesh.vertices[self._distance(field, mesh.vertices) < ON_SURFACE]
        self.points = on_surface[:: max(len(on_surface) // POINTS, 1)]

    def strayed(self, field: Field) -> bool:
        """Whether too many of its points are farther than half the band from the field's surface."""
        far = self._distance(field, self.points) > self.band / 2
        return self.tree is None or bool(far.sum() > STRAYED * len(self.points))

    @staticmethod
    @torch.no_grad()
    def _distance(field: Field, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        frame = torch.zeros(len(points), dtype=torch.long, device=points.device)
        canonical = field.canonicalize(points, torch.zeros_like(points), frame)
        (distance,) = field.decode(canonical, color=False).require("distance")
        return torch.where(canonical.valid, distance.abs(), torch.inf)


class SurfaceFollower:
    """The last surface of a frame while it is fitted, extracted again when the head has left it.

    Args:
        head: the model, whose sharpness counts.
        band: distance within which rays are sampled, meters; 0: rays are sampled whole.
        source: the field to extract the surface of; None: the field of the step. With a source the surface is that of
            the source alone, and whole rays are sampled once the head has left it, so that what a step does depends on
            no step before.
    """

    def __init__(self, head: PriorHead, band: float, source: Field | None = None) -> None:
        self.head, self.band, self.source = head, band, source
        self.last: LastSurface | None = None
        self._count = 0

    def __call__(self, field: Field) -> TriangleBVH | None:
        """The mesh near which to sample the rays of a step; None for whole rays.

        Args:
            field: field of the step.
        """
        if not self.band or self.head.sharpness_value * self.band < SHARP:
            return None
        if self.last is None:
            self.last = self._extracted(self.source or field)
        elif self.source is None:
            self._count += 1
            if self._count % EVERY == 0 and self.last.strayed(field):
                self.last = self._extracted(field)
        if self.source is not None and self.last.strayed(field):
            return None
        return self.last.tree

    def _extracted(self, field: Field) -> LastSurface:
        surface = LastSurface(field, self.band)
        self.head.jitter()  # extraction leaves the model in evaluation mode
        return surface
