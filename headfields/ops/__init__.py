"""Operations: functions on tensors, one file each. `headfields.ops.reference` defines them in plain PyTorch."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names
from headfields.ops.antialias import antialias
from headfields.ops.blended_map import blended_map
from headfields.ops.compositing import accumulate, composite, weights_from_alpha, weights_from_density
from headfields.ops.distortion import distortion
from headfields.ops.frequency import frequency_encoding
from headfields.ops.hash_grid import hash_grid
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.ops.implicit import implicit_root
from headfields.ops.interlevel import interlevel
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.log_strain import log_strain
from headfields.ops.marching_cubes import marching_cubes
from headfields.ops.mlp import mlp
from headfields.ops.mlp_tangents import mlp_tangents
from headfields.ops.nearest_vertices import VertexTree, knn
from headfields.ops.occupancy import lookup_occupancy, march_occupancy
from headfields.ops.rasterize_gaussians import rasterize_gaussians
from headfields.ops.ray_box import ray_box
from headfields.ops.rigid import fit_rigid
from headfields.ops.rotations import rotation_from_6d, rotation_from_quaternion, rotation_matrices
from headfields.ops.sampling import inverse_cdf, merge_samples, stratified
from headfields.ops.skinning import blend_shapes, joint_transforms, linear_blend_skinning
from headfields.ops.softplus import softplus
from headfields.ops.spherical_harmonics import spherical_harmonics
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from headfields.ops.surface_alpha import neus_alpha
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.triangle_frames import triangle_frames
from headfields.ops.unwrap import unwrap
from headfields.ops.uv import UVRasterizer
from headfields.ops.vertex_geometry import face_normals, vertex_normals
from headfields.ops.volume_render import render_weights, volume_render

__all__ = [
    "HashGridLayout",
    "TriangleBVH",
    "UVRasterizer",
    "VertexTree",
    "accumulate",
    "antialias",
    "blend_shapes",
    "blended_map",
    "composite",
    "distortion",
    "face_normals",
    "fit_rigid",
    "frequency_encoding",
    "hash_grid",
    "implicit_root",
    "interlevel",
    "interpolate_rows",
    "inverse_cdf",
    "joint_transforms",
    "knn",
    "linear_blend_skinning",
    "linear_from_srgb",
    "log_strain",
    "lookup_occupancy",
    "march_occupancy",
    "marching_cubes",
    "merge_samples",
    "mlp",
    "mlp_tangents",
    "neus_alpha",
    "rasterize_gaussians",
    "ray_box",
    "render_weights",
    "rotation_from_6d",
    "rotation_from_quaternion",
    "rotation_matrices",
    "sample_texture",
    "softplus",
    "spherical_harmonics",
    "srgb_from_linear",
    "stratified",
    "triangle_frames",
    "unwrap",
    "vertex_normals",
    "volume_render",
    "weights_from_alpha",
    "weights_from_density",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
