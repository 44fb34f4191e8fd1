"""Decoders: features and directions to density or signed distance, and colour."""

from headfields.decoders.anchored import AnchoredDecoder
from headfields.decoders.blended_colour import BlendedColour
from headfields.decoders.nerf import NeRFDecoder
from headfields.decoders.neus import NeuSDecoder
from headfields.decoders.radiance_head import RadianceHead

__all__ = [
    "AnchoredDecoder",
    "BlendedColour",
    "NeRFDecoder",
    "NeuSDecoder",
    "RadianceHead",
]
