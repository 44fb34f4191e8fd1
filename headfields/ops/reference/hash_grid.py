"""The hash grid in plain PyTorch: the definition of `headfields.ops.hash_grid`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.ops.smoothstep import cubic

# Müller et al. 2022, eq. 4; the fourth, for four-dimensional grids, is our own choice.
PRIMES = (1, 2654435761, 805459861, 3674653429)


def _cells(x: Float[Tensor, "n d"], resolution: int) -> tuple[Tensor, Tensor]:
    """Scaled positions within [0, resolution], and the lower vertex of the cell around each."""
    position = x.clamp(0, 1) * resolution
    return position, position.detach().floor().clamp(max=resolution - 1)


def _level_rows(cell: Float[Tensor, "n d"], layout: HashGridLayout, level: int) -> Int[Tensor, "n corners"]:
    """Row of the table for each corner; corner c takes the upper vertex on the axes whose bit is set in it."""
    dimensions, resolution = cell.shape[1], layout.resolutions[level]
    corner = torch.arange(2**dimensions, device=cell.device)
    row = torch.zeros(cell.shape[0], 2**dimensions, dtype=torch.int64, device=cell.device)
    for axis in range(dimensions):
        vertex = cell[:, axis, None].long() + (corner >> axis & 1)
        if layout.dense[level]:
            row = row + vertex * (resolution + 1) ** axis
        else:
            # 32-bit wrap-around; vertex < 2**25 and prime < 2**32, so the product is exact in 64 bits.
            row = row ^ (vertex * PRIMES[axis] & 0xFFFFFFFF)
    if not layout.dense[level]:
        row = row & (2**layout.log2_table_size - 1)
    return row + layout.offsets[level]


def hash_grid_rows(points: Float[Tensor, "n d"], layout: HashGridLayout) -> Int[Tensor, "n levels corners"]:
    """Row of the table that each corner of each level reads, for finite points."""
    rows = [_level_rows(_cells(points, n)[1], layout, level) for level, n in enumerate(layout.resolutions)]
    return torch.stack(rows, 1)


def hash_grid(
    points: Float[Tensor, "*batch d"],
    table: Float[Tensor, "entries f"],
    layout: HashGridLayout,
    interpolation: str = "linear",
) -> Float[Tensor, "*batch width"]:
    """`headfields.ops.hash_grid`, differentiable any number of times."""
    flat = points.reshape(-1, layout.dimensions)
    undefined = flat.isnan().any(1, keepdim=True)
    x = torch.where(undefined, torch.zeros_like(flat), flat)
    upper = torch.arange(2**layout.dimensions, device=x.device)
    features = []
    for level, resolution in enumerate(layout.resolutions):
        position, cell = _cells(x, resolution)
        t = position - cell
        if interpolation == "smoothstep":
            t = cubic(t)
        weight = torch.ones_like(t[:, :1])
        for axis in range(layout.dimensions):
            side = t[:, axis, None]
            weight = weight * torch.where((upper >> axis & 1).bool(), side, 1 - side)
        corners = table[_level_rows(cell, layout, level)].to(points.dtype)
        features.append(torch.einsum("nc,ncf->nf", weight, corners))
    out = torch.cat(features, 1)
    out = torch.where(undefined, torch.full_like(out, torch.nan), out)
    return out.reshape(*points.shape[:-1], layout.width)
