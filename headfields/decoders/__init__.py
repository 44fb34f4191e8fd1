"""Decoders: features and directions to density or signed distance, and color; or to offsets of Gaussians."""

from typing import TYPE_CHECKING

from headfields.decoders.anchored import AnchoredDecoder
from headfields.decoders.blended_color import BlendedColor
from headfields.decoders.nerf import NeRFDecoder
from headfields.decoders.neus import NeuSDecoder
from headfields.decoders.radiance_head import RadianceHead
from headfields.decoders.splats import SplatDecoder
from headfields.old_names import deprecated_names

__all__ = [
    "AnchoredDecoder",
    "BlendedColor",
    "NeRFDecoder",
    "NeuSDecoder",
    "RadianceHead",
    "SplatDecoder",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
