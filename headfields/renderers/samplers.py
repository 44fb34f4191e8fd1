"""Samplers of ray positions: uniform, hierarchical (by a coarse pass), and by an occupancy grid."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.compositing import weights_from_density
from headfields.ops.occupancy import march_occupancy, march_padded
from headfields.ops.sampling import inverse_cdf, merge_samples, stratified, stratified_edges, uniform_step
from headfields.parts import Field, Sampler
from headfields.records import Canonical, Rays, Samples
from headfields.records.device_copy import any_directions
from headfields.renderers.occupancy_grid import OccupancyGrid
from headfields.renderers.padded import Buffers, PaddedSamples, between_edges, compact, finite_without_samples


def canonicalize_samples(samples: Samples, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
    """The samples with their midpoints in canonical space, without those that are not valid there."""
    return _keep(samples, _canonical(samples, rays, field))


def canonicalize_padded(
    samples: PaddedSamples, rays: Rays, field: Field, buffers: Buffers, name: str
) -> tuple[PaddedSamples, Canonical]:
    """As `canonicalize_samples`, into the buffer `name`."""
    canonical = _canonical(samples, rays, field)
    padded, canonical = compact(samples, canonical, canonical.valid, buffers, name)
    return padded, finite_without_samples(padded, canonical)


def _canonical(samples: Samples, rays: Rays, field: Field) -> Canonical:
    origins, directions, frame = (x.index_select(0, samples.ray) for x in (rays.origins, rays.directions, rays.frame))
    return field.canonicalize(torch.addcmul(origins, directions, samples.middle[:, None]), directions, frame)


def _keep(samples: Samples, canonical: Canonical, also: Tensor | None = None) -> tuple[Samples, Canonical]:
    mask = canonical.valid if also is None else canonical.valid & also
    if mask.is_cpu and bool(mask.all()):  # a GPU is waited for once, below
        return samples, canonical
    index = mask.nonzero()[:, 0]
    return samples[index], canonical[index]


class UniformSampler(Sampler):
    """Stratified samples in each ray's near-far interval; an even division in evaluation mode.

    Args:
        count: samples per ray.

    Sample positions have no gradient; the points at their midpoints have one to the rays.

    Source: Mildenhall et al. 2020, "NeRF", equation 2.
    """

    def __init__(self, count: int = 64) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"UniformSampler: count is {count}; it must be at least 1")
        self.count = count

    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        near, far = field.near_far(rays)
        return canonicalize_samples(stratified(near, far, self.count, jitter=self.training), rays, field)

    def padded(self, rays: Rays, field: Field, buffers: Buffers) -> tuple[PaddedSamples, Canonical]:
        edges = stratified_edges(*field.near_far(rays), self.count, jitter=self.training)
        hits = (edges[:, :1] < edges[:, -1:]).expand(-1, self.count)
        return canonicalize_padded(between_edges(edges, hits, buffers, "marched"), rays, field, buffers, "samples")


class HierarchicalSampler(Sampler):
    """A coarse pass of stratified samples, and fine samples drawn from its weights.

    The coarse pass evaluates the same field, without gradients; NeRF trains a second network for it
    (`CoarseToFineRenderer`). One field for both is our own choice.

    Args:
        coarse: samples per ray of the first pass.
        fine: samples per ray drawn from its weights; the field is evaluated at the union of both.

    Source: Mildenhall et al. 2020, "NeRF", section 5.2.
    """

    def __init__(self, coarse: int = 64, fine: int = 64) -> None:
        super().__init__()
        if coarse < 1 or fine < 1:
            raise ValueError(f"HierarchicalSampler: coarse is {coarse} and fine {fine}; both must be at least 1")
        self.coarse = coarse
        self.fine = fine

    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        near, far = field.near_far(rays)
        coarse = stratified(near, far, self.coarse, jitter=self.training)
        with torch.no_grad():
            samples, canonical = canonicalize_samples(coarse, rays, field)
            density = field.density(canonical)
            weights = weights_from_density(density, samples.start, samples.end, samples.ray, len(rays))
            fine = inverse_cdf(weights, samples, self.fine, rays=len(rays), jitter=self.training)
        return canonicalize_samples(merge_samples(coarse, fine, len(rays)), rays, field)


class OccupancySampler(Sampler):
    """Samples at a constant step in the occupied cells of an occupancy grid.

    Args:
        grid: `"canonical"`: points are canonicalized first and culled by a grid over canonical space, which stays
            tight under motion of the head. `"posed"`: INSTA's grid over posed space, the union over the frames, through
            which rays are marched before canonicalization; for captures whose head pose is in the camera.
        resolution: cells along each side (INSTA: 128).
        step: meters between samples (INSTA: √3/1024).
        budget: most samples in a call; more raise an error.
        refresh_every, refresh_points: every `refresh_every` steps the density is observed at `refresh_points` random
            points.
        warmup: steps before which nothing is culled. The last three are our own choice.

    Raises:
        ValueError: an argument is out of range; later, more samples than `budget`, with the number that the call needs.

    Source: Müller et al. 2022, "Instant Neural Graphics Primitives", appendix E; INSTA's released code.
    """

    def __init__(
        self,
        grid: Literal["canonical", "posed"] = "posed",
        resolution: int = 64,
        step: float = 3**0.5 / 1024,
        budget: int = 1 << 23,
        refresh_every: int = 16,
        refresh_points: int = 1 << 15,
        warmup: int = 64,
    ) -> None:
        super().__init__()
        if grid not in ("canonical", "posed"):
            raise ValueError(f"OccupancySampler: grid is {grid!r}; expected 'canonical' or 'posed'")
        if resolution < 1 or step <= 0:
            raise ValueError(f"OccupancySampler: resolution is {resolution} and step {step}; both must be positive")
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise ValueError(f"OccupancySampler: budget is {budget!r}; expected a whole number of samples, 1 or more")
        self.space = grid
        self.step = step
        self.budget = budget
        self.refresh_every = refresh_every
        self.refresh_points = refresh_points
        self.warmup = warmup
        self.grid = OccupancyGrid(resolution, step)

    def extra_repr(self) -> str:
        return f"{self.space}, step={self.step:.5f} m"

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        self.grid.box.copy_(bounds)

    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        near, far = field.near_far(rays)
        jitter = torch.rand_like(near) if self.training else torch.full_like(near, 0.5)
        if self.space == "posed" and self._covers(field):
            samples = march_occupancy(
                rays.origins, rays.directions, near, far, self.grid.occupied, self.grid.box, self.step, self.budget,
                jitter,
            )  # fmt: skip
            return canonicalize_samples(samples, rays, field)
        samples = uniform_step(near, far, self.step, jitter, self.budget)
        canonical = _canonical(samples, rays, field)
        return _keep(samples, canonical, self._occupied(canonical))

    def padded(self, rays: Rays, field: Field, buffers: Buffers) -> tuple[PaddedSamples, Canonical]:
        near, far = field.near_far(rays)
        jitter = torch.rand_like(near) if self.training else torch.full_like(near, 0.5)
        occupied, box = (self.grid.occupied, self.grid.box) if self.space == "posed" else (None, None)

        def marched(rows: int) -> tuple[Samples, Tensor, Tensor]:
            return march_padded(rays.origins, rays.directions, near, far, self.step, rows, occupied, box, jitter)

        rows = buffers.size("marched", lambda: marched(1)[2])
        if rows > self.budget:
            raise ValueError(
                f"OccupancySampler: {len(rays)} rays need buffers of {rows} samples, more than budget = {self.budget}; "
                f"raise budget to at least {rows}, lengthen step, or pass fewer rays per call"
            )
        samples, offsets, needed = marched(rows)
        buffers.note("marched", needed)
        padded = PaddedSamples.of(samples, offsets)
        canonical = _canonical(samples, rays, field)
        mask = canonical.valid if self.space == "posed" else canonical.valid & self._occupied(canonical)
        padded, canonical = compact(padded, canonical, mask, buffers, "samples")
        return padded, finite_without_samples(padded, canonical)

    def _occupied(self, canonical: Canonical) -> Tensor:
        """Whether each point is in an occupied cell."""
        where = self._where(canonical).detach()
        occupied = self.grid.lookup(where)
        if self.space == "posed":  # a head that has left the grid's box: unknown space is not culled
            occupied |= ~self.grid.cells(where)[1]
        return occupied

    def _covers(self, field: Field) -> bool:
        low, high = field.posed_bounds()
        return bool(((low >= self.grid.box[0]) & (high <= self.grid.box[1])).all())

    def _where(self, canonical: Canonical) -> Tensor:
        return canonical.points if self.space == "canonical" else canonical.posed_points

    def observe(self, canonical: Canonical, density: Float[Tensor, " m"]) -> None:
        self.grid.observe(self._where(canonical).detach(), density)

    def due(self, step: int) -> bool:
        return step % self.refresh_every == 0

    def update(self, field: Field, step: int) -> None:
        low, high = field.posed_bounds()
        if not bool((low.isfinite() & high.isfinite()).all()):
            return  # a frame with a NaN would leave a box of NaN, in which no ray of any frame has samples
        if self.space == "posed" and not self._covers(field):
            # Frames that leave the box: start over with a box that contains them too, rather than lose space outside;
            # with a margin, so that the next frame does not trigger it again.
            union_low, union_high = low.minimum(self.grid.box[0]), high.maximum(self.grid.box[1])
            margin = 0.05 * (union_high - union_low)
            self.grid.box.copy_(torch.stack([union_low - margin, union_high + margin]))
            self.grid.opacity.fill_(-1.0)
        points = low + torch.rand(self.refresh_points, 3, device=low.device) * (high - low)
        frame = torch.randint(len(field.state), (self.refresh_points,), device=low.device)
        directions = any_directions(points)
        canonical = field.canonicalize(points, directions, frame)
        canonical = canonical[canonical.valid.nonzero()[:, 0]]
        self.grid.observe(self._where(canonical), field.density(canonical))
        if step >= self.warmup:
            self.grid.refresh()
