"""Decoders: features and directions to density or signed distance, and color."""

from headfields.decoders.anchored import AnchoredDecoder
from headfields.decoders.blended_color import BlendedColor
from headfields.decoders.nerf import NeRFDecoder
from headfields.decoders.neus import NeuSDecoder
from headfields.decoders.radiance_head import RadianceHead

__all__ = [
    "AnchoredDecoder",
    "BlendedColor",
    "NeRFDecoder",
    "NeuSDecoder",
    "RadianceHead",
]
