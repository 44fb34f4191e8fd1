"""Encoders: canonical points, or the state, to features; and the sources of vertex features that some stand on."""

from typing import TYPE_CHECKING

from headfields.encoders import frame_inputs  # noqa: F401  (registers its part)
from headfields.encoders.color_fields import ColorFields
from headfields.encoders.coordinates import Coordinates
from headfields.encoders.frame_code import FrameCode
from headfields.encoders.frequency import Frequency
from headfields.encoders.hash_grid import HashGrid
from headfields.encoders.region_gate import RegionGate
from headfields.encoders.surface_features import SurfaceFeatures
from headfields.encoders.uv_cnn import UVCodeFeatures, UVDisplacementFeatures
from headfields.encoders.vertex_features import VertexFeatures
from headfields.encoders.vertex_source import VertexSource
from headfields.encoders.vertex_tables import (
    BlendedTableFeatures,
    CodeFeatures,
    CodeMLPFeatures,
    StaticFeatures,
    SubdividedFeatures,
)
from headfields.old_names import deprecated_names

__all__ = [
    "BlendedTableFeatures",
    "CodeFeatures",
    "CodeMLPFeatures",
    "ColorFields",
    "Coordinates",
    "FrameCode",
    "Frequency",
    "HashGrid",
    "RegionGate",
    "StaticFeatures",
    "SubdividedFeatures",
    "SurfaceFeatures",
    "UVCodeFeatures",
    "UVDisplacementFeatures",
    "VertexFeatures",
    "VertexSource",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
