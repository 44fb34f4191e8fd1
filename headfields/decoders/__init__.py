"""Decoders: features and directions to density or signed distance, and colour."""

from headfields.decoders.blended_colour import BlendedColour
from headfields.decoders.nerf import NeRFDecoder
from headfields.decoders.radiance_head import RadianceHead

__all__ = ["BlendedColour", "NeRFDecoder", "RadianceHead"]
