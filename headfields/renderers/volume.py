"""Volume rendering of a density field."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops.compositing import composite, exclusive_sum, weights_from_density
from headfields.parts import Field, Renderer, Rendering, Sampler
from headfields.records import Canonical, Rays, Samples


class VolumeRenderer(Renderer):
    """Emission and absorption along rays, composited over a background.

    Args:
        sampler: where along the rays the field is asked.
        early_stop: transmittance below which the rest of a ray is left out (INSTA: 1e-4). What lies there is found by
            a first pass for the density alone, without gradients. 0 leaves nothing out.

    In evaluation mode samples whose weight is below `early_stop` are not asked for their color either. Depth is the
    expected distance along the ray, meters, not divided by opacity. In training mode the rendering keeps the canonical
    samples and the field, for losses on them.

    Differentiable as the parts are: the compositing is so to second order.

    Raises:
        TypeError: the sampler is none.
        ValueError: early_stop is not a transmittance.

    Source: Mildenhall et al. 2020, "NeRF", equation 3; early stop: INSTA's released code.
    """

    takes = ("density",)

    def __init__(self, sampler: Sampler, early_stop: float = 1e-4) -> None:
        super().__init__()
        if not isinstance(sampler, Sampler):
            raise TypeError(f"VolumeRenderer: sampler is a {type(sampler).__name__}; expected a headfields Sampler")
        if not 0 <= early_stop < 1:
            raise ValueError(f"VolumeRenderer: early_stop is {early_stop}; expected a transmittance in [0, 1)")
        self.sampler = sampler
        self.early_stop = early_stop

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        self.sampler.build(bounds)

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        samples, canonical = self.sampler(rays, field)
        return self.shade(samples, canonical, rays, field, background)

    def shade(
        self, samples: Samples, canonical: Canonical, rays: Rays, field: Field, background: Float[Tensor, "n 3"]
    ) -> Rendering:
        """What N rays see of the field at M samples, whose canonical points are given; early stop as configured."""
        if self.early_stop:
            with torch.no_grad():
                first = field.decode(canonical, color=False)
                (density,) = first.require("density")
                seen = self._seen(samples, density, len(rays)).nonzero()[:, 0]
            if self.training:
                self.sampler.observe(canonical, density)
            samples, canonical = samples[seen], canonical[seen]
            # With gradients the density is worth a second look: a graph over all samples would be the larger part.
            values = field.decode(canonical) if torch.is_grad_enabled() else field.color(first[seen], canonical)
        else:
            values = field.decode(canonical)
            if self.training:
                self.sampler.observe(canonical, values.require("density")[0].detach())
        density, color = values.require("density", "rgb")
        weights = weights_from_density(density, samples.start, samples.end, samples.ray, len(rays))
        rgb, opacity, depth = composite(weights, color, samples, len(rays), background)
        kept: dict[str, Any] = {"canonical": canonical, "field": field} if self.training else {}
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights, **kept)

    def _seen(self, samples: Samples, density: Float[Tensor, " m"], rays: int) -> Bool[Tensor, " m"]:
        optical = density * (samples.end - samples.start)
        before = exclusive_sum(optical, samples.ray, rays)
        seen = before <= -math.log(self.early_stop)
        if not self.training:
            seen &= -torch.expm1(-optical) * torch.exp(-before) >= self.early_stop
        return seen

    def due(self, step: int) -> bool:
        return self.sampler.due(step)

    def update(self, field: Field, step: int) -> None:
        self.sampler.update(field, step)
