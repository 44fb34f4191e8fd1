"""Volume rendering of a density field."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops.compositing import composite, exclusive_sum, ray_offsets, weights_from_density
from headfields.parts import Field, Renderer, Rendering, Sampler, check_part
from headfields.records import Canonical, Rays, Samples
from headfields.renderers.padded import (
    NAMES,
    Buffers,
    ImageBuffers,
    PaddedSamples,
    compact_rows,
    composite_padded,
)


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

    Attributes:
        sample_buffers: sizes of buffers for the samples of a training step, so that a GPU is not waited for and its
            graph can be captured; None, the default: as many rows as there are samples. `Trainer` sets them.

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
        self.sample_buffers: Buffers | None = None
        self._image_buffers: ImageBuffers | None = None
        self._piece_buffers: Buffers | None = None  # while a piece of an image is drawn

    @property
    def buffer_names(self) -> tuple[str, ...]:
        """The buffers of `sample_buffers`."""
        return NAMES if self.early_stop else NAMES[:2]

    @property
    def takes_buffers(self) -> bool:
        """Whether `sample_buffers` may be set: the sampler has a form of a fixed size."""
        return type(self.sampler).padded is not Sampler.padded

    @property
    def _current_buffers(self) -> Buffers | None:
        """Those that the next call fills."""
        return self.sample_buffers if self.training else self._piece_buffers

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        self.sampler.build(bounds)

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        buffers = self._current_buffers
        if buffers is not None and len(rays):
            padded, canonical = self.sampler.padded(rays, field, buffers)
            assert isinstance(padded, PaddedSamples)
            return self._shade_padded(padded, canonical, field, background, buffers)
        samples, canonical = self.sampler(rays, field)
        return self.shade(samples, canonical, rays, field, background)

    def draw_pieces(
        self, pieces: Sequence[slice], draw: Callable[[slice], Rendering], device: torch.device
    ) -> list[Rendering]:
        if device.type == "cpu" or not self.takes_buffers:
            return super().draw_pieces(pieces, draw, device)
        if self._image_buffers is None:
            self._image_buffers = ImageBuffers(self.buffer_names)

        def into(piece: slice, buffers: Buffers) -> Rendering:
            self._piece_buffers = buffers
            try:
                return draw(piece)
            finally:
                self._piece_buffers = None

        return self._image_buffers.draw(pieces, device, into)

    def _shade_padded(
        self,
        samples: PaddedSamples,
        canonical: Canonical,
        field: Field,
        background: Float[Tensor, "n 3"],
        buffers: Buffers,
    ) -> Rendering:
        """As `shade`, of padded samples."""
        if self.early_stop:
            with torch.no_grad():
                first = field.decode(canonical, color=False)
                (density,) = first.require("density")
                self._observe_padded(samples, canonical, density)
                optical = density.masked_fill(~samples.is_sample, 0.0) * (samples.end - samples.start)
                visible = self._visible(optical, exclusive_sum(optical, offsets=samples.packing()))
            samples, index = compact_rows(samples, visible, buffers, "visible")
            canonical = canonical[index]
            values = field.decode(canonical) if torch.is_grad_enabled() else field.color(first[index], canonical)
        else:
            values = field.decode(canonical)
            self._observe_padded(samples, canonical, values.require("density")[0].detach())
        density, color = values.require("density", "rgb")
        packing = samples.packing()
        density = density.masked_fill(~samples.is_sample, 0.0)  # a padding row's may be infinite, and its length is 0
        weights = weights_from_density(density, samples.start, samples.end, offsets=packing)
        rgb, opacity, depth = composite_padded(weights, color, samples, packing, background)
        training_inputs: dict[str, Any] = {"canonical": canonical, "field": field} if self.training else {}
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights, **training_inputs)

    def _observe_padded(self, samples: PaddedSamples, canonical: Canonical, density: Float[Tensor, " m"]) -> None:
        if not self.training:
            return
        # A sampler observes no NaN.
        self.sampler.observe(canonical, density.masked_fill(~samples.is_sample, torch.nan))

    def shade(
        self, samples: Samples, canonical: Canonical, rays: Rays, field: Field, background: Float[Tensor, "n 3"]
    ) -> Rendering:
        """The rendering of N rays at M samples with the given canonical points; with the early stop."""
        if self.early_stop:
            with torch.no_grad():
                first = field.decode(canonical, color=False)
                (density,) = first.require("density")
                optical = density * (samples.end - samples.start)
                visible = self._visible(optical, exclusive_sum(optical, samples.ray, len(rays))).nonzero()[:, 0]
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
        offsets = ray_offsets(samples.ray, len(rays))
        weights = weights_from_density(density, samples.start, samples.end, offsets=offsets)
        rgb, opacity, depth = composite(weights, color, samples, len(rays), background, offsets=offsets)
        training_inputs: dict[str, Any] = {"canonical": canonical, "field": field} if self.training else {}
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights, **training_inputs)

    def _visible(self, optical: Float[Tensor, " m"], before: Float[Tensor, " m"]) -> Bool[Tensor, " m"]:
        visible = before <= -math.log(self.early_stop)
        if not self.training:
            weight = -torch.expm1(-optical) * torch.exp(-before)
            visible &= ~(weight.abs() < self.early_stop)  # negative and NaN densities are kept, and show
        return visible

    def due(self, step: int) -> bool:
        return self.sampler.due(step)

    def update(self, field: Field, step: int) -> None:
        self.sampler.update(field, step)
