"""Meshes: the record, its files, extraction from a field, distances to a surface, and alignment to one."""

from headfields.mesh.distances import SurfaceDistances, SurfaceTree
from headfields.mesh.extract import extract, on_surface
from headfields.mesh.field_source import DENSITY_LEVEL, FieldSource
from headfields.mesh.files import FORMATS, load_mesh, save_mesh
from headfields.mesh.icp import Alignment, align_to_surface
from headfields.mesh.isosurface import SparseSurface, isosurface
from headfields.mesh.mesh import Mesh, SurfacePoints
from headfields.mesh.obj import MeshFileError
from headfields.mesh.seams import SplitVertices, split_at_seams
from headfields.mesh.subdivision import Subdivision, subdivided
from headfields.mesh.unwrapping import unwrapped

__all__ = [
    "DENSITY_LEVEL",
    "FORMATS",
    "Alignment",
    "FieldSource",
    "Mesh",
    "MeshFileError",
    "SparseSurface",
    "SplitVertices",
    "Subdivision",
    "SurfaceDistances",
    "SurfacePoints",
    "SurfaceTree",
    "align_to_surface",
    "extract",
    "isosurface",
    "load_mesh",
    "on_surface",
    "save_mesh",
    "split_at_seams",
    "subdivided",
    "unwrapped",
]
