"""Encoders: canonical points, or the state, to features."""

from headfields.encoders.frequency import Frequency
from headfields.encoders.hash_grid import HashGrid
from headfields.encoders.region_gate import RegionGate
from headfields.encoders.vertex_features import VertexFeatures

__all__ = ["Frequency", "HashGrid", "RegionGate", "VertexFeatures"]
