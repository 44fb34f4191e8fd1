"""Meshes: the record, its files, extraction from a field, distances to a surface, and alignment to one."""

from typing import TYPE_CHECKING

from headfields.mesh.extract import extract
from headfields.mesh.files import load_mesh, save_mesh
from headfields.mesh.icp import align_to_surface
from headfields.mesh.isosurface import isosurface
from headfields.mesh.mesh import Mesh
from headfields.mesh.seams import split_at_seams
from headfields.mesh.subdivision import subdivide
from headfields.mesh.unwrapping import unwrap_template
from headfields.old_names import deprecated_names

__all__ = [
    "Mesh",
    "align_to_surface",
    "extract",
    "isosurface",
    "load_mesh",
    "save_mesh",
    "split_at_seams",
    "subdivide",
    "unwrap_template",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
