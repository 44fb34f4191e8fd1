"""A soft rasterizer in vectorized PyTorch: coverage of every face near every pixel, by a sigmoid of its distance.

As in Liu et al. 2019, "Soft Rasterizer": each face covers a pixel with sigmoid(± d² / sigma), d the distance of the
pixel's center to its outline, and the image is 1 minus the product of the faces' 1 - coverage. Only pixels
within a few widths of a face's box are evaluated. Coverage needs no depth order.
"""

import torch
from torch import Tensor

_REACH = 2.0  # pixels around a face's box


def coverage(pixels: Tensor, faces: Tensor, size: tuple[int, int], sigma: float = 0.15) -> Tensor:
    """The soft coverage (H, W) of faces (F, 3) with vertices at `pixels` (V, 2); sigma in square pixels."""
    height, width = size
    corners = pixels[faces]
    flat = corners.detach()
    low, high = flat.amin(1) - _REACH, flat.amax(1) + _REACH
    limits = flat.new_tensor([width, height])
    first = (low - 0.5).ceil().clamp(min=0).minimum(limits).long()
    last = ((high - 0.5).floor() + 1).clamp(min=0).minimum(limits).long()
    extent = (last - first).clamp(min=0)
    counts = extent.prod(-1)
    face = torch.repeat_interleave(torch.arange(len(faces)), counts)
    step = torch.arange(len(face)) - (counts.cumsum(0) - counts)[face]
    column = first[face, 0] + step % extent[face, 0]
    row = first[face, 1] + step // extent[face, 0]
    center = torch.stack([column, row], -1) + 0.5
    triangle = corners[face]
    nearest = torch.full_like(triangle[:, 0, 0], torch.inf)
    sides = []
    for k in range(3):
        a, b = triangle[:, k], triangle[:, (k + 1) % 3]
        line, reach = b - a, center - a
        part = ((line * reach).sum(-1) / line.square().sum(-1).clamp(min=1e-12)).clamp(0, 1)
        nearest = torch.minimum(nearest, (reach - part[:, None] * line).square().sum(-1))
        sides.append(line[:, 0] * reach[:, 1] - line[:, 1] * reach[:, 0])
    sign = torch.stack(sides).sign()
    inside = (sign >= 0).all(0) | (sign <= 0).all(0)
    # log(1 - sigmoid(x)) = -softplus(x)
    free = -torch.nn.functional.softplus(torch.where(inside, nearest, -nearest) / sigma)
    total = torch.zeros(height * width).to(free).index_add(0, row * width + column, free)
    return (1 - total.exp()).reshape(height, width)
