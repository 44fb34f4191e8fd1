"""Samples near a known surface, such as that of the step before, in place of a search along all of each ray."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Field, Sampler
from headfields.records import Canonical, Rays, Samples
from headfields.renderers.padded import Buffers, PaddedSamples, between_edges
from headfields.renderers.samplers import canonicalize_padded, canonicalize_samples
from headfields.renderers.surface_sampler import SurfaceSampler

__all__ = ["SurfaceBandSampler"]

_PROBE = 0.4
"""Distance of the inner ring of probes from a ray, as a fraction of the band."""


class SurfaceBandSampler(Sampler):
    """Samples within a band around a known surface, where a ray meets it; elsewhere those of another sampler.

    A ray and twelve probes parallel to it, four at 0.4 `band` and eight at `band`, are cast at `surface`:

    - If the ray and the inner probes hit, from outside, samples are those of `near` from `band` before the first of
      these hits to `band` behind the last. So an outline or a fold within the ring widens the interval.
    - If some probes miss, as at outlines, samples are those of `wide`, in all of the ray's interval.
    - If all of them miss, the surface is no nearer than about `band`, and the ray gets no samples.

    Without a surface all samples are those of `wide`. The result is an approximation as good as the surface is:
    matter that has moved farther than `band`, or a new part in front of it, is missed. Whoever sets `surface` has to
    set another in time.

    Args:
        wide: sampler of whole rays.
        near: sampler of the band.
        band: half of its width, meters.

    Attributes:
        surface: one mesh in the space of the rays, or None. Rays of all frames are compared with it.

    Nothing is differentiable but the points, to the rays.

    Raises:
        ValueError: band is not positive.

    Our own choice; the published tracker samples whole rays.
    """

    surface: TriangleBVH | None

    def __init__(self, wide: SurfaceSampler, near: SurfaceSampler, band: float | int = 0.01) -> None:
        super().__init__()
        if not 0 < band < torch.inf:
            raise ValueError(f"SurfaceBandSampler: band is {band} m; it must be positive and finite")
        self.wide = wide
        self.near = near
        self.band = band
        self.surface = None

    def extra_repr(self) -> str:
        return f"band={self.band:g} m"

    @torch.no_grad()
    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        if self.surface is None:
            return self.wide(rays, field)
        near, wide = self._ranges(rays, field)
        samples = Samples.cat([self.near.between(rays, field, *near), self.wide.between(rays, field, *wide)])
        return canonicalize_samples(samples[samples.ray.argsort(stable=True)], rays, field)

    @property
    def most(self) -> int:
        """As `SurfaceSampler.most`, of both samplers."""
        return self.near.most + self.wide.most

    @torch.no_grad()
    def padded(self, rays: Rays, field: Field, buffers: Buffers) -> tuple[PaddedSamples, Canonical]:
        if self.surface is None:
            return self.wide.padded(rays, field, buffers)
        parts = [
            (sampler.most, *sampler.edges(rays, field, *ends))
            for sampler, ends in zip((self.near, self.wide), self._ranges(rays, field), strict=True)
        ]
        # No ray has samples of both, so what lies between the one's last edge and the other's first is none.
        edges = torch.cat([each for _, each, _ in parts], dim=1)
        first, second = (hits[:, None].expand(-1, most) for most, _, hits in parts)
        marched = between_edges(
            edges, torch.cat([first, torch.zeros_like(first[:, :1]), second], dim=1), buffers, "marched"
        )
        return canonicalize_padded(marched, rays, field, buffers, "samples")

    def _ranges(self, rays: Rays, field: Field) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Begin and end (N,) of the range of each ray for `near` and for `wide`, from inf to -inf where it has none."""
        near, far = field.near_far(rays)
        low, high, known, seen = self.intervals(rays)
        inside, outline = known & (low < far) & (high > near), seen & ~known
        return (
            (near.maximum(low).where(inside, torch.inf), far.minimum(high).where(inside, -torch.inf)),
            (near.where(outline, torch.inf), far.where(outline, -torch.inf)),
        )

    def intervals(
        self, rays: Rays
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        """Begin and end (N,), meters, of the band along each ray; whether it is known; whether any probe hits."""
        assert self.surface is not None
        count, tree = len(rays.origins), self.surface
        aside = torch.zeros_like(rays.directions)
        aside.scatter_(1, rays.directions.abs().argmin(dim=1, keepdim=True), 1.0)
        first = normalize(torch.linalg.cross(rays.directions, aside), dim=1)
        second = torch.linalg.cross(rays.directions, first)
        turn = torch.arange(8, device=first.device) * (torch.pi / 4)
        outer = turn.cos()[:, None, None] * first + turn.sin()[:, None, None] * second
        offsets = torch.cat([torch.zeros_like(first)[None], _PROBE * self.band * outer[::2], self.band * outer])
        hit = tree.raycast(rays.origins + offsets, rays.directions.expand(len(offsets), count, 3))
        distance, inner = hit.distance, slice(0, 5)
        corners = tree.vertices[0][tree.faces[hit.face[inner].clamp_min(0)]]
        normal = torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
        outside = (normal * rays.directions).sum(dim=-1) < 0
        known = ((hit.face[inner] >= 0) & outside).all(dim=0)
        low, high = distance[inner].amin(dim=0) - self.band, distance[inner].amax(dim=0) + self.band
        return low, high, known, (hit.face >= 0).any(dim=0)
