"""The Gaussian rasterizer in plain PyTorch: any float dtype, differentiable to any order (median depth and integers
apart).

Two steps. `project` makes a row of ten numbers of each Gaussian and camera, `rasterize` blends the rows and what the
Gaussians carry in order of depth: every Gaussian at every pixel, without an end where little light is left.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.reference.spherical_harmonics import spherical_harmonics
from headfields.ops.rotations import rotation_from_quaternion

LEAST_ALPHA = 1 / 255
"""A Gaussian is left out of a pixel where its alpha is below this (3DGS: Kerbl et al. 2023, its rasterizer)."""
MOST_ALPHA = 0.99
"""What alpha is clamped to, so that every Gaussian lets some light through (3DGS, its rasterizer)."""
FIELD_MARGIN = 0.3
"""The Jacobian of the projection is taken at the Gaussian's center or, outside the image, at most this many half widths
(and half heights) beyond its edge: 1.3 times the field of view (3DGS, its rasterizer)."""
ROW = 10
"""Numbers of a row: x, y of the center, pixels; the inverse covariance xx, xy, yy, 1/pixels²; opacity; depth, meters;
the normal. All are 0 where the Gaussian is not drawn."""

_TILE = 32  # pixels; a chunk is the Gaussians that touch a tile, at its pixels
_PAIRS = 1 << 22  # of Gaussian and pixel in a chunk, at most

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def project(
    means: Float[Tensor, "_ n 3"],
    quaternions: Float[Tensor, "_ n 4"],
    scales: Float[Tensor, "_ n 3"],
    opacities: Float[Tensor, "_ n"],
    world_to_camera: Float[Tensor, "c 4 4"],
    intrinsics: Float[Tensor, "c 3 3"],
    height: int,
    width: int,
    near: float,
    low_pass: float,
    antialiased: bool,
) -> tuple[Float[Tensor, "c n 10"], Float[Tensor, "c n"]]:
    """Rows and radii (pixels, no gradient) of Gaussians in C cameras; leading axes of Gaussians are 1 or C."""
    camera = (world_to_camera, intrinsics, height, width, low_pass, antialiased)
    m, q, s, o = (x.expand(len(world_to_camera), *x.shape[1:]) for x in (means, quaternions, scales, opacities))
    with torch.no_grad():
        rows, radii, depth = _project(m, q, s, o, *camera)
        drawn = rows.isfinite().all(-1) & radii.isfinite() & (depth > near) & (rows[..., 5] >= LEAST_ALPHA)
        on_screen = drawn & _in_image(rows, height, width)
        # In place of those that are not drawn, some that can be, so that no derivative is infinite or NaN.
        turn, shift = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3:]
        front = (turn[:, 2] - (turn.mT @ shift)[..., 0])[:, None]  # 1 m in front of the camera
    m = torch.where(drawn[..., None], m, front)
    q = torch.where(drawn[..., None], q, means.new_tensor([1.0, 0, 0, 0]))
    s = torch.where(drawn[..., None], s, means.new_tensor([1.0, 2, 3]))
    o = torch.where(drawn, o, means.new_tensor(0.5))
    rows = _project(m, q, s, o, *camera)[0]
    return torch.where(drawn[..., None], rows, 0.0), torch.where(on_screen, radii, 0.0)


def _project(
    means: Tensor, quaternions: Tensor, scales: Tensor, opacities: Tensor, pose: Tensor, lens: Tensor,
    height: int, width: int, low_pass: float, antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Rows, radii and depths, whatever they are."""
    turn, lens = pose[:, None, :3, :3], lens[:, None]
    local = (turn @ means[..., None])[..., 0] + pose[:, None, :3, 3]
    x, y, z = local.unbind(-1)
    a, b = x / z, y / z
    center = torch.stack([lens[..., row, 0] * a + lens[..., row, 1] * b + lens[..., row, 2] for row in (0, 1)], dim=-1)
    # EWA splatting (Zwicker et al. 2002): the covariance under the projection's Jacobian, here M Mᵀ of a 2×3 matrix M.
    a, b = _within(a, lens[..., 0, 0], lens[..., 0, 2], width), _within(b, lens[..., 1, 1], lens[..., 1, 2], height)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    jacobian = (
        torch.stack([torch.stack([one, zero, -a], -1), torch.stack([zero, one, -b], -1)], -2) / z[..., None, None]
    )
    axes = rotation_from_quaternion(quaternions)
    matrix = (lens[..., :2, :2] @ jacobian @ turn @ axes) * scales[..., None, :]
    first, second = matrix.unbind(-2)
    xx, xy, yy = (first * first).sum(-1), (first * second).sum(-1), (second * second).sum(-1)
    sharp = torch.linalg.cross(first, second).square().sum(-1)  # the determinant, without cancellation
    blurred = sharp + low_pass * (xx + yy) + low_pass**2
    xx, yy = xx + low_pass, yy + low_pass
    conic = torch.stack([yy, -xy, xx], dim=-1) / blurred[..., None]
    if (
        antialiased
    ):  # Mip-Splatting (Yu et al. 2024), equation 9 on screen: what the low-pass adds in area, opacity loses
        some = sharp > 0
        share = torch.where(some, sharp / blurred, 1.0).sqrt()
        opacities = opacities * torch.where(some, share, 0.0)
    flattest = scales.argmin(-1)[..., None, None].expand(*scales.shape[:-1], 3, 1)
    normal = axes.gather(-1, flattest)[..., 0]
    away = ((turn @ normal[..., None])[..., 0] * local).sum(-1) > 0
    normal = torch.where(away[..., None], -normal, normal)
    radii = 3 * (0.5 * (xx + yy) + (0.25 * (xx - yy).square() + xy.square()).sqrt()).detach().sqrt()
    return torch.cat([center, conic, opacities[..., None], z[..., None], normal], dim=-1), radii, z


