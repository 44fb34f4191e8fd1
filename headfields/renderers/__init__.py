"""Renderers, with their samplers, opacities and lighting."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names
from headfields.renderers.coarse_to_fine import CoarseToFineRenderer
from headfields.renderers.lighting import ColorAffine, SHLighting
from headfields.renderers.mesh import MeshRenderer
from headfields.renderers.samplers import HierarchicalSampler, OccupancySampler, UniformSampler
from headfields.renderers.sharpness import LearnedSharpness, ScheduledSharpness
from headfields.renderers.splats import SplatRenderer
from headfields.renderers.surface import SurfaceRenderer
from headfields.renderers.surface_alpha import NeuSAlpha, UnclampedAlpha, VolSDFDensity
from headfields.renderers.surface_band import SurfaceBandSampler
from headfields.renderers.surface_sampler import SurfaceSampler
from headfields.renderers.volume import VolumeRenderer

__all__ = [
    "CoarseToFineRenderer",
    "ColorAffine",
    "HierarchicalSampler",
    "LearnedSharpness",
    "MeshRenderer",
    "NeuSAlpha",
    "OccupancySampler",
    "SHLighting",
    "ScheduledSharpness",
    "SplatRenderer",
    "SurfaceBandSampler",
    "SurfaceRenderer",
    "SurfaceSampler",
    "UnclampedAlpha",
    "UniformSampler",
    "VolSDFDensity",
    "VolumeRenderer",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
