"""Deformers: posed space to canonical space."""

from headfields.deformers.chain import Chain
from headfields.deformers.static import Static, ray_box
from headfields.deformers.surface import SurfaceCanonicalizer

__all__ = ["Chain", "Static", "SurfaceCanonicalizer", "ray_box"]
