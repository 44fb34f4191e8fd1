"""A hash grid in Warp, written for this comparison: three dimensions, linear, number of features fixed at compile time.

It computes what `headfields.ops.hash_grid` defines, with the same rows. A level's features are one vector, loaded at
once; the six products of the hash are computed once per cell. Levels are the outer axis of the launch, so that one
level's table is in the cache at a time, or points are, as in a first version of a kernel; the former is twice as fast.
On a CPU, a launch runs on one thread.
"""

from typing import Any

import torch
from torch import Tensor

from headfields.ops import HashGridLayout
from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})

vec2 = wp.types.vector(length=2, dtype=wp.float32)
PRIME_Y = wp.constant(wp.uint32(2654435761))  # Müller et al. 2022, eq. 4
PRIME_Z = wp.constant(wp.uint32(805459861))
vec8 = wp.types.vector(length=8, dtype=wp.float32)


@wp.struct
class Cell:
    row: wp.types.vector(length=8, dtype=wp.int32)
    weight: vec8


@wp.func
def cell_of(point: wp.vec3, resolution: int, offset: int, mask: wp.uint32):
    """Rows and weights of a cell's eight vertices; `mask` is 0 on a dense level."""
    scale = wp.float32(resolution)
    px = wp.clamp(point[0], 0.0, 1.0) * scale
    py = wp.clamp(point[1], 0.0, 1.0) * scale
    pz = wp.clamp(point[2], 0.0, 1.0) * scale
    ix = wp.min(wp.int32(px), resolution - 1)
    iy = wp.min(wp.int32(py), resolution - 1)
    iz = wp.min(wp.int32(pz), resolution - 1)
    tx = px - wp.float32(ix)
    ty = py - wp.float32(iy)
    tz = pz - wp.float32(iz)
    cell = Cell()
    if mask == wp.uint32(0):
        side = resolution + 1
        base = offset + ix + side * (iy + side * iz)
        for z in range(2):
            for y in range(2):
                for x in range(2):
                    cell.row[4 * z + 2 * y + x] = base + x + side * (y + side * z)
    else:
        x0 = wp.uint32(ix)
        y0 = wp.uint32(iy) * PRIME_Y
        z0 = wp.uint32(iz) * PRIME_Z
        x1 = x0 + wp.uint32(1)
        y1 = y0 + PRIME_Y
        z1 = z0 + PRIME_Z
        cell.row[0] = offset + wp.int32((x0 ^ y0 ^ z0) & mask)
        cell.row[1] = offset + wp.int32((x1 ^ y0 ^ z0) & mask)
        cell.row[2] = offset + wp.int32((x0 ^ y1 ^ z0) & mask)
        cell.row[3] = offset + wp.int32((x1 ^ y1 ^ z0) & mask)
        cell.row[4] = offset + wp.int32((x0 ^ y0 ^ z1) & mask)
        cell.row[5] = offset + wp.int32((x1 ^ y0 ^ z1) & mask)
        cell.row[6] = offset + wp.int32((x0 ^ y1 ^ z1) & mask)
        cell.row[7] = offset + wp.int32((x1 ^ y1 ^ z1) & mask)
    w00 = (1.0 - ty) * (1.0 - tz)
    w10 = ty * (1.0 - tz)
    w01 = (1.0 - ty) * tz
    w11 = ty * tz
    cell.weight[0] = (1.0 - tx) * w00
    cell.weight[1] = tx * w00
    cell.weight[2] = (1.0 - tx) * w10
    cell.weight[3] = tx * w10
    cell.weight[4] = (1.0 - tx) * w01
    cell.weight[5] = tx * w01
    cell.weight[6] = (1.0 - tx) * w11
    cell.weight[7] = tx * w11
    return cell


def _kernels(vector: Any, points_outer: bool) -> tuple[Any, Any]:
    @wp.kernel(module="unique")
    def forward(
        points: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=vector),
        resolution: wp.array(dtype=wp.int32),
        offset: wp.array(dtype=wp.int32),
        mask: wp.array(dtype=wp.uint32),
        out: wp.array2d(dtype=vector),
    ):
        i, j = wp.tid()
        level = wp.where(wp.static(points_outer), j, i)
        n = wp.where(wp.static(points_outer), i, j)
        cell = cell_of(points[n], resolution[level], offset[level], mask[level])
        total = cell.weight[0] * table[cell.row[0]]
        for k in range(1, 8):
            total += cell.weight[k] * table[cell.row[k]]
        out[n, level] = total

    @wp.kernel(module="unique")
    def backward(
        points: wp.array(dtype=wp.vec3),
        grad: wp.array2d(dtype=vector),
        resolution: wp.array(dtype=wp.int32),
        offset: wp.array(dtype=wp.int32),
        mask: wp.array(dtype=wp.uint32),
        table_grad: wp.array(dtype=vector),
    ):
        i, j = wp.tid()
        level = wp.where(wp.static(points_outer), j, i)
        n = wp.where(wp.static(points_outer), i, j)
        cell = cell_of(points[n], resolution[level], offset[level], mask[level])
        g = grad[n, level]
        for k in range(8):
            wp.atomic_add(table_grad, cell.row[k], cell.weight[k] * g)

    return forward, backward


_KERNELS = {(f, outer): _kernels({2: vec2, 8: vec8}[f], outer) for f in (2, 8) for outer in (False, True)}


class WarpGrid:
    """Both kernels for one layout, on tensors converted once."""

    def __init__(self, layout: HashGridLayout, points: Tensor, table: Tensor, points_outer: bool = False) -> None:
        if layout.dimensions != 3 or layout.features not in (2, 8):
            raise ValueError(f"WarpGrid: written for 3 dimensions and 2 or 8 features, not {layout}")
        self.device = str(points.device)
        self.vector = vec2 if layout.features == 2 else vec8
        self.forward_kernel, self.backward_kernel = _KERNELS[layout.features, points_outer]
        self.count = len(points)
        self.dim = (self.count, layout.levels) if points_outer else (layout.levels, self.count)
        masks = [0 if dense else 2**layout.log2_table_size - 1 for dense in layout.dense]
        self.points = wp.from_torch(points, dtype=wp.vec3)
        self.levels = [
            wp.array(layout.resolutions, dtype=wp.int32, device=self.device),
            wp.array(layout.offsets[:-1], dtype=wp.int32, device=self.device),
            wp.array(masks, dtype=wp.uint32, device=self.device),
        ]
        self.table = wp.from_torch(table, dtype=self.vector)
        self.layout = layout

    def forward(self) -> Tensor:
        """(n, levels, features)."""
        out = torch.empty(self.count, self.layout.levels, self.layout.features, device=self.device)
        target = wp.from_torch(out, dtype=self.vector)
        wp.launch(self.forward_kernel, self.dim, [self.points, self.table, *self.levels, target], device=self.device)
        return out

    def backward(self, grad: Tensor) -> Tensor:
        """(entries, features), of an (n, levels, features) gradient of the output."""
        total = torch.zeros(self.layout.entries, self.layout.features, device=self.device)
        gradient, target = wp.from_torch(grad, dtype=self.vector), wp.from_torch(total, dtype=self.vector)
        wp.launch(self.backward_kernel, self.dim, [self.points, gradient, *self.levels, target], device=self.device)
        return total
