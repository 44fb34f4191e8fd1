"""Texture sampling with mip levels, and padding of texture charts.

A mip level averages the part of the texture that a pixel covers before it is sampled.
"""

from dataclasses import dataclass

import scipy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_same_device, check_shape
from headfields.ops.functorch_rules import array_of
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.ops.uv import UVRasterizer, bilinear_weights
from headfields.records import Record


@dataclass(frozen=True)
class MipPyramid(Record):
    """A texture and its halves, each level the box-filtered one before, down to a single texel.

    Attributes:
        table: (R, C) the texels of all levels, row by row, the finest first; with the texture's graph.
        sizes: (height, width) of each level.
    """

    table: Float[Tensor, "r c"]
    sizes: tuple[tuple[int, int], ...]

    def level(self, index: int) -> Float[Tensor, "h w c"]:
        """One level as an image, 0 the texture itself."""
        before = sum(height * width for height, width in self.sizes[:index])
        height, width = self.sizes[index]
        return self.table[before : before + height * width].unflatten(0, (height, width))


def mip_pyramid(texture: Float[Tensor, "h w c"], levels: int | None = None) -> MipPyramid:
    """The mip pyramid of a texture of any size; an odd side 2 k + 1 becomes k, by exact areas.

    Every texel weighs the same in every level, so all levels have the same mean. At coarse levels charts bleed into one
    another and into the space between them: `pad_charts` first. Colors are averaged as they are stored (in sRGB), our
    own choice. Linear in the texture, so differentiable to any order.

    Args:
        texture: (H, W, C), row 0 at v = 1.
        levels: the largest number of levels; None makes all.

    Raises:
        TypeError: texture is not floating point.
        ValueError: it is not (H, W, C) with at least one texel, or levels is less than 1.
    """
    check_floating("mip_pyramid", "texture", texture)
    check_shape("mip_pyramid", "texture", texture, "H W C")
    if not texture.shape[0] * texture.shape[1]:
        raise ValueError(f"mip_pyramid: texture has shape {tuple(texture.shape)}; it needs at least one texel")
    if levels is not None and levels < 1:
        raise ValueError(f"mip_pyramid: levels is {levels}; expected 1 or more")
    images = [texture]
    while max(images[-1].shape[:2]) > 1 and (levels is None or len(images) < levels):
        images.append(_halved(_halved(images[-1]).transpose(0, 1)).transpose(0, 1))
    table = torch.cat([image.flatten(0, 1) for image in images])
    return MipPyramid(table, tuple((image.shape[0], image.shape[1]) for image in images))


def sample_texture(
    texture: MipPyramid | Float[Tensor, "h w c"],
    uv: Float[Tensor, "*batch 2"],
    footprint: Float[Tensor, "*batch 2 2"] | None = None,
    bias: float | int = 0.0,
) -> Float[Tensor, "*batch c"]:
    """Samples a texture: bilinear in each level, linear between two levels, the border repeated beyond [0, 1].

    The level is log2 of the longer of a pixel's two steps over the texture, in texels (the scale factor of OpenGL 4.6
    core, section 8.14.1), but not below 0. Differentiable to any order in the texture and, within a cell of four
    texel centers, in `uv`; the level has no gradient.

    Args:
        texture: a pyramid, or an image (H, W, C), which has one level.
        uv: (..., 2) texture coordinates, v up; the center of texel (row i, column j) is at u = (j + 1/2) / W,
            v = 1 - (i + 1/2) / H.
        footprint: (..., 2, 2) the derivatives of `uv` (rows) by the pixel's x and y (columns), the screen-space
            footprint; None for the finest level.
        bias: added to the level; negative is sharper.

    Returns:
        (..., C).

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, or devices differ.

    >>> import torch, headfields as hf
    >>> texture = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])  # 2 by 2 texels of one channel
    >>> hf.ops.sample_texture(texture, torch.tensor([[0.25, 0.75], [0.75, 0.25], [0.5, 0.5]])).flatten().tolist()
    [1.0, 4.0, 2.5]
    """
    op = "sample_texture"
    check_floating(op, "uv", uv)
    check_shape(op, "uv", uv, "... 2")
    if not isinstance(texture, MipPyramid):
        check_floating(op, "texture", texture)
        texture = mip_pyramid(texture, 1)
    check_same_device(op, texture=texture.table, uv=uv, footprint=footprint)
    batch, flat = uv.shape[:-1], uv.reshape(-1, 2)
    if footprint is not None:
        check_floating(op, "footprint", footprint)
        if footprint.shape != (*batch, 2, 2):
            raise ValueError(f"{op}: footprint has shape {tuple(footprint.shape)}; expected {(*batch, 2, 2)}, one for "
                             "each of uv")  # fmt: skip
    if footprint is None or len(texture.sizes) == 1:
        index, weight = bilinear_weights(flat, *texture.sizes[0])
        return interpolate_rows(texture.table, index, weight).reshape(*batch, texture.table.shape[1])
    height, width = texture.sizes[0]
    texels = footprint.detach().reshape(-1, 2, 2) * footprint.new_tensor([width, height])[:, None]
    longest = texels.square().sum(1).amax(-1)
    level = 0.5 * torch.log2(longest.nan_to_num(nan=1.0, posinf=1e30).clamp(min=1e-30)) + bias
    level = level.clamp(0, len(texture.sizes) - 1)
    lower = level.floor().clamp(max=len(texture.sizes) - 2)
    part = (level - lower).to(flat.dtype)
    sizes = torch.tensor(texture.sizes, device=uv.device)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(-1).cumsum(0)[:-1]])
    pairs = [_texels_of(flat, sizes, starts, lower.long() + k) for k in (0, 1)]
    index = torch.cat([pair[0] for pair in pairs], -1)
    weight = torch.cat([pairs[0][1] * (1 - part)[:, None], pairs[1][1] * part[:, None]], -1)
    return interpolate_rows(texture.table, index, weight).reshape(*batch, texture.table.shape[1])


