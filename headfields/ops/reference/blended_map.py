"""The blended map in plain PyTorch: any float dtype, differentiable to second order."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def blended_map(
    points: Float[Tensor, "m 3"],
    directions: Float[Tensor, "m 3"],
    face: Int[Tensor, " m"],
    mesh_index: Int[Tensor, " m"],
    gradients: Float[Tensor, "b f 3 4"],
    centroids: Float[Tensor, "b f 3"],
    ring: Int[Tensor, "f k"],
    sharpness: float | int,
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3"]]:
    """See `headfields.ops.blended_map`."""
    mine = ring[face]
    index = mesh_index[:, None] * ring.shape[0] + mine.clamp_min(0)
    # By `index_select`, whose gradient adds in the order of the rows: that of an index is another sum in each run where
    # there are several threads.
    if mine.shape[1] == 1:  # a rigid triangle: no weight, and no gradient through one
        matrix = gradients.flatten(0, 1).index_select(0, index[:, 0])
    else:
        centers, matrices = (
            table.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)
            for table in (centroids, gradients)
        )
        weights = ring_weights(points, centers, mine, points.new_tensor(float(sharpness)))
        matrix = torch.einsum("mk,mkij->mij", weights, matrices)
    moved = (matrix[..., :3] @ points[..., None])[..., 0] + matrix[..., 3]
    return moved, functional.normalize((matrix[..., :3] @ directions[..., None])[..., 0], dim=-1)


def ring_weights(
    points: Float[Tensor, "m 3"],
    centroids: Float[Tensor, "m k 3"],
    ring: Int[Tensor, "m k"],
    sharpness: Float[Tensor, "*k"],
) -> Float[Tensor, "m k"]:
    """exp(−sharpness ‖x − centroid‖) over each ring, normalized; 0 where the ring's entry is negative."""
    distance = torch.linalg.vector_norm(points[:, None] - centroids, dim=-1)
    return torch.where(ring >= 0, -sharpness * distance, -torch.inf).softmax(dim=-1)
