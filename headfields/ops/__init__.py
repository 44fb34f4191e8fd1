"""Operations: functions on tensors, one file each. `headfields.ops.reference` defines them in plain PyTorch."""

from headfields.ops.blended_map import blended_map
from headfields.ops.closest_triangle import ClosestPoint, TriangleBVH
from headfields.ops.compositing import (
    accumulate,
    composite,
    exclusive_sum,
    ray_offsets,
    weights_from_alpha,
    weights_from_density,
)
from headfields.ops.frequency import frequency_encoding, frequency_window
from headfields.ops.hash_grid import HashGridLayout, hash_grid
from headfields.ops.mlp import mlp
from headfields.ops.occupancy import lookup, march
from headfields.ops.rigid import fit_rigid, nearest_rotation, rigid_transform
from headfields.ops.rotations import axis_angle, rotation_from_6d
from headfields.ops.sampling import inverse_cdf, merge, stratified, uniform_step
from headfields.ops.skinning import (
    blend_shapes,
    joint_transforms,
    linear_blend_skinning,
    pose_features,
    rotation_matrices,
)
from headfields.ops.spherical_harmonics import spherical_harmonics
from headfields.ops.triangle_frames import deformation_gradients, edge_neighbours, triangle_areas, triangle_frames

__all__ = [
    "ClosestPoint",
    "HashGridLayout",
    "TriangleBVH",
    "accumulate",
    "axis_angle",
    "blend_shapes",
    "blended_map",
    "composite",
    "deformation_gradients",
    "edge_neighbours",
    "exclusive_sum",
    "fit_rigid",
    "frequency_encoding",
    "frequency_window",
    "hash_grid",
    "inverse_cdf",
    "joint_transforms",
    "linear_blend_skinning",
    "lookup",
    "march",
    "merge",
    "mlp",
    "nearest_rotation",
    "pose_features",
    "ray_offsets",
    "rigid_transform",
    "rotation_from_6d",
    "rotation_matrices",
    "spherical_harmonics",
    "stratified",
    "triangle_areas",
    "triangle_frames",
    "uniform_step",
    "weights_from_alpha",
    "weights_from_density",
]
