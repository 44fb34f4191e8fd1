"""Marching cubes in plain PyTorch: grid edges cut by the surface, and the triangles between them."""

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from headfields.ops._marching_table import marching_table


def crossed_edges(inside: Bool[Tensor, "d h w"]) -> tuple[Int64[Tensor, " v"], Int64[Tensor, "f 3"]]:
    """Grid edges cut by the surface between inside and outside points, and its triangles.

    Args:
        inside: (D, H, W) whether each grid point is inside.

    Returns:
        edge (V,), ascending: 3 · (flat index of the lower end) + axis of each grid edge with one end inside; and
        faces (F, 3), indices into it, counter-clockwise seen from outside.
    """
    shape = inside.shape
    if min(shape) < 2:
        return inside.new_zeros(0, dtype=torch.long), inside.new_zeros(0, 3, dtype=torch.long)
    case = torch.zeros([size - 1 for size in shape], dtype=torch.uint8, device=inside.device)
    for corner in range(8):
        window = inside
        for axis in range(3):
            window = window.narrow(axis, corner >> (2 - axis) & 1, shape[axis] - 1)
        case |= window.to(torch.uint8) << corner
    place = ((case != 0) & (case != 255)).nonzero()
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1], device=inside.device)
    return polygonize((place * strides).sum(-1), case[place[:, 0], place[:, 1], place[:, 2]], strides)


def polygonize(
    cell: Int64[Tensor, " c"], case: UInt8[Tensor, " c"], strides: Int64[Tensor, "3"]
) -> tuple[Int64[Tensor, " v"], Int64[Tensor, "f 3"]]:
    """Triangulates C cells of a grid.

    Args:
        cell: (C,) flat index of the point at each cell's corner 0, each once.
        case: (C,) the inside corners, as bits in the order of `headfields.ops._marching_table`.
        strides: (3,) strides of the flat index along each axis.

    Returns:
        As for `crossed_edges`; faces are in the order of the cells.
    """
    table = marching_table(cell.device)
    count = table.totals[case.long()].long()
    row = torch.repeat_interleave(count)
    within = torch.arange(len(row), device=cell.device) - (count.cumsum(0) - count)[row]
    local = table.triangles[case[row].long(), within].long()
    start = (table.corner * strides).sum(-1)
    code = 3 * (cell[row][:, None] + start[local]) + table.axis[local]
    edge, faces = code.unique(return_inverse=True)
    return edge, faces


def edge_vertices(
    values: Float[Tensor, "d h w"], level: Float[Tensor, ""], edge: Int64[Tensor, " v"]
) -> tuple[Float[Tensor, "v 3"], Int64[Tensor, "v 2"], Float[Tensor, " v"]]:
    """Where the surface cuts edges of the grid: vertices in cells, the two ends of each edge, and the place between.

    Args:
        values: (D, H, W).
        level: ().
        edge: (V,) as `crossed_edges` names them.
    """
    shape = values.shape
    point, axis = edge // 3, edge % 3
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1], device=values.device)
    ends = torch.stack([point, point + strides[axis]], dim=-1)
    low, high = values.flatten()[ends].unbind(-1)
    fraction = along_edge(low, high, level)
    index = torch.stack([point // strides[0], point // strides[1] % shape[1], point % shape[2]], dim=-1)
    direction = torch.eye(3, dtype=values.dtype, device=values.device)[axis]
    return index.to(values.dtype) + fraction[:, None] * direction, ends, fraction


def along_edge(low: Float[Tensor, " v"], high: Float[Tensor, " v"], level: Float[Tensor, ""]) -> Float[Tensor, " v"]:
    """Position (V,) in [0, 1] along each edge at which it crosses the level, by linear interpolation.

    0.5 where an end is NaN or infinite, without a gradient. Differentiable to any order.
    """
    finite = low.isfinite() & high.isfinite()
    a, b = torch.where(finite, low, 0.0), torch.where(finite, high, 1.0)
    return torch.where(finite, (level - a) / (b - a), 0.5)
