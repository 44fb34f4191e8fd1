"""Which of the B meshes of a tree each query is for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_integer, check_same_device


def flat_mesh_index(
    name: str, mesh_index: Tensor | None, shape: torch.Size, vertices: Float[Tensor, "b v 3"]
) -> Int[Tensor, " n"] | None:
    """`mesh_index` as flat int32, after its checks; None where it is None and there is one mesh."""
    if mesh_index is None:
        if len(vertices) != 1:
            raise ValueError(
                f"{name}: mesh_index is None, but the tree holds {len(vertices)} meshes; "
                "say which one each query is for, or refit with one mesh"
            )
        return None
    check_integer(name, "mesh_index", mesh_index)
    check_same_device(name, mesh_index=mesh_index, vertices=vertices)
    if mesh_index.shape != shape:
        raise ValueError(
            f"{name}: mesh_index has shape {tuple(mesh_index.shape)}; expected {tuple(shape)}, one for each query"
        )
    return mesh_index.reshape(-1).int().contiguous()
