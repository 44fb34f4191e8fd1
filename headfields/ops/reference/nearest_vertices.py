"""The k nearest vertices in plain PyTorch: the definition of `headfields.ops.nearest_vertices`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.vectors import safe_norm

MAX_NEIGHBORS = 16
"""Largest k: the kernels keep the neighbors of a query in registers or local memory."""


def nearest_indices(
    points: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    k: int,
    mesh_index: Int[Tensor, " n"] | None = None,
    max_distance: float = torch.inf,
    pairs: int = 1 << 20,
) -> Int[Tensor, "n k"]:
    """Indices of the k vertices nearest to each point, by brute force, `pairs` point-vertex pairs at a time.

    Ranked by the squared distance, computed in float64 and rounded to float32; of equal ones the lowest index first.
    -1 where there are fewer within `max_distance`, and for points that are not finite or farther than 1e18 from the
    origin. Such vertices are left out. Not differentiable.
    """
    points, vertices = points.detach().float().double(), vertices.detach().float().double()
    limit = torch.tensor(max_distance, dtype=torch.float32, device=points.device)
    index = torch.full((points.shape[0], k), -1, dtype=torch.long, device=points.device)
    if vertices.shape[1] == 0:
        return index
    step = max(1, pairs // vertices.shape[1])
    for start in range(0, points.shape[0], step):
        chunk = points[start : start + step]
        mesh = torch.zeros(len(chunk), dtype=torch.long, device=points.device)
        if mesh_index is not None:
            mesh = mesh_index[start : start + step].long()
        candidates = vertices[mesh]
        usable = (candidates.abs() < 1e18).all(-1) & (chunk.abs() < 1e18).all(-1)[:, None]
        squared = (chunk[:, None] - candidates).square().sum(-1)
        usable = usable & (squared.sqrt().float() <= limit)
        rank = torch.where(usable, squared.float(), torch.inf)
        order = rank.sort(dim=-1, stable=True)
        valid = order.indices[:, :k]
        index[start : start + step, : valid.shape[1]] = torch.where(order.values[:, :k] < torch.inf, valid, -1)
    return index


def distances_to(
    points: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    mesh_index: Int[Tensor, " n"] | None,
    index: Int[Tensor, "n k"],
) -> Float[Tensor, "n k"]:
    """Distances to the vertices `index`; infinity, without a gradient, where it is -1.

    Differentiable to any order in points and vertices; every derivative at distance 0 is 0.
    """
    valid = index >= 0
    if vertices.shape[0] * vertices.shape[1] == 0:
        nothing = points[:, :1].sum(-1, keepdim=True) * 0 + vertices.sum() * 0  # zeros that keep a gradient
        return torch.where(valid, nothing, torch.inf)
    flat = index.clamp(min=0)
    if mesh_index is not None:
        flat = flat + torch.where(valid, mesh_index.long()[:, None], 0) * vertices.shape[1]
    corners = vertices.reshape(-1, 3).index_select(0, flat.reshape(-1)).reshape(*index.shape, 3)
    offset = torch.where(valid[..., None], points[:, None] - corners, 0.0)
    return torch.where(valid, safe_norm(offset), torch.inf)


def nearest_vertices(
    points: Float[Tensor, "n 3"],
    vertices: Float[Tensor, "b v 3"],
    k: int,
    mesh_index: Int[Tensor, " n"] | None = None,
    max_distance: float = torch.inf,
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """`nearest_indices`, and `distances_to` them."""
    index = nearest_indices(points, vertices, k, mesh_index, max_distance)
    return index, distances_to(points, vertices, mesh_index, index)
