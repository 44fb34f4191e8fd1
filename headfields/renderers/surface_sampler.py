"""Hierarchical sampling near the surface of a field of distances (NeuS)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.compositing import weights_from_alpha
from headfields.ops.sampling import inverse_cdf_edges, stratified, stratified_edges
from headfields.ops.surface_alpha import neus_alpha
from headfields.parts import Field, Sampler
from headfields.records import Canonical, Rays, Samples
from headfields.renderers.padded import Buffers, PaddedSamples, between_edges
from headfields.renderers.samplers import canonicalize_padded, canonicalize_samples

_PIECE = 1 << 17
"""Points whose distance is computed at a time, without a graph."""


class SurfaceSampler(Sampler):
    """NeuS's hierarchical sampling: points are added in rounds, from opacities of fixed, growing sharpness.

    The distance is computed at the edges of `coarse` stratified intervals. Each round computes the opacity of the
    current intervals (`neus_alpha` of the mean distance at their ends, with the lesser slope of this interval and the
    one before) and adds fine / rounds points at even quantiles of the weights along the ray. The sharpness doubles with
    each round, independent of the renderer's. The samples are the intervals between all points.

    MonoNPHM's tracker is `SurfaceSampler(32, 32, rounds=1, sharpness=4 * math.exp(3), keep_coarse=False)`: one round,
    and then the intervals between the quantiles of the weights alone.

    Args:
        coarse: intervals per ray of the first pass (NeuS: 64).
        fine: points per ray added by all rounds (NeuS: 64).
        rounds: number of rounds (NeuS: 4).
        sharpness: sharpness of the first round, 1/m. NeuS has 64 in a sphere of radius 1 around the object: some 500
            for a head.
        keep_coarse: whether the samples include the points of the first pass.

    In training mode the first pass is random; quantiles are even in both modes. Nothing is differentiable.

    Raises:
        ValueError: an argument is out of range, or fine is not a multiple of rounds.

    Source: Wang et al. 2021, "NeuS", released code (its supplement describes it); MonoNPHM's released code.
    """

    def __init__(
        self,
        coarse: int = 64,
        fine: int = 64,
        rounds: int = 4,
        sharpness: float | int = 512.0,
        keep_coarse: bool = True,
    ) -> None:
        super().__init__()
        if min(coarse, fine, rounds) < 1 or fine % rounds:
            raise ValueError(
                f"SurfaceSampler: coarse is {coarse}, fine {fine} and rounds {rounds}; all must be at least 1, and "
                "fine a multiple of rounds"
            )
        if not sharpness > 0:
            raise ValueError(f"SurfaceSampler: sharpness is {sharpness} 1/m; it must be positive")
        self.coarse = coarse
        self.fine = fine
        self.rounds = rounds
        self.sharpness = sharpness
        self.keep_coarse = keep_coarse

    def extra_repr(self) -> str:
        return f"{self.coarse} + {self.fine} in {self.rounds} rounds, sharpness={self.sharpness:g} 1/m"

    @torch.no_grad()
    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        return canonicalize_samples(self.between(rays, field, *field.near_far(rays)), rays, field)

    @torch.no_grad()
    def between(self, rays: Rays, field: Field, near: Float[Tensor, " n"], far: Float[Tensor, " n"]) -> Samples:
        """The samples in [near, far] of each of N rays, before those are dropped that are not valid.

        Args:
            rays: N rays.
            field: field of the frames that they see.
            near, far: (N,) meters along the unit direction; rays with near >= far get no samples.
        """
        first = stratified(near, far, self.coarse, jitter=self.training)
        ray = first.ray[:: self.coarse]
        edges = torch.cat([first.start.view(-1, self.coarse), first.end.view(-1, self.coarse)[:, -1:]], dim=1)
        edges = self._refined(edges, ray, rays, field)
        count = edges.shape[1] - 1
        return Samples(ray.repeat_interleave(count), edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1))

    @property
    def most(self) -> int:
        """The number of samples of a ray, before those are dropped that are not valid."""
        return self.fine + (self.coarse if self.keep_coarse else 0)

    @torch.no_grad()
    def padded(self, rays: Rays, field: Field, buffers: Buffers) -> tuple[PaddedSamples, Canonical]:
        edges, hits = self.edges(rays, field, *field.near_far(rays))
        marched = between_edges(edges, hits[:, None].expand(-1, self.most), buffers, "marched")
        return canonicalize_padded(marched, rays, field, buffers, "samples")

    @torch.no_grad()
    def edges(
        self, rays: Rays, field: Field, near: Float[Tensor, " n"], far: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n e"], Bool[Tensor, " n"]]:
        """The edges of the samples of `between` for each of N rays, whether it has samples or not, and whether it has.

        A GPU is not waited for; it computes distances for rays without samples too.
        """
        hits = (near < far) & near.isfinite() & far.isfinite()
        edges = stratified_edges(near, far, self.coarse, jitter=self.training)
        return self._refined(edges, torch.arange(len(near), device=near.device), rays, field), hits

    def _refined(
        self, edges: Float[Tensor, "h c"], ray: Int[Tensor, " h"], rays: Rays, field: Field
    ) -> Float[Tensor, "h e"]:
        """The edges of all samples, from those of the first pass."""
        distance, valid = self._evaluate(edges, ray, rays, field)
        for turn in range(self.rounds):
            weights = _weights(edges, distance, valid, self.sharpness * 2.0**turn)
            last = turn == self.rounds - 1
            if last and not self.keep_coarse:
                return _quantiles(edges, weights, self.fine)
            added = _quantiles(edges, weights, self.fine // self.rounds + 1)
            added = added[:, 1:-1]  # the outer ones are edges already
            edges, order = torch.cat([edges, added], dim=1).sort(dim=1)
            if not last:
                at_added = self._evaluate(added, ray, rays, field)
                both = (torch.cat(pair, dim=1) for pair in zip((distance, valid), at_added, strict=True))
                distance, valid = (values.gather(1, order) for values in both)
        return edges

    def _evaluate(
        self, along: Float[Tensor, "h e"], ray: Int[Tensor, " h"], rays: Rays, field: Field
    ) -> tuple[Float[Tensor, "h e"], Bool[Tensor, "h e"]]:
        """Signed distances (meters) at positions along rays, and whether they are valid."""
        distance, valid = torch.zeros_like(along), torch.zeros_like(along, dtype=torch.bool)
        rows = max(_PIECE // max(along.shape[1], 1), 1)
        for begin in range(0, len(along), rows):
            piece = slice(begin, begin + rows)
            origins, directions, frame = (
                x.index_select(0, ray[piece]).repeat_interleave(along.shape[1], dim=0)
                for x in (rays.origins, rays.directions, rays.frame)
            )
            points = torch.addcmul(origins, directions, along[piece].reshape(-1, 1))
            canonical = field.canonicalize(points, directions, frame)
            (values,) = field.decode(canonical, color=False).require("distance")
            distance[piece] = values.view(-1, along.shape[1])
            valid[piece] = canonical.valid.view(-1, along.shape[1])
        return distance, valid


def _quantiles(edges: Float[Tensor, "h e"], weights: Float[Tensor, "h s"], count: int) -> Float[Tensor, "h q"]:
    """The edges of `count` intervals of even weight between the first and the last edge of each ray."""
    rays, bins = weights.shape
    start, end = edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)
    ray = torch.arange(rays, device=edges.device)
    offsets = torch.arange(rays + 1, device=edges.device) * bins
    samples = Samples(ray[:, None].expand(-1, bins).reshape(-1), start, end)
    return inverse_cdf_edges(weights.reshape(-1), samples, count, offsets, rays, jitter=False)


def _weights(
    edges: Float[Tensor, "h e"], distance: Float[Tensor, "h e"], valid: Bool[Tensor, "h e"], sharpness: float
) -> Float[Tensor, "h s"]:
    """Weights of the intervals between edges, where both ends are valid."""
    length = edges.diff(dim=1)
    both_valid = valid[:, 1:] & valid[:, :-1]
    slope = torch.where(both_valid & (length > 0), distance.diff(dim=1) / length.clamp_min(1e-9), 0.0)
    before = torch.cat([torch.zeros_like(slope[:, :1]), slope[:, :-1]], dim=1)
    slope = slope.minimum(before).clamp(-1e3, 0.0)
    middle = 0.5 * (distance[:, 1:] + distance[:, :-1])
    alpha = neus_alpha(middle, slope, length, sharpness)
    return weights_from_alpha(torch.where(both_valid, alpha, 0.0))
