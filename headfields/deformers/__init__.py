"""Deformers: posed space to canonical space."""

from headfields.deformers.chain import Chain
from headfields.deformers.error_warp import ErrorWarp
from headfields.deformers.hyper import HyperDeformer
from headfields.deformers.inverse import Inverse, invert
from headfields.deformers.mesh import MeshDeformer
from headfields.deformers.near_surface import NearSurface
from headfields.deformers.static import Static, ray_box, ray_sphere
from headfields.deformers.surface import SurfaceCanonicalizer

__all__ = [
    "Chain",
    "ErrorWarp",
    "HyperDeformer",
    "Inverse",
    "MeshDeformer",
    "NearSurface",
    "Static",
    "SurfaceCanonicalizer",
    "invert",
    "ray_box",
    "ray_sphere",
]
