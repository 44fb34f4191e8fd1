"""Renderers, and the samplers that they use."""

from headfields.renderers.coarse_to_fine import CoarseToFineRenderer
from headfields.renderers.occupancy import OccupancyGrid
from headfields.renderers.samplers import HierarchicalSampler, OccupancySampler, UniformSampler
from headfields.renderers.volume import VolumeRenderer

__all__ = [
    "CoarseToFineRenderer",
    "HierarchicalSampler",
    "OccupancyGrid",
    "OccupancySampler",
    "UniformSampler",
    "VolumeRenderer",
]
