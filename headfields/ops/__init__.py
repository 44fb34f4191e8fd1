"""Operations: functions on tensors, one file each. `headfields.ops.reference` defines them in plain PyTorch."""

from headfields.ops.affine import affine_inverse, apply_affine, skin_points
from headfields.ops.antialias import Crossings, MeshEdges, antialias, mesh_edges, silhouette_crossings
from headfields.ops.blended_map import blended_map
from headfields.ops.compositing import (
    accumulate,
    composite,
    exclusive_sum,
    ray_offsets,
    weights_from_alpha,
    weights_from_density,
)
from headfields.ops.frequency import frequency_encoding, frequency_window
from headfields.ops.grouped import GroupedRows, group_rows
from headfields.ops.hash_grid import hash_grid
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.ops.implicit import implicit_root
from headfields.ops.interpolate_rows import interpolate_rows, scatter_rows
from headfields.ops.log_strain import log_strain
from headfields.ops.marching_cubes import Isosurface, marching_cubes
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.mlp import mlp
from headfields.ops.mlp_tangents import mlp_tangents
from headfields.ops.nearest_vertices import NearestVertices, VertexTree, inverse_distance_weights
from headfields.ops.occupancy import lookup, march
from headfields.ops.ray_box import ray_box, ray_sphere
from headfields.ops.rigid import fit_rigid, nearest_rotation, rigid_transform
from headfields.ops.rotations import (
    axis_angle,
    left_jacobian,
    rotation_from_6d,
    rotation_from_log_quaternion,
    rotation_from_quaternion,
    rotation_matrices,
    rotations_from,
)
from headfields.ops.sampling import inverse_cdf, merge, stratified, uniform_step
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.ops.skinning import (
    blend_shapes,
    joint_transforms,
    linear_blend_skinning,
    pose_features,
)
from headfields.ops.softplus import softplus
from headfields.ops.spherical_harmonics import spherical_harmonics
from headfields.ops.splat import Splatted, splat
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from headfields.ops.surface_alpha import laplace_density, neus_alpha, unclamped_alpha
from headfields.ops.texture import MipPyramid, fill_texels, mip_pyramid, pad_charts, sample_texture
from headfields.ops.triangle_bvh import ClosestPoint, TriangleBVH
from headfields.ops.triangle_frames import deformation_gradients, triangle_frames
from headfields.ops.undistort import undistort_image, undistort_pixels
from headfields.ops.unwrap import unwrap
from headfields.ops.uv import UVRasterizer
from headfields.ops.vertex_geometry import face_normals, triangle_areas, vertex_areas, vertex_normals

__all__ = [
    "ClosestPoint",
    "Crossings",
    "GroupedRows",
    "HashGridLayout",
    "Isosurface",
    "MeshEdges",
    "MipPyramid",
    "NearestVertices",
    "Similarity",
    "Splatted",
    "TriangleBVH",
    "UVRasterizer",
    "VertexTree",
    "accumulate",
    "affine_inverse",
    "antialias",
    "apply_affine",
    "axis_angle",
    "blend_shapes",
    "blended_map",
    "composite",
    "deformation_gradients",
    "edge_neighbors",
    "exclusive_sum",
    "face_normals",
    "fill_texels",
    "fit_rigid",
    "fit_similarity",
    "frequency_encoding",
    "frequency_window",
    "group_rows",
    "hash_grid",
    "implicit_root",
    "interpolate_rows",
    "inverse_cdf",
    "inverse_distance_weights",
    "joint_transforms",
    "laplace_density",
    "left_jacobian",
    "linear_blend_skinning",
    "linear_from_srgb",
    "log_strain",
    "lookup",
    "march",
    "marching_cubes",
    "merge",
    "mesh_edges",
    "mip_pyramid",
    "mlp",
    "mlp_tangents",
    "nearest_rotation",
    "neus_alpha",
    "pad_charts",
    "pose_features",
    "ray_box",
    "ray_offsets",
    "ray_sphere",
    "rigid_transform",
    "rotation_from_6d",
    "rotation_from_log_quaternion",
    "rotation_from_quaternion",
    "rotation_matrices",
    "rotations_from",
    "sample_texture",
    "scatter_rows",
    "silhouette_crossings",
    "skin_points",
    "softplus",
    "spherical_harmonics",
    "splat",
    "srgb_from_linear",
    "stratified",
    "triangle_areas",
    "triangle_frames",
    "unclamped_alpha",
    "undistort_image",
    "undistort_pixels",
    "uniform_step",
    "unwrap",
    "vertex_areas",
    "vertex_normals",
    "weights_from_alpha",
    "weights_from_density",
]
