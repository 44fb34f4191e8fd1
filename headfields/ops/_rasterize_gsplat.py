"""gsplat's rasterizer behind `hf.ops.rasterize_gaussians`: what `backend="gsplat"` draws projected Gaussians with.

Projection and colors stay this library's, so pixel centers, quaternions, low-pass, near plane, harmonics, normals and
the gradients of cameras are the same with either; gsplat makes the lists of tiles and blends.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from headfields.ops.reference.rasterize_gaussians import LEAST_ALPHA

TILE = 16
"""gsplat's own choice of a tile's pixels; it says that others are not tested."""
MOST_CHANNELS = 509
"""Of colors: with depth and normal beside them as many as gsplat compiles its kernels for."""


def check_gsplat(tensors: dict[str, Tensor], channels: int, max_tile_entries: int) -> None:
    """Refuses arguments of `rasterize_gaussians` that gsplat cannot express.

    Raises:
        ModuleNotFoundError: gsplat is not installed.
        TypeError: an argument is float64.
        ValueError: a tensor is on a CPU; the number of channels or `max_tile_entries` is none for gsplat.
    """
    installed_gsplat()
    for name, tensor in tensors.items():
        if not tensor.is_cuda:
            raise ValueError(
                f"rasterize_gaussians: {name} is on {tensor.device}, and backend='gsplat' draws on CUDA alone; move "
                "the tensors there, or leave backend out"
            )
        if tensor.dtype == torch.float64:
            raise TypeError(
                f"rasterize_gaussians: {name} is float64, and backend='gsplat' computes in float32; convert it, or "
                "leave backend out"
            )
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(
            f"rasterize_gaussians: colors has {channels} channels; backend='gsplat' draws 1 to {MOST_CHANNELS}: draw "
            "them in parts, or leave backend out"
        )
    if max_tile_entries:
        raise ValueError(
            f"rasterize_gaussians: max_tile_entries is {max_tile_entries}; with backend='gsplat' pass 0: gsplat makes "
            "the lists of its tiles as long as they need to be"
        )


def rasterize(
    rows: Float[Tensor, "c n 10"],
    colors: Float[Tensor, "_ n d"],
    means2d_offset: Float[Tensor, "c n 2"] | None,
    means2d_absgrad: Float[Tensor, "c n 2"] | None,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Int[Tensor, ""]]:
    """Color, transmittance, depth and normal of projected Gaussians, and the number of entries of the tiles' lists; the
    host waits for that number. Depth and normals are drawn apart from the colors, so that a loss of colors alone
    differentiates nothing else; with `means2d_absgrad` they are drawn together, as magnitudes of a sum are no sum of
    magnitudes."""
    gsplat = installed_gsplat()
    c, n = rows.shape[:2]
    centers = rows[..., :2] if means2d_offset is None else rows[..., :2] + means2d_offset
    across, down = -(-width // TILE), -(-height // TILE)
    with torch.no_grad():
        radii, depths = _reach(rows), rows[..., 6].detach().contiguous()
        sorted_tiles = gsplat.isect_tiles(centers.detach().contiguous(), radii, depths, TILE, across, down)
        offsets = gsplat.isect_offset_encode(sorted_tiles[1], c, across, down).reshape(c, down, across)
    lists = width, height, TILE, offsets, sorted_tiles[2]
    conics, opacities = rows[..., 2:5], rows[..., 5]
    colors, d = colors.expand(c, n, -1), colors.shape[2]
    if means2d_absgrad is None:
        color, alpha = _Blended.apply(centers, conics, colors, opacities, None, lists)
        further, _ = _Blended.apply(centers, conics, rows[..., 6:], opacities, None, lists)
    else:
        features = torch.cat([colors, rows[..., 6:]], dim=-1)
        every, alpha = _Blended.apply(centers, conics, features, opacities, means2d_absgrad, lists)
        color, further = every.split([d, 4], dim=-1)
    entries = torch.full((), len(sorted_tiles[2]), dtype=torch.int64, device=rows.device)
    return color, 1 - alpha[..., 0], further[..., 0], further[..., 1:], entries


def installed_gsplat() -> Any:
    """The package gsplat.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module("gsplat")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "rasterize_gaussians: backend='gsplat' needs the package gsplat (pip install gsplat, which compiles its "
            "kernels at their first use); leave backend out for this library's own kernels"
        ) from error


def _reach(rows: Float[Tensor, "c n 10"]) -> Int[Tensor, "c n 2"]:
    """Half the sides, in pixels, of the box in which a Gaussian's alpha is at least 1/255; 0 where it is not drawn."""
    xx, xy, yy, opacity = rows[..., 2:6].unbind(-1)
    reach = 2 * (opacity / LEAST_ALPHA).log() / (xx * yy - xy * xy)
    sides = (reach[..., None] * torch.stack([yy, xx], dim=-1)).sqrt() + 0.01
    drawn = (opacity >= LEAST_ALPHA) & sides.isfinite().all(-1)
    return torch.where(drawn[..., None], sides, 0.0).ceil().clamp_max(1 << 24).int()


class _Blended(torch.autograd.Function):
    """gsplat's images of what Gaussians carry, whose gradient by `magnitudes` is the sum of magnitudes that gsplat
    leaves at the centers (`absgrad`). It has one derivative, as gsplat has, and raises for a second one."""

    @staticmethod
    def forward(
        ctx: Any, centers: Tensor, conics: Tensor, features: Tensor, opacities: Tensor, magnitudes: Tensor | None,
        lists: Sequence[Any],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # gsplat leaves magnitudes at the very tensor that it was given, which has to be contiguous and alive: a leaf.
        leaves = [tensor.detach().contiguous() for tensor in (centers, conics, features, opacities)]
        absolute = bool(ctx.needs_input_grad[4])
        for leaf, need in zip(leaves, ctx.needs_input_grad, strict=False):
            leaf.requires_grad_(need)
        leaves[0].requires_grad_(ctx.needs_input_grad[0] or absolute)
        with torch.set_grad_enabled(any(ctx.needs_input_grad)):
            images = installed_gsplat().rasterize_to_pixels(*leaves, *lists, absgrad=absolute)
        ctx.leaves, ctx.images, ctx.absolute = leaves, images, absolute
        ctx.set_materialize_grads(False)
        color, alpha = (image.detach() for image in images)
        return color, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = [(image, grad) for image, grad in zip(ctx.images, grads, strict=True) if grad is not None]
        leaves = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        if not pairs:
            return (None,) * 6
        images, given = zip(*pairs, strict=True)
        computed = iter(torch.autograd.grad(images, leaves, given, retain_graph=True, allow_unused=True))
        gradients = [next(computed) if leaf.requires_grad else None for leaf in ctx.leaves]
        return *gradients, ctx.leaves[0].absgrad if ctx.absolute else None, None
