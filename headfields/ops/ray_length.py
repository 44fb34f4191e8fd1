"""Lengths of pixels' rays for a unit of depth: what turns depth along the optical axis into depth along the ray."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape, require_shapes
from headfields.ops.dispatch import use_warp
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch
from headfields.records.inverse import inverse_intrinsics


@torch.no_grad()
def ray_length(intrinsics: Float[Tensor, "c 3 3"], height: int, width: int) -> Float[Tensor, "c h w"]:
    """|K⁻¹ (x, y, 1)| at the centers of the pixels of C cameras.

    Args:
        intrinsics: (C, 3, 3) K, pixels.
        height, width: of the images.

    Returns:
        (C, H, W), 1 or more. No gradient.

    Raises:
        TypeError: intrinsics are not floating point.
        ValueError: their shape is another.
    """
    check_floating("ray_length", "intrinsics", intrinsics)
    check_shape("ray_length", "intrinsics", intrinsics, "c 3 3")
    if not use_warp(intrinsics):
        return plain_ray_length(intrinsics, height, width)
    lengths: Tensor = _lengths(intrinsics, height, width)
    return lengths


def plain_ray_length(intrinsics: Float[Tensor, "c 3 3"], height: int, width: int) -> Float[Tensor, "c h w"]:
    """The definition in PyTorch."""
    device, dtype = intrinsics.device, intrinsics.dtype
    y, x = (torch.arange(size, device=device, dtype=dtype) + 0.5 for size in (height, width))
    y = y[:, None]
    inverse = inverse_intrinsics(intrinsics)
    form = (inverse.mT @ inverse)[..., None, None]  # of the squared length of K⁻¹ (x, y, 1)
    of_x = form[:, 0, 0] * x * x + 2 * form[:, 0, 2] * x + form[:, 2, 2]
    of_y = form[:, 1, 1] * y * y + 2 * form[:, 1, 2] * y
    return (of_x + of_y + 2 * form[:, 0, 1] * x * y).sqrt()


@torch.library.custom_op("headfields::ray_length", mutates_args=())
def _lengths(intrinsics: Tensor, height: int, width: int) -> Tensor:
    fits = intrinsics.ndim == 3 and intrinsics.shape[1:] == (3, 3) and height >= 0 and width >= 0
    require_shapes("ray_length", fits, intrinsics=intrinsics)
    if not use_warp(intrinsics):
        return plain_ray_length(intrinsics.detach(), height, width)
    out = intrinsics.new_empty(len(intrinsics), height, width)
    launch("ray_length.lengths", tuple(out.shape), intrinsics.detach().contiguous(), out)
    return out


register_op(
    _lengths, lambda intrinsics, height, width: intrinsics.new_empty(len(intrinsics), height, width), plain_ray_length,
    rows=(0,),
)  # fmt: skip
