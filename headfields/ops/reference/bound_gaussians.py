"""Similarities of triangles and Gaussians moved by them, in plain PyTorch: any float dtype, differentiable to any order
except across a change of a quaternion's largest entry."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.rotations import quaternion_from_rotation, quaternion_product
from headfields.ops.triangle_frames import triangle_frames

SMALLEST = 1e-7
"""Meters that a triangle's size does not go below: one that collapses would make Gaussians without extent."""
ROW = 17
"""Numbers of a row: size times rotation (3 × 3, row by row), origin, rotation as a quaternion, size in meters."""


def triangle_similarities(vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b f 17"]:
    """See `headfields.ops.bound_gaussians.triangle_similarities`."""
    first, second, third = (vertices[:, faces[:, corner]] for corner in range(3))
    tangent, bitangent, normal, _ = triangle_frames(vertices, faces).unbind(-1)
    length = ((second - first) * tangent).sum(-1)
    height = ((third - first) * bitangent).sum(-1)
    size = (0.5 * (length + height)).clamp_min(SMALLEST)[..., None]
    rotation = torch.stack([tangent, normal, -bitangent], dim=-1)
    center = (first + second + third) / 3
    return torch.cat(
        [(rotation * size[..., None]).flatten(-2), center, quaternion_from_rotation(rotation), size], dim=-1
    )


def similarity_parts(rows: Float[Tensor, "*batch n 17"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Size (..., 1), size times rotation (..., 3, 3), origin (..., 3) and rotation (..., 4) of rows of a table."""
    linear, origin, rotation, size = rows.split([9, 3, 4, 1], dim=-1)
    return size, linear.unflatten(-1, (3, 3)), origin, rotation


def bind_gaussians(
    means: Float[Tensor, "_ n 3"],
    quaternions: Float[Tensor, "_ n 4"],
    scales: Float[Tensor, "_ n 3"],
    table: Float[Tensor, "b f 17"],
    face: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 4"], Float[Tensor, "b n 3"]]:
    """See `headfields.ops.bound_gaussians.bind_gaussians`."""
    size, linear, origin, rotation = similarity_parts(table[:, face])
    moved = (linear * means[..., None, :]).sum(-1) + origin
    return moved, quaternion_product(rotation, quaternions), scales * size
