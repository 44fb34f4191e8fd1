"""Renderers, with their samplers, opacities and lighting."""

from headfields.renderers.coarse_to_fine import CoarseToFineRenderer
from headfields.renderers.lighting import ColorAffine, Shading, SHLighting
from headfields.renderers.mesh import MeshRenderer, MeshRendering
from headfields.renderers.occupancy import OccupancyGrid
from headfields.renderers.samplers import HierarchicalSampler, OccupancySampler, UniformSampler
from headfields.renderers.sharpness import LearnedSharpness, ScheduledSharpness, Sharpness
from headfields.renderers.splats import SplatRenderer
from headfields.renderers.surface import SurfaceRenderer
from headfields.renderers.surface_alpha import NeuSAlpha, SurfaceAlpha, UnclampedAlpha, VolSDFDensity
from headfields.renderers.surface_band import SurfaceBandSampler
from headfields.renderers.surface_sampler import SurfaceSampler
from headfields.renderers.volume import VolumeRenderer

__all__ = [
    "CoarseToFineRenderer",
    "ColorAffine",
    "HierarchicalSampler",
    "LearnedSharpness",
    "MeshRenderer",
    "MeshRendering",
    "NeuSAlpha",
    "OccupancyGrid",
    "OccupancySampler",
    "SHLighting",
    "ScheduledSharpness",
    "Shading",
    "Sharpness",
    "SplatRenderer",
    "SurfaceAlpha",
    "SurfaceBandSampler",
    "SurfaceRenderer",
    "SurfaceSampler",
    "UnclampedAlpha",
    "UniformSampler",
    "VolSDFDensity",
    "VolumeRenderer",
]
