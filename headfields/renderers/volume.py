"""Volume rendering of a density field."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from headfields.ops.compositing import composite, weights_from_density
from headfields.parts import Renderer, Sampler
from headfields.records import Rays, Rendering


class VolumeRenderer(Renderer):
    """Emission and absorption along rays, composited over a background.

    Args:
        sampler: where along the rays the field is asked.

    Source: Mildenhall et al. 2020, "NeRF", equation 3.
    """

    takes = ("density",)

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        if not isinstance(sampler, Sampler):
            raise TypeError(f"VolumeRenderer: sampler is a {type(sampler).__name__}; expected a headfields Sampler")
        self.sampler = sampler

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        self.sampler.build(bounds)

    def forward(self, rays: Rays, field: Any, background: Float[Tensor, "n 3"]) -> Rendering:
        samples, canonical = self.sampler(rays, field)
        values = field.decode(canonical)
        if self.training:
            self.sampler.observe(canonical, values.density.detach())
        weights = weights_from_density(values.density, samples.start, samples.end, samples.ray, len(rays))
        rgb, opacity, depth = composite(weights, values.rgb, samples, len(rays), background)
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights)

    def update(self, field: Any, step: int) -> None:
        self.sampler.update(field, step)
