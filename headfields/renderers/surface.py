"""Volume rendering of a field of signed distances (NeuS), with normals and lighting."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.ops.compositing import accumulate, composite, exclusive_sum, ray_offsets, weights_from_alpha
from headfields.parts import Field, Renderer, Rendering, Sampler, check_part
from headfields.records import FieldValues, Rays, Samples
from headfields.renderers.lighting import Shading
from headfields.renderers.padded import Buffers, PaddedSamples, compact_rows, composite_padded
from headfields.renderers.surface_alpha import NeuSAlpha, SurfaceAlpha


class SurfaceRenderer(Renderer):
    """Renders a field of signed distances, with normals; composited over a background.

    Distance and gradient at the samples have a graph to rays, state and all parts, second derivatives included, so
    color, opacity, lighting and an eikonal loss all train.

    Args:
        sampler: chooses the samples. All samplers work: those that need a density get that of `alpha`.
        alpha: distances to opacities; `NeuSAlpha()` if None.
        lighting: applied to the color of each sample, in this order: `SHLighting`, `ColorAffine`, or another
            `headfields.renderers.lighting.Shading`.
        early_stop: transmittance at which a ray ends, found by a first pass of distances alone, without gradients.
            Without gradients, colors of samples of less weight are not computed either. 0: rays do not end.

    Attributes:
        sample_buffers: sizes of buffers for the samples of a call, as in `VolumeRenderer`, for a sampler that has them;
            None, the default: as many rows as there are samples. Tracking with a prior sets them.

    The rendering has a `normal`, the sum of weight · unit normal in posed space, and depth in meters, neither divided
    by opacity; `gradient` of all samples; and in training mode the canonical samples and the field.

    Differentiable as the parts are: distances, gradients and compositing to second order. Sample positions along the
    ray have no gradient, but their points have one to the rays.

    Raises:
        TypeError: an argument is another kind of part.
        ValueError: early_stop is out of range; later, light that needs the camera's rotation and rays without one.

    Source: Wang et al. 2021, "NeuS", section 3.1; light per sample: MonoNPHM (Giebenhain et al. 2024).
    """

    takes = ("distance",)

    def __init__(
        self,
        sampler: Sampler,
        alpha: SurfaceAlpha | None = None,
        lighting: Shading | Sequence[Shading] | None = None,
        early_stop: float | int = 1e-4,
    ) -> None:
        super().__init__()
        shadings = [] if lighting is None else [lighting] if isinstance(lighting, Shading) else list(lighting)
        alpha = NeuSAlpha() if alpha is None else alpha
        parts = (("sampler", sampler, Sampler), ("alpha", alpha, SurfaceAlpha))
        for name, part, noun in (*parts, *(("lighting", shading, Shading) for shading in shadings)):
            check_part("SurfaceRenderer", name, part, noun)
        if not 0 <= early_stop < 1:
            raise ValueError(f"SurfaceRenderer: early_stop is {early_stop}; expected a weight in [0, 1)")
        self.sampler = sampler
        self.alpha = alpha
        self.shadings = nn.ModuleList(shadings)
        self.early_stop = early_stop
        self.sample_buffers: Buffers | None = None

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        self.sampler.build(bounds)

    def density(self, values: FieldValues) -> Float[Tensor, " m"]:
        assert values.distance is not None
        return self.alpha.density(values.distance)

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        if self.sample_buffers is not None and len(rays):
            return self._padded(rays, field, background, self.sample_buffers)
        with torch.no_grad():
            samples, canonical = self.sampler(rays, field)
            if self.early_stop or self.training:
                values = field.decode(canonical, color=False)
                if self.training:
                    self.sampler.observe(canonical, self.density(values))
                if self.early_stop:
                    (distance,) = values.require("distance")
                    offsets = ray_offsets(samples.ray, len(rays))
                    samples = samples[self._visible(samples, distance, offsets).nonzero()[:, 0]]
        return self.shade(samples, rays, field, background)

    def _padded(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"], buffers: Buffers) -> Rendering:
        """As `forward`, into buffers; colors of all samples are computed."""
        with torch.no_grad():
            samples, canonical = self.sampler.padded(rays, field, buffers)
            assert isinstance(samples, PaddedSamples)
            if self.early_stop or self.training:
                values = field.decode(canonical, color=False)
                if self.training:  # a sampler observes no NaN
                    self.sampler.observe(canonical, self.density(values).masked_fill(~samples.is_sample, torch.nan))
                if self.early_stop:
                    (distance,) = values.require("distance")
                    visible = self._visible(samples, distance, samples.packing())
                    samples, _ = compact_rows(samples, visible, buffers, "visible")
        origins, directions, frame = (
            x.index_select(0, samples.ray) for x in (rays.origins, rays.directions, rays.frame)
        )
        points = torch.addcmul(origins, directions, samples.middle[:, None])
        points = points.masked_fill(samples.count == 0, 0.0)  # else a point that is not valid, and maybe not finite
        canonical, values = field.signed_distance(points, frame, directions, color=True)
        distance, gradient, normals = values.require("distance", "gradient", "normal")
        slope = (directions * gradient).sum(dim=-1)
        alpha = self.alpha(distance, slope, samples.end - samples.start).where(samples.is_sample, 0.0)
        packing = samples.packing()
        weights = weights_from_alpha(alpha, offsets=packing)
        rgb = self._lit(values, samples.ray, rays)
        color, opacity, depth = composite_padded(weights, rgb, samples, packing, background)
        normal = accumulate(weights, normals, offsets=packing)[: len(rays)]
        training_inputs: dict[str, Any] = {"canonical": canonical, "field": field} if self.training else {}
        return Rendering(
            rgb=color, opacity=opacity, depth=depth, normal=normal, samples=samples, weights=weights,
            gradient=gradient, **training_inputs,
        )  # fmt: skip

    def _visible(
        self, samples: Samples, distance: Float[Tensor, " m"], offsets: Int[Tensor, " offsets"]
    ) -> Bool[Tensor, " m"]:
        """Samples with a transmittance above the limit, by the samples before each."""
        middle = samples.middle
        depth = self.alpha.optical_depth(distance[:-1], distance[1:], middle.diff())
        depth = torch.where(samples.ray.diff() == 0, depth, 0.0)
        depth = torch.cat([depth[:0].new_zeros(min(len(samples), 1)), depth])
        return exclusive_sum(depth, offsets=offsets) <= -math.log(self.early_stop)

    def shade(self, samples: Samples, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        """The rendering of N rays at M samples, all of them used."""
        offsets = ray_offsets(samples.ray, len(rays))
        origins, directions, frame = (
            x.index_select(0, samples.ray) for x in (rays.origins, rays.directions, rays.frame)
        )
        points = torch.addcmul(origins, directions, samples.middle[:, None])
        all_colors = torch.is_grad_enabled() or not self.early_stop
        canonical, values = field.signed_distance(points, frame, directions, color=all_colors)
        distance, gradient, normals = values.require("distance", "gradient", "normal")
        slope = (directions * gradient).sum(dim=-1)
        alpha = self.alpha(distance, slope, samples.end - samples.start)
        weights = weights_from_alpha(alpha, offsets=offsets)
        if all_colors:
            rgb = self._lit(values, samples.ray, rays)
        else:
            visible = (weights >= self.early_stop).nonzero()[:, 0]
            lit = self._lit(field.color(values[visible], canonical[visible]), samples.ray[visible], rays)
            rgb = lit.new_zeros(len(samples), 3).index_copy(0, visible, lit)
        color, opacity, depth = composite(weights, rgb, samples, len(rays), background, offsets=offsets)
        normal = accumulate(weights, normals, offsets=offsets)
        training_inputs: dict[str, Any] = {"canonical": canonical, "field": field} if self.training else {}
        return Rendering(
            rgb=color, opacity=opacity, depth=depth, normal=normal, samples=samples, weights=weights,
            gradient=gradient, **training_inputs,
        )  # fmt: skip

    def _lit(self, values: FieldValues, ray: Int[Tensor, " m"], rays: Rays) -> Float[Tensor, "m 3"]:
        rgb, normals = values.require("rgb", "normal")
        for shading in self.shadings:
            rgb = shading(rgb, normals, ray, rays)
        return rgb

    def due(self, step: int) -> bool:
        return self.sampler.due(step)

    def update(self, field: Field, step: int) -> None:
        self.sampler.update(field, step)
