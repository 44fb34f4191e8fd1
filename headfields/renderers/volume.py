"""Volume rendering of a density field."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops.compositing import composite, exclusive_sum, weights_from_density
from headfields.parts import Field, Renderer, Rendering, Sampler, check_part
from headfields.records import Canonical, Rays, Samples


class VolumeRenderer(Renderer):
    """Emission and absorption along rays, composited over a background.

    Args:
        sampler: chooses the samples.
        early_stop: transmittance at which a ray ends (INSTA: 1e-4), found by a first pass of densities alone, without
            gradients. 0: rays do not end.

    In evaluation mode colors of samples whose weight is below `early_stop` are not computed either. Depth is the
    expected distance along the ray, meters, not divided by opacity. In training mode the rendering keeps the canonical
    samples and the field, for losses on them.

    Differentiable as the parts are; compositing to second order.

    Raises:
        TypeError: sampler is not a `Sampler`.
        ValueError: early_stop is not a transmittance in [0, 1).

    Source: Mildenhall et al. 2020, "NeRF", equation 3; early stop: INSTA's released code.
    """

    takes = ("density",)

    def __init__(self, sampler: Sampler, early_stop: float = 1e-4) -> None:
        super().__init__()
        check_part("VolumeRenderer", "sampler", sampler, Sampler)
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
        """The rendering of N rays at M samples with the given canonical points; with the early stop."""
        if self.early_stop:
            with torch.no_grad():
                first = field.decode(canonical, color=False)
                (density,) = first.require("density")
                visible = self._visible(samples, density, len(rays)).nonzero()[:, 0]
            if self.training:
                self.sampler.observe(canonical, density)
            samples, canonical = samples[visible], canonical[visible]
            # With gradients the density is computed again: a graph over all samples would cost more.
            values = field.decode(canonical) if torch.is_grad_enabled() else field.color(first[visible], canonical)
        else:
            values = field.decode(canonical)
            if self.training:
                self.sampler.observe(canonical, values.require("density")[0].detach())
        density, color = values.require("density", "rgb")
        weights = weights_from_density(density, samples.start, samples.end, samples.ray, len(rays))
        rgb, opacity, depth = composite(weights, color, samples, len(rays), background)
        training_inputs: dict[str, Any] = {"canonical": canonical, "field": field} if self.training else {}
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights, **training_inputs)

    def _visible(self, samples: Samples, density: Float[Tensor, " m"], rays: int) -> Bool[Tensor, " m"]:
        optical = density * (samples.end - samples.start)
        before = exclusive_sum(optical, samples.ray, rays)
        visible = before <= -math.log(self.early_stop)
        if not self.training:
            weight = -torch.expm1(-optical) * torch.exp(-before)
            visible &= ~(weight.abs() < self.early_stop)  # negative and NaN densities are kept, and show
        return visible

    def due(self, step: int) -> bool:
        return self.sampler.due(step)

    def update(self, field: Field, step: int) -> None:
        self.sampler.update(field, step)
