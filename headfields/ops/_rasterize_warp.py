"""The Gaussian rasterizer on Warp: what `hf.ops.rasterize_gaussians` launches on CUDA, and on the CPU without the C++
module."""

import torch
from torch import Tensor

from headfields.ops.warp_launch import launch

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Options = tuple[int, int, float, float, bool]
TILE, WIDTH = 16, 8  # as in headfields.ops.kernels.splat_tiles, which is not imported before Warp is needed


def project(inputs: Inputs, options: Options) -> tuple[Tensor, Tensor]:
    """Rows and radii of the six tensors of `splat_project`."""
    c, n = len(inputs[4]), inputs[0].shape[1]
    rows, radii = inputs[0].new_empty(c, n, 10), inputs[0].new_empty(c, n)
    launch("splat_project.project", (c, n), *inputs, *options, rows, radii)
    return rows, radii


def project_backward(
    grad: Tensor, inputs: Inputs, options: Options, of_cameras: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the six tensors; those of the cameras are empty unless asked for."""
    c, n = len(inputs[4]), inputs[0].shape[1]
    means, quaternions, scales, opacities = (torch.empty_like(tensor) for tensor in inputs[:4])
    gradients, cameras = (means, quaternions, scales, opacities), grad.new_empty(c if of_cameras else 0, n, 18)
    launch("splat_project.project_backward", n, grad, *inputs, *options, *gradients, cameras)
    if not of_cameras:
        return *gradients, grad.new_empty(0), grad.new_empty(0)
    pose, lens = (torch.zeros_like(tensor) for tensor in inputs[4:])
    sums = cameras.sum(1)
    pose[:, :3] = sums[:, :12].reshape(c, 3, 4)
    lens[:, :2] = sums[:, 12:].reshape(c, 2, 3)
    return *gradients, pose, lens


def colors(means: Tensor, coefficients: Tensor, centers: Tensor) -> Tensor:
    """The colors of `splat_colors`."""
    c, n = len(centers), means.shape[1]
    out = means.new_empty(c, n, 3)
    launch("splat_colors.colors", (c, n), means, coefficients, centers, out)
    return out


def colors_backward(
    grad: Tensor, means: Tensor, coefficients: Tensor, centers: Tensor, of_centers: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the three tensors; that of the centers is empty unless asked for."""
    c, n = len(centers), means.shape[1]
    to_means, to_coefficients = torch.empty_like(means), torch.empty_like(coefficients)
    to_centers = means.new_empty(c if of_centers else 0, n, 3)
    launch("splat_colors.colors_backward", n, grad, means, coefficients, centers, to_means, to_coefficients, to_centers)
    return to_means, to_coefficients, to_centers.sum(1) if of_centers else to_centers.new_empty(0)


def rasterize(
    rows: Tensor, colors: Tensor, means2d_offset: Tensor | None, height: int, width: int, max_tile_entries: int,
    count_pixels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The outputs of `splat_rasterize`."""
    c, n, d = len(rows), rows.shape[1], colors.shape[2]
    shift = rows.new_empty(0, 0, 0) if means2d_offset is None else means2d_offset
    starts, gaussians, entries = _lists(rows, shift, height, width, max_tile_entries)
    passes = -(-(d + 4) // WIDTH)
    features = rows.new_empty(c, n, passes, WIDTH)
    launch("splat_tiles.gather_features", (c, n), rows, colors, features)
    color, normal = rows.new_empty(c, height, width, d), rows.new_empty(c, height, width, 3)
    light, depth, median = (rows.new_empty(c, height, width) for _ in range(3))
    last = torch.empty(c, height, width, dtype=torch.int32, device=rows.device)
    counts = torch.empty((c, n) if count_pixels else (0, 0), dtype=torch.int32, device=rows.device)
    if count_pixels:
        counts.zero_()
    pixels = (c, starts.shape[1] - 1, TILE * TILE)
    for which in range(passes):
        launch("splat_tiles.draw", pixels, rows, shift, features, which, starts, gaussians,
               height, width, color, depth, normal, light, median, last, counts)  # fmt: skip
    if max_tile_entries == 0:
        starts, gaussians = starts.new_empty(0, 0), gaussians.new_empty(0)
    return color, light, depth, normal, median, last, counts, entries, starts, gaussians


def rasterize_backward(
    grads: list[Tensor | None], rows: Tensor, colors: Tensor, means2d_offset: Tensor | None, magnitudes: Tensor | None,
    light: Tensor, last: Tensor, height: int, width: int, starts: Tensor, gaussians: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of rows and colors; fills `magnitudes`."""
    c, d = len(rows), colors.shape[2]
    none = rows.new_empty(0, 0, 0)
    shift = none if means2d_offset is None else means2d_offset
    if not starts.numel():
        starts, gaussians, _ = _lists(rows, shift, height, width, 0)
    color, through, depth, normal = grads
    image = (c, height, width)
    columns = [rows.new_zeros(*image, d) if color is None else color]
    if depth is None and normal is None:  # a loss of colors alone, as in training
        features = colors
    else:
        columns.append(rows.new_zeros(*image, 1) if depth is None else depth[..., None])
        columns.append(rows.new_zeros(*image, 3) if normal is None else normal)
        features = _features(rows, colors)
    through = rows.new_zeros(image) if through is None else through
    to_rows, to_features = torch.empty_like(rows), torch.empty_like(features)
    sums = [to_rows, to_features, *([] if magnitudes is None else [magnitudes])]
    torch._foreach_zero_(sums)  # in one launch
    pixels = (c, starts.shape[1] - 1, TILE * TILE)
    grad = columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
    launch("splat_tiles.draw_backward", pixels, grad, through, rows, shift, features, starts,
           gaussians, height, width, light, last, to_rows, to_features,
           none if magnitudes is None else magnitudes)  # fmt: skip
    if to_features.shape[2] > d:
        to_rows[..., 6:] += to_features[..., d:]
    to_colors = to_features[..., :d]
    return to_rows, to_colors.sum(0, keepdim=True) if len(colors) < len(to_colors) else to_colors.contiguous()


def tiles(height: int, width: int) -> int:
    """The number of tiles of an image."""
    return -(-height // TILE) * -(-width // TILE)


def _features(rows: Tensor, colors: Tensor) -> Tensor:
    """(C, N, D + 4): colors, depth and normal."""
    return torch.cat([colors.expand(len(rows), -1, -1), rows[..., 6:]], dim=-1)


def _lists(
    rows: Tensor, means2d_offset: Tensor, height: int, width: int, max_tile_entries: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (C, tiles + 1) of the tiles' lists, the Gaussians in them by depth, and the number of their entries ().

    The lists have `max_tile_entries` entries, where it is positive, and further ones are left out. Otherwise the host
    waits for their number, to allocate them."""
    c, n = rows.shape[:2]

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=rows.device)

    counts, across = empty(c, n), tiles(height, width)
    launch("splat_tiles.count_tiles", (c, n), rows, means2d_offset, height, width, counts)
    counts = counts.view(-1)
    ends = counts.cumsum(0)
    total = max_tile_entries if max_tile_entries > 0 else int(ends[-1]) if len(ends) else 0
    keys, gaussians, listed = empty(total), empty(total, dtype=torch.int32), empty(total, dtype=torch.int32)
    if total:
        launch("splat_tiles.list_tiles", max(len(counts), total), rows, means2d_offset, rows.view(torch.int32), height,
               width, counts, ends, keys, listed)  # fmt: skip
    keys, order = keys.sort(stable=True)
    starts, entries = empty(c, across + 1), empty()
    if not (c and across):
        return starts.zero_(), gaussians.zero_(), entries.zero_()
    launch("splat_tiles.start_tiles", total + 1, keys, order, listed, ends, starts, gaussians, entries.view(1))
    return starts, gaussians, entries