def pad_charts(
    texture: Float[Tensor, "h w c"], uv: Float[Tensor, "t 2"], uv_faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "h w c"]:
    """Colors every texel that no chart covers like the nearest covered one.

    Then neither bilinear sampling nor coarse levels mix in the space between charts. Differentiable in the texture.

    Args:
        texture: (H, W, C), row 0 at v = 1.
        uv, uv_faces: (T, 2) texture coordinates in [0, 1], and (F, 3) indices into them.

    Raises:
        TypeError, ValueError: as `UVRasterizer`, or texture does not fit.
    """
    check_floating("pad_charts", "texture", texture)
    check_shape("pad_charts", "texture", texture, "H W C")
    check_integer("pad_charts", "uv_faces", uv_faces)
    check_shape("pad_charts", "uv_faces", uv_faces, "F 3")
    if not len(uv_faces):
        return texture.clone()
    covered = UVRasterizer(uv_faces, uv, uv_faces, (texture.shape[0], texture.shape[1]), padding=0.0).covered
    return fill_texels(texture, covered)


def fill_texels(texture: Float[Tensor, "h w c"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w c"]:
    """Colors every texel that is not `known` like the nearest known one; without any, the texture stays as it is.

    Differentiable in the texture.

    Args:
        texture: (H, W, C).
        known: (H, W).

    Raises:
        TypeError: texture is not floating point.
        ValueError: a shape does not fit.
    """
    check_floating("fill_texels", "texture", texture)
    check_shape("fill_texels", "texture", texture, "H W C")
    check_shape("fill_texels", "known", known, f"{texture.shape[0]} {texture.shape[1]}")
    mask = array_of(known)
    if not mask.any():
        return texture.clone()
    nearest = scipy.ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest).long().to(texture.device)
    return texture[rows, columns]


def _halved(image: Float[Tensor, "n m c"]) -> Float[Tensor, "k m c"]:
    """The image with half as many rows, each the mean over its share of the height."""
    count = image.shape[0]
    if count == 1:
        return image
    if count % 2 == 0:
        return image.reshape(count // 2, 2, *image.shape[1:]).mean(1)
    half = count // 2
    place = torch.arange(half, device=image.device, dtype=image.dtype)[:, None, None]
    first, last = (half - place) / count, (place + 1) / count
    return first * image[0:-1:2] + (half / count) * image[1::2] + last * image[2::2]


def _texels_of(uv: Tensor, sizes: Tensor, starts: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """`bilinear_weights` in a level for each point."""
    height, width = sizes[level].to(uv.dtype).unbind(-1)
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    zero = torch.zeros_like(width)
    x, y = torch.minimum(torch.maximum(x, zero), width - 1), torch.minimum(torch.maximum(y, zero), height - 1)
    left = torch.minimum(x.detach().floor(), (width - 2).clamp(min=0))
    top = torch.minimum(y.detach().floor(), (height - 2).clamp(min=0))
    right, bottom = torch.minimum(left + 1, width - 1), torch.minimum(top + 1, height - 1)
    tx, ty = x - left, y - top
    place = torch.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right], -1)
    weight = torch.stack([(1 - ty) * (1 - tx), (1 - ty) * tx, ty * (1 - tx), ty * tx], -1)
    return place.long() + starts[level][:, None], weight
