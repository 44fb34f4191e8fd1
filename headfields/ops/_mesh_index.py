"""Mesh indices of queries: which of the B meshes of a tree each one is for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_index, check_integer, check_same_device


def flat_mesh_index(
    name: str, mesh_index: Tensor | None, shape: torch.Size, vertices: Float[Tensor, "b v 3"]
) -> Int[Tensor, " n"] | None:
    """Checks `mesh_index` and flattens it to int32; None, which is legal for one mesh, stays None."""
    if mesh_index is None:
        if len(vertices) != 1:
            raise ValueError(
                f"{name}: mesh_index is None, but the tree holds {len(vertices)} meshes; "
                "pass the mesh of each query, or refit with one mesh"
            )
        return None
    check_integer(name, "mesh_index", mesh_index)
    check_same_device(name, mesh_index=mesh_index, vertices=vertices)
    if mesh_index.shape != shape:
        raise ValueError(
            f"{name}: mesh_index has shape {tuple(mesh_index.shape)}; expected {tuple(shape)}, one for each query"
        )
    if mesh_index.dtype == torch.int64:  # of which the kernels see 32 bits
        check_index(name, "mesh_index", mesh_index, len(vertices))
    return mesh_index.reshape(-1).int().contiguous()
