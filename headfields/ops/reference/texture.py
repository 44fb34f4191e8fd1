"""Mip levels by exact areas, and sampling between them: the definition of `headfields.ops.texture`."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.reference.uv import bilinear


def mip_levels(texture: Float[Tensor, "h w c"]) -> list[Float[Tensor, "h2 w2 c"]]:
    """The texture and its halves down to a texel, each texel the mean of the one before over its own area."""
    levels = [texture]
    while max(levels[-1].shape[:2]) > 1:
        height, width = levels[-1].shape[:2]
        down, across = (_shares(size, max(size // 2, 1)).to(texture) for size in (height, width))
        levels.append(torch.einsum("ih,jw,hwc->ijc", down, across, levels[-1]))
    return levels


def _shares(count: int, fewer: int) -> Float[Tensor, "k n"]:
    """The overlaps of each of `fewer` equal intervals with each of `count`, as parts of the former."""
    low = torch.arange(count, dtype=torch.float64) / count
    start = torch.arange(fewer, dtype=torch.float64)[:, None] / fewer
    overlap = torch.minimum(low + 1 / count, start + 1 / fewer) - torch.maximum(low, start)
    return overlap.clamp(min=0) * fewer


def sample_texture(
    texture: Float[Tensor, "h w c"], uv: Float[Tensor, "n 2"], footprint: Float[Tensor, "n 2 2"], bias: float = 0.0
) -> Float[Tensor, "n c"]:
    """The texture at `uv`, linear between the two levels about log2 of the longer of a pixel's steps in texels."""
    levels = mip_levels(texture)
    height, width = texture.shape[:2]
    steps = footprint.detach() * footprint.new_tensor([width, height])[:, None]
    level = torch.log2(steps.norm(dim=1).amax(-1).clamp(min=1e-15)) + bias
    level = level.clamp(0, len(levels) - 1)
    frame = torch.zeros(len(uv), dtype=torch.long, device=uv.device)
    out = torch.zeros(len(uv), texture.shape[2]).to(texture)
    for index, image in enumerate(levels):
        weight = (1 - (level - index).abs()).clamp(min=0).to(texture.dtype)
        out = out + weight[:, None] * bilinear(image.movedim(-1, 0)[None], uv, frame)
    return out
