"""Decoders: features and directions to density or signed distance, and color; or to offsets of Gaussians."""

from headfields.decoders.anchored import AnchoredDecoder
from headfields.decoders.blended_color import BlendedColor
from headfields.decoders.nerf import NeRFDecoder
from headfields.decoders.neus import NeuSDecoder
from headfields.decoders.radiance_head import RadianceHead
from headfields.decoders.splats import SplatDecoder

__all__ = [
    "AnchoredDecoder",
    "BlendedColor",
    "NeRFDecoder",
    "NeuSDecoder",
    "RadianceHead",
    "SplatDecoder",
]
