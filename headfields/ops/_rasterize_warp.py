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


def project_backward(grad: Tensor, inputs: Inputs, options: Options) -> Inputs:
    """The gradients of the six tensors."""
    c, n = len(inputs[4]), inputs[0].shape[1]
    means, quaternions, scales, opacities, pose, lens = (torch.zeros_like(tensor) for tensor in inputs)
    gradients, cameras = (means, quaternions, scales, opacities), grad.new_zeros(c, n, 18)
    launch("splat_project.project_backward", n, grad, *inputs, *options, *gradients, cameras)
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
    grad: Tensor, means: Tensor, coefficients: Tensor, centers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the three tensors."""
    c, n = len(centers), means.shape[1]
    to_means, to_coefficients = torch.zeros_like(means), torch.zeros_like(coefficients)
    to_centers = means.new_zeros(c, n, 3)
    launch("splat_colors.colors_backward", n, grad, means, coefficients, centers, to_means, to_coefficients, to_centers)
    return to_means, to_coefficients, to_centers.sum(1)


def rasterize(
    rows: Tensor, colors: Tensor, means2d_offset: Tensor | None, height: int, width: int, max_tile_entries: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The outputs of `splat_rasterize`."""
    c, n, d = len(rows), rows.shape[1], colors.shape[2]
    shift = rows.new_empty(0, 0, 0) if means2d_offset is None else means2d_offset
    starts, gaussians, entries = _lists(rows, shift, height, width, max_tile_entries)
    features = _features(rows, colors)
    passes = -(-features.shape[2] // WIDTH)
    features = torch.nn.functional.pad(features, (0, passes * WIDTH - features.shape[2]))
    features = features.reshape(len(features), n, passes, WIDTH)
    image = rows.new_zeros(passes, c, height, width, WIDTH)
    light, median = rows.new_ones(c, height, width), rows.new_zeros(c, height, width)
    last = torch.zeros(c, height, width, dtype=torch.int32, device=rows.device)
    counts = torch.zeros(c, n, dtype=torch.int32, device=rows.device)
    pixels = (c, starts.shape[1] - 1, TILE * TILE)
    for which in range(passes):
        launch("splat_tiles.draw", pixels, rows, shift, features, which, starts, gaussians,
               height, width, image[which], light, median, last, counts)  # fmt: skip
    channels = image.permute(1, 2, 3, 0, 4).reshape(c, height, width, passes * WIDTH)
    color, depth, normal = channels[..., : d + 4].split([d, 1, 3], dim=-1)
    if max_tile_entries == 0:
        starts, gaussians = starts.new_empty(0, 0), gaussians.new_empty(0)
    # Copies: an operation's results may not share memory.
    images = color.clone(), light, depth[..., 0].clone(), normal.clone()
    return *images, median, last, counts, entries, starts, gaussians


def rasterize_backward(
    grads: list[Tensor | None], rows: Tensor, colors: Tensor, means2d_offset: Tensor | None, magnitudes: Tensor | None,
    light: Tensor, last: Tensor, height: int, width: int, starts: Tensor, gaussians: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of rows and colors; adds to `magnitudes`."""
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
    to_rows, to_features = torch.zeros_like(rows), torch.zeros_like(features)
    pixels = (c, starts.shape[1] - 1, TILE * TILE)
    launch("splat_tiles.draw_backward", pixels, torch.cat(columns, dim=-1), through, rows, shift, features, starts,
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
    counts = torch.empty(c, n, dtype=torch.int64, device=rows.device)
    launch("splat_tiles.count_tiles", (c, n), rows, means2d_offset, height, width, counts)
    ends = counts.reshape(-1).cumsum(0).reshape(c, n)
    entries = ends.reshape(-1)[-1].clone() if counts.numel() else counts.new_zeros(())
    total = max_tile_entries if max_tile_entries > 0 else int(entries)
    keys = torch.empty(total, dtype=torch.int64, device=rows.device)
    gaussians = torch.empty(total, dtype=torch.int32, device=rows.device)
    if max_tile_entries > 0:  # rows without an entry come last, after all tiles
        keys.fill_(torch.iinfo(torch.int64).max)
        gaussians.zero_()
    depths = rows[..., 6].contiguous().view(torch.int32)
    if total:
        launch("splat_tiles.list_tiles", (c, n), rows, means2d_offset, depths, height, width, counts, ends, keys,
               gaussians)  # fmt: skip
    keys, order = keys.sort(stable=True)
    first = torch.arange(c, device=rows.device)[:, None] * tiles(height, width)
    first = first + torch.arange(tiles(height, width) + 1, device=rows.device)
    starts = torch.searchsorted(keys, first << 32)
    return starts, gaussians[order], entries
