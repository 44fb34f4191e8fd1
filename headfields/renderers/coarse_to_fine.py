"""Coarse-to-fine volume rendering of NeRF: a coarse network places the samples of a fine one."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.compositing import composite, weights_from_density
from headfields.ops.sampling import inverse_cdf, inverse_cdf_edges, merge_samples, stratified, stratified_edges
from headfields.parts import Decoder, Encoder, Field, Rendering, check_part
from headfields.records import Canonical, Features, FieldValues, HeadState, Rays, Samples
from headfields.renderers.padded import Buffers, between_edges, composite_padded
from headfields.renderers.samplers import UniformSampler, canonicalize_padded, canonicalize_samples
from headfields.renderers.volume import VolumeRenderer


class CoarseToFineRenderer(VolumeRenderer):
    """Volume rendering in two passes, each with its own network.

    The coarse network is evaluated at stratified samples of each ray's near-far interval; further samples are drawn
    from its weights, and the avatar's own field, the fine one, is evaluated at the union of both. In training the
    coarse network renders the rays too (`Rendering.coarse`), for a color loss of its own. It learns from that alone:
    sample positions are not differentiable. In evaluation mode only its density is computed.

    Args:
        encoder, decoder: the coarse network, of any kind; its encoder may share a vertex source with the fine one's.
        coarse: samples per ray of the first pass.
        fine: samples per ray drawn from its weights. NeRF has 64 and 128; MonoAvatar does not say, and 64 for both is
            our own choice.
        early_stop: threshold of the fine pass, see `VolumeRenderer`.

    Raises:
        TypeError: encoder is not an `Encoder`, or decoder not a `Decoder`.
        ValueError: a count is below 1, or the decoder does not give a density.

    Source: Mildenhall et al. 2020, "NeRF", section 5.2; MonoAvatar (Bai et al. 2023), which trains both networks.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, coarse: int = 64, fine: int = 64, early_stop: float = 1e-4
    ) -> None:
        super().__init__(UniformSampler(coarse), early_stop)
        check_part("CoarseToFineRenderer", "encoder", encoder, Encoder)
        check_part("CoarseToFineRenderer", "decoder", decoder, Decoder)
        if fine < 1:
            raise ValueError(f"CoarseToFineRenderer: fine is {fine}; it must be at least 1")
        if decoder.gives != "density":
            raise ValueError(
                f"CoarseToFineRenderer: decoder is a {type(decoder).__name__}, which gives {decoder.gives}; "
                "the coarse network has to give a density"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.coarse = coarse
        self.fine = fine

    @property
    def buffer_names(self) -> tuple[str, ...]:
        return "stratified", "coarse", *super().buffer_names

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        return (self.encoder,)

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        return (self.decoder,)

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        super().build(bounds)
        self.decoder.build(self.encoder.width, bounds)

    def prepare(self, state: HeadState) -> tuple[Any, Any]:
        return self.encoder.prepare(state), self.decoder.prepare(state)

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        buffers = self._current_buffers
        if buffers is not None and len(rays):
            return self._forward_padded(rays, field, background, buffers)
        near, far = field.near_far(rays)
        first = stratified(near, far, self.coarse, jitter=self.training)
        coarse, drawn = self._coarse_pass(first, rays, field, background)
        samples, canonical = canonicalize_samples(merge_samples(first, drawn, len(rays)), rays, field)
        return self.shade(samples, canonical, rays, field, background).replace(coarse=coarse)

    def _coarse_pass(
        self, first: Samples, rays: Rays, field: Field, background: Float[Tensor, "n 3"]
    ) -> tuple[Rendering | None, Samples]:
        """The coarse network's rendering, in training, and the samples drawn from its weights."""
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            samples, canonical = canonicalize_samples(first, rays, field)
            values = self._coarse_values(canonical, field)
            (density,) = values.require("density")
            weights = weights_from_density(density, samples.start, samples.end, samples.ray, len(rays))
        drawn = inverse_cdf(weights.detach(), samples, self.fine, rays=len(rays), jitter=self.training)
        if not self.training:
            return None, drawn
        (color,) = values.require("rgb")
        rgb, opacity, depth = composite(weights, color, samples, len(rays), background)
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights), drawn

    def _coarse_values(self, canonical: Canonical, field: Field) -> FieldValues:
        encoder_prepared, decoder_prepared = field.renderer_prepared
        features = Features(self.encoder(canonical, encoder_prepared))
        return self.decoder(features, canonical, decoder_prepared, color=self.training)

    def _forward_padded(
        self, rays: Rays, field: Field, background: Float[Tensor, "n 3"], buffers: Buffers
    ) -> Rendering:
        """As `forward`, with samples in buffers."""
        edges = stratified_edges(*field.near_far(rays), self.coarse, jitter=self.training)
        hits = (edges[:, :1] < edges[:, -1:]).expand(-1, self.coarse)
        first, coarse = between_edges(edges, hits, buffers, "stratified"), None
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            samples, canonical = canonicalize_padded(first, rays, field, buffers, "coarse")
            values, packing = self._coarse_values(canonical, field), samples.packing()
            density = values.require("density")[0].masked_fill(~samples.is_sample, 0.0)
            weights = weights_from_density(density, samples.start, samples.end, offsets=packing)
            if self.training:
                (color,) = values.require("rgb")
                rgb, opacity, depth = composite_padded(weights, color, samples, packing, background)
                coarse = Rendering(rgb=rgb, opacity=opacity, depth=depth, samples=samples, weights=weights)
        drawn = inverse_cdf_edges(weights, samples, self.fine, packing, len(rays), jitter=self.training)
        # The intervals of both sets tile one range, so their union has the edges of both: `merge` in a fixed size.
        drawn = drawn.where((samples.offsets.diff() > 0)[:, None], edges[:, :1])
        union = torch.cat([edges, drawn], dim=1).sort(dim=1).values
        pieces = between_edges(union, union[:, :-1] < union[:, 1:], buffers, "marched")
        samples, canonical = canonicalize_padded(pieces, rays, field, buffers, "samples")
        return self._shade_padded(samples, canonical, field, background, buffers).replace(coarse=coarse)
