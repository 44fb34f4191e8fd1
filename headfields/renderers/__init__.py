"""Renderers, and the samplers that they use."""

from headfields.renderers.occupancy import OccupancyGrid
from headfields.renderers.samplers import HierarchicalSampler, OccupancySampler, UniformSampler
from headfields.renderers.volume import VolumeRenderer

__all__ = ["HierarchicalSampler", "OccupancyGrid", "OccupancySampler", "UniformSampler", "VolumeRenderer"]
