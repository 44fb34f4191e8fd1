"""Rays against the triangles of a `TriangleBVH`: the operations behind `raycast` and `interval`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.dispatch import native, use_native


@dataclass(frozen=True)
class RayHit:
    """What `TriangleBVH.raycast` gives.

    Attributes:
        face: (...) int64 index of the face met first, -1 where there is none.
        barycentric: (..., 3) of the hit on it; 0 where there is none.
        distance: (...) along the ray in lengths of its direction (meters if that is a unit vector); infinity where
            there is none.
    """

    face: Int[Tensor, "*batch"]
    barycentric: Float[Tensor, "*batch 3"]
    distance: Float[Tensor, "*batch"]


@torch.library.custom_op("headfields::raycast", mutates_args=())
def raycast(
    origins: Tensor,
    directions: Tensor,
    mesh_index: Tensor | None,
    vertices: Tensor,
    faces: Tensor,
    children: Tensor,
    order: Tensor,
    slot: Tensor,
    bounds: Tensor,
    triangles: Tensor,
    max_distance: float,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Face (n,), and if `fused` barycentric coordinates (n, 3) and distance (n,), of each ray's first hit.

    float32 rays and the tree of a `TriangleBVH`; no gradient.
    """
    n = origins.shape[0]
    face = torch.empty(n, dtype=torch.long, device=origins.device)
    barycentric = origins.new_empty(n if fused else 0, 3)
    distance = origins.new_empty(n if fused else 0)
    if use_native(origins):
        native.bvh_raycast(
            children, order, slot, faces, vertices, bounds, triangles, origins, directions, mesh_index, max_distance,
            face, barycentric if fused else None, distance if fused else None, torch.get_num_threads(),
        )  # fmt: skip
    else:
        from headfields.ops.kernels import ray_mesh as kernels

        kernels.launch_raycast(
            origins, directions, mesh_index, children, order, bounds, triangles, max_distance,
            face, barycentric, distance, fused,
        )  # fmt: skip
    return face, barycentric, distance


@raycast.register_fake
def _(
    origins: Tensor,
    directions: Tensor,
    mesh_index: Tensor | None,
    vertices: Tensor,
    faces: Tensor,
    children: Tensor,
    order: Tensor,
    slot: Tensor,
    bounds: Tensor,
    triangles: Tensor,
    max_distance: float,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n = origins.shape[0] if fused else 0
    return origins.new_empty(origins.shape[0], dtype=torch.long), origins.new_empty(n, 3), origins.new_empty(n)


@torch.library.custom_op("headfields::ray_interval", mutates_args=())
def interval(
    origins: Tensor,
    directions: Tensor,
    mesh_index: Tensor | None,
    vertices: Tensor,
    faces: Tensor,
    children: Tensor,
    order: Tensor,
    slot: Tensor,
    bounds: Tensor,
    triangles: Tensor,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """First and last distance (n,) of float32 rays within `margin` of the surface; no gradient."""
    near = origins.new_empty(origins.shape[0])
    far = torch.empty_like(near)
    if use_native(origins):
        native.bvh_interval(
            children, order, slot, faces, vertices, bounds, triangles, origins, directions, mesh_index, margin,
            near, far, torch.get_num_threads(),
        )  # fmt: skip
    else:
        from headfields.ops.kernels import ray_mesh as kernels

        kernels.launch_interval(origins, directions, mesh_index, children, bounds, triangles, margin, near, far)
    return near, far


@interval.register_fake
def _(
    origins: Tensor,
    directions: Tensor,
    mesh_index: Tensor | None,
    vertices: Tensor,
    faces: Tensor,
    children: Tensor,
    order: Tensor,
    slot: Tensor,
    bounds: Tensor,
    triangles: Tensor,
    margin: float,
) -> tuple[Tensor, Tensor]:
    return origins.new_empty(origins.shape[0]), origins.new_empty(origins.shape[0])