def _within(slope: Tensor, focal: Tensor, principal: Tensor, pixels: int) -> Tensor:
    margin = FIELD_MARGIN * 0.5 * pixels
    return torch.maximum(torch.minimum(slope, (pixels - principal + margin) / focal), -(principal + margin) / focal)


def project_backward(grad: Float[Tensor, "c n 10"], *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of the six tensors of `project` for that of the rows."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in arguments[:6]]
        rows = project(*leaves, *arguments[6:])[0]
        return torch.autograd.grad(rows, leaves, grad, materialize_grads=True)


def half_extents(rows: Float[Tensor, "*n 10"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Half the width and height of the box outside which alpha is below `LEAST_ALPHA`, pixels; -1 where it is nowhere
    above. Of an opaque Gaussian that is 3.33 standard deviations; 3DGS cuts at 3, where alpha is still 0.011."""
    xx, xy, yy, opacity = rows[..., 2], rows[..., 3], rows[..., 4], rows[..., 5]
    reach = 2 * (opacity / LEAST_ALPHA).clamp_min(1e-30).log() / (xx * yy - xy * xy)
    none = ~(opacity >= LEAST_ALPHA)
    x, y = ((reach * side).clamp_min(0).sqrt() for side in (yy, xx))
    return x.masked_fill(none, -1.0), y.masked_fill(none, -1.0)


def _in_image(rows: Tensor, height: int, width: int) -> Tensor:
    half_x, half_y = half_extents(rows)
    x, y = rows[..., 0], rows[..., 1]
    return (x + half_x > 0) & (x - half_x < width) & (y + half_y > 0) & (y - half_y < height)


def rasterize(
    rows: Float[Tensor, "c n 10"],
    colors: Float[Tensor, "_ n d"],
    means2d_offset: Float[Tensor, "c n 2"] | None,
    means2d_absgrad: Float[Tensor, "c n 2"] | None,
    height: int,
    width: int,
) -> Outputs:
    """Color, transmittance, depth, normal, median depth, -1 at each pixel, and the Gaussians' pixels."""
    c, n, d = len(rows), rows.shape[1], colors.shape[-1]
    images, medians = [], []
    counts = torch.zeros(c, n, dtype=torch.int32, device=rows.device)
    for camera in range(c):
        image, median = rows.new_zeros(height * width, d + 5), rows.new_zeros(height * width)
        image[:, -1] = 1
        offset = None if means2d_offset is None else means2d_offset[camera]
        own = None if means2d_absgrad is None else means2d_absgrad[camera]
        pieces, places = [], []
        for index, pixels in chunks(rows[camera], offset, height, width):
            carried = colors[camera if len(colors) > 1 else 0]
            part, middle, seen = blend(rows[camera], carried, offset, own, index, pixels, rows.new_zeros(()))
            pieces.append(part)
            places.append((pixels[:, 1].long() * width + pixels[:, 0].long(), middle))
            counts = counts.index_put((torch.full_like(index, camera), index), seen.to(torch.int32), accumulate=True)
        if pieces:
            where = torch.cat([place for place, _ in places])
            image = image.index_copy(0, where, torch.cat(pieces))
            median = median.index_copy(0, where, torch.cat([middle for _, middle in places]))
        images.append(image.reshape(height, width, d + 5))
        medians.append(median.reshape(height, width))
    empty = rows.new_zeros(0, height, width, d + 5) + rows.sum() + colors.sum()
    image = torch.stack(images) if images else empty
    median = torch.stack(medians) if medians else empty[..., 0]
    last = torch.full(median.shape, -1, dtype=torch.int32, device=rows.device)
    color, depth, normal, through = image.split([d, 1, 3, 1], dim=-1)
    return color, through[..., 0], depth[..., 0], normal, median.detach(), last, counts


def rasterize_backward(
    to_color: Tensor | None,
    to_through: Tensor | None,
    to_depth: Tensor | None,
    to_normal: Tensor | None,
    rows: Float[Tensor, "c n 10"],
    colors: Float[Tensor, "_ n d"],
    means2d_offset: Float[Tensor, "c n 2"] | None,
    means2d_absgrad: Float[Tensor, "c n 2"] | None,
    height: int,
    width: int,
) -> tuple[Float[Tensor, "c n 10"], Float[Tensor, "_ n d"], Float[Tensor, "c n 2"]]:
    """Gradients of rows, colors and `means2d_absgrad`, one chunk at a time; that of `means2d_offset` is the rows'
    first two."""
    out_rows, out_colors = torch.zeros_like(rows), torch.zeros_like(colors)
    magnitudes = rows.new_zeros(*rows.shape[:2], 2)
    d = colors.shape[-1]
    for camera in range(len(rows)):
        columns = []
        for grad, channels in ((to_color, d), (to_depth, 1), (to_normal, 3), (to_through, 1)):
            one = rows.new_zeros(height, width, channels) if grad is None else grad[camera]
            columns.append(one.reshape(height * width, channels))
        grads = torch.cat(columns, dim=1)
        which = camera if len(colors) > 1 else 0
        offset = None if means2d_offset is None else means2d_offset[camera].detach()
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (rows[camera], colors[which], magnitudes[camera])]
            own = None if means2d_absgrad is None else inputs[2]
            for index, pixels in chunks(rows[camera], offset, height, width):
                part = blend(inputs[0], inputs[1], offset, own, index, pixels, rows.new_zeros(()))[0]
                place = pixels[:, 1].long() * width + pixels[:, 0].long()
                gradients = torch.autograd.grad(part, inputs, grads[place], materialize_grads=True)
                out_rows[camera] += gradients[0]
                out_colors[which] += gradients[1]
                magnitudes[camera] += gradients[2]
    return out_rows, out_colors, magnitudes


def chunks(
    rows: Float[Tensor, "n 10"], means2d_offset: Float[Tensor, "n 2"] | None, height: int, width: int
) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, "p 2"]]]:
    """For parts of one image: the Gaussians that may show there, in order of depth and then index, and the pixels'
    centers."""
    every = torch._C._are_functorch_transforms_active()  # under which no size may depend on the values
    rows = rows.detach()
    if means2d_offset is not None:
        rows = torch.cat([rows[:, :2] + means2d_offset.detach(), rows[:, 2:]], dim=1)
    order = torch.sort(rows[:, 6], stable=True).indices
    half_x, half_y = half_extents(rows)
    near_x, far_x = rows[:, 0] - half_x - 0.5, rows[:, 0] + half_x + 0.5
    near_y, far_y = rows[:, 1] - half_y - 0.5, rows[:, 1] + half_y + 0.5
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            bottom, right = min(top + _TILE, height), min(left + _TILE, width)
            index = order
            if not every:
                touched = (half_x >= 0) & (far_x >= left) & (near_x <= right) & (far_y >= top) & (near_y <= bottom)
                index = order[touched[order]]
            y, x = (
                0.5 + torch.arange(begin, end, device=rows.device, dtype=rows.dtype)
                for begin, end in ((top, bottom), (left, right))
            )
            pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
            for part in pixels.split(max(_PAIRS // max(len(index), 1), 1)):
                yield index, part


def blend(
    rows: Float[Tensor, "n 10"],
    colors: Float[Tensor, "n d"],
    means2d_offset: Float[Tensor, "n 2"] | None,
    means2d_absgrad: Float[Tensor, "n 2"] | None,
    index: Int[Tensor, " m"],
    pixels: Float[Tensor, "p 2"],
    zero: Float[Tensor, ""],
) -> tuple[Float[Tensor, "p _"], Float[Tensor, " p"], Int[Tensor, " m"]]:
    """Some Gaussians, in order, at some pixels: colors, depth, normal and transmittance in columns; median depth; and
    the pixels of each Gaussian."""
    mine = rows[index]
    center = mine[:, :2] if means2d_offset is None else mine[:, :2] + means2d_offset[index]
    center = center.expand(len(pixels), *center.shape)
    if means2d_absgrad is not None:
        center = _WithMagnitudes.apply(center, means2d_absgrad[index])
    x, y = (pixels[:, None] - center).unbind(-1)
    xx, xy, yy, opacity, depth = mine[:, 2], mine[:, 3], mine[:, 4], mine[:, 5], mine[:, 6]
    alpha = opacity * torch.exp(-0.5 * (xx * x * x + yy * y * y) - xy * x * y)
    alpha = torch.where(alpha >= LEAST_ALPHA, alpha.clamp_max(MOST_ALPHA), zero)
    through = torch.cat([torch.ones_like(alpha[:, :1]) if len(index) else alpha.new_ones(len(pixels), 1),
                         (1 - alpha).cumprod(1)], dim=1)  # fmt: skip
    weights = alpha * through[:, :-1]
    sums = weights @ torch.cat([colors[index], mine[:, 6:]], dim=1)
    behind = torch.cat([depth, zero[None]])[(through[:, 1:] > 0.5).sum(1)]  # 0 where more than half passes them all
    return torch.cat([sums, through[:, -1:]], dim=1), behind.detach(), (alpha > 0).sum(0)


class _WithMagnitudes(torch.autograd.Function):
    """Each pixel's copy of the centers; to its second argument go the sums of the magnitudes of their gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(center: Tensor, magnitudes: Tensor) -> Tensor:
        return center.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.abs().sum(0)


def harmonic_colors(
    means: Float[Tensor, "_ n 3"], coefficients: Float[Tensor, "_ n k 3"], centers: Float[Tensor, "c 3"]
) -> Float[Tensor, "c n 3"]:
    """The colors of Gaussians in cameras with these centers: harmonics of the direction from there (3DGS), and a half,
    not negative; leading axes of Gaussians are 1 or C."""
    away = means - centers[:, None]
    usable = away.isfinite().all(-1, keepdim=True) & (away != 0).any(-1, keepdim=True)  # others are not drawn
    directions = torch.nn.functional.normalize(torch.where(usable, away, 1.0), dim=-1)
    basis = spherical_harmonics(directions, math.isqrt(coefficients.shape[-2]))
    return ((basis[..., None, :] @ coefficients)[..., 0, :] + 0.5).clamp_min(0)
