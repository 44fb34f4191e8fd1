"""Meshes: surfaces of fields, the record that holds them, distances to them, and files."""

from headfields.meshing.distances import SurfaceDistances, SurfaceTree
from headfields.meshing.extract import extract, gradient_normals, on_surface
from headfields.meshing.fields import DENSITY_LEVEL, FieldSource
from headfields.meshing.files import FORMATS, load_mesh, save_mesh
from headfields.meshing.icp import Alignment, align_to_surface
from headfields.meshing.mesh import Mesh, SurfacePoints
from headfields.meshing.sparse import SparseSurface, isosurface

__all__ = [
    "DENSITY_LEVEL",
    "FORMATS",
    "Alignment",
    "FieldSource",
    "Mesh",
    "SparseSurface",
    "SurfaceDistances",
    "SurfacePoints",
    "SurfaceTree",
    "align_to_surface",
    "extract",
    "gradient_normals",
    "isosurface",
    "load_mesh",
    "on_surface",
    "save_mesh",
]
