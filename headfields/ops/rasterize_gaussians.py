"""Differentiable rasterization of 3D Gaussians (3DGS): colors, opacity, depth and normals of posed Gaussians in one or
several cameras."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops import _rasterize_gsplat, _rasterize_warp, dispatch
from headfields.ops._checks import check_floating, check_index, check_same_device, has_readable_values, require_shapes
from headfields.ops._rasterize_gsplat import check_gsplat
from headfields.ops.dispatch import native, use_native
from headfields.ops.reference import rasterize_gaussians as reference
from headfields.ops.registration import register_op
from headfields.records import Camera
from headfields.records.base import Record
from headfields.records.precision import full_precision

Backend = Literal["headfields", "gsplat"]
"""Whose kernels blend Gaussians."""


@dataclass(frozen=True)
class RasterizedGaussians(Record):
    """Images of Gaussians in C cameras; the result of `rasterize_gaussians`.

    Attributes:
        color: (C, H, W, D) over the background, or over 0.
        opacity: (C, H, W) in [0, 1].
        depth: (C, H, W) expected depth along the optical axis, meters, weighted by opacity (divide to normalize).
        median_depth: (C, H, W) depth of the Gaussian behind which at most half of the light is left, meters; 0 where
            more than half is left behind all. No gradient. None with `backend="gsplat"`, which has none.
        normal: (C, H, W, 3) expected normal in world space, weighted by opacity (normalize for a direction). That of a
            Gaussian is its flattest axis, toward the camera.
        radii: (C, N) three standard deviations on screen along the longer axis, low-pass included, pixels (3DGS's
            radius, not rounded); 0 where the Gaussian is not drawn. No gradient.
        counts: (C, N) pixels in which it is drawn; None with `backend="gsplat"`, and without `count_pixels`.
        entries: () number of pairs of a Gaussian and a tile of 16 × 16 pixels that it may touch, on CUDA (and in Warp
            on the CPU); 0 in C++ and in float64, which have no lists of them.
    """

    color: Float[Tensor, "c h w d"]
    opacity: Float[Tensor, "c h w"]
    depth: Float[Tensor, "c h w"]
    median_depth: Float[Tensor, "c h w"] | None
    normal: Float[Tensor, "c h w 3"]
    radii: Float[Tensor, "c n"]
    counts: Int[Tensor, "c n"] | None
    entries: Int[Tensor, ""]


def rasterize_gaussians(
    means: Float[Tensor, "... n 3"],
    quaternions: Float[Tensor, "... n 4"],
    scales: Float[Tensor, "... n 3"],
    opacities: Float[Tensor, "... n"],
    colors: Float[Tensor, "... n _"] | Float[Tensor, "... n _ 3"],
    camera: Camera,
    background: Float[Tensor, "..."] | None = None,
    *,
    harmonics: bool = False,
    antialiased: bool = False,
    near: float | int = 0.01,
    low_pass: float | int = 0.3,
    means2d_offset: Float[Tensor, "c n 2"] | None = None,
    means2d_absgrad: Float[Tensor, "c n 2"] | None = None,
    max_tile_entries: int = 0,
    count_pixels: bool = True,
    backend: Backend = "headfields",
) -> RasterizedGaussians:
    """Draws N Gaussians in C cameras, blended from front to back in order of depth (ties: of index).

    At a pixel's center p a Gaussian has alpha = min(0.99, opacity · exp(−½ dᵀ Σ⁻¹ d)), d from its projected center to
    p. It is left out where that is below 1/255, and else adds alpha times its color times the light that the ones
    before it let through. Σ is the covariance under the Jacobian of the projection (EWA), plus `low_pass` on the
    diagonal. The box in which a Gaussian is drawn holds every pixel above 1/255 (3DGS cuts at three standard
    deviations). The kernels end a pixel where less than 1e-5 of the light is left, which changes no color in [0, 1] by
    more; 3DGS stops at 1e-4, before the Gaussian that would go below.

    Args:
        means: (N, 3), or (C, N, 3) for Gaussians of their own in each camera, meters, world frame. So for all below.
        quaternions: (N, 4) or (C, N, 4) rotations (w, x, y, z) of any length from 1e-15 to 1e15; zero is the identity.
        scales: (N, 3) or (C, N, 3) standard deviations along the axes, positive, meters.
        opacities: (N,) or (C, N) in [0, 1].
        colors: (N, D) or (C, N, D) of any number of channels D, 0 included; with `harmonics` (N, K, 3) or (C, N, K, 3).
        camera: C cameras of one size, or one (C = 1).
        background: (D,), or (C, H, W, D) behind each pixel; None is 0.
        harmonics: whether `colors` are coefficients of spherical harmonics of the direction from the camera to the
            Gaussian, K = 1, 4, 9 or 16 (degree 0 to 3). The color is their sum plus 0.5, or 0 where that is negative.
        antialiased: multiplies opacity by the square root of the share that Σ's determinant had before the low-pass, so
            that a Gaussian smaller than a pixel fades instead of growing (Mip-Splatting).
        near: meters; Gaussians whose center is nearer along the optical axis are not drawn.
        low_pass: what is added to the variance on screen, pixels².
        means2d_offset: (C, N, 2) is added to the projected centers, pixels. Zeros that require a gradient get that of
            the
            centers: the signed mean gradient that densification reads.
        means2d_absgrad: (C, N, 2) whose values are not read. Its "gradient" is the sum over pixels of the magnitudes of
            the centers' gradients (AbsGS, Ye et al. 2024); it is no derivative.
        max_tile_entries: most entries of the tiles' lists (`RasterizedGaussians.entries`), on CUDA; 0 makes them as
            long as they need to be, for which the host waits. Where `entries` exceeds it, the images are those of a
            part of the Gaussians.
        count_pixels: whether `counts` is wanted. On CUDA it is the one sum that drawing makes by atomics.
        backend: `"headfields"`, this library's kernels; `"gsplat"` blends with the package gsplat, on CUDA: alpha is
            clamped to 0.999, and a pixel ends before the Gaussian that would leave 1e-4 of its light. Projection and
            colors, and so conventions and gradients of cameras, are the same.

    Returns:
        `RasterizedGaussians`.

    Differentiable once in all floating-point inputs, the camera's pose and intrinsics among them; a second derivative
    raises, and `headfields.ops.reference.rasterize_gaussians` has it. Where alpha is clamped or left out it has no
    gradient.
    Outside 1.3 times the field of view the Jacobian of the projection is that at the border, and so is its gradient. A
    Gaussian with a value that is not finite is not drawn: its radius is 0, and so are its gradients. A color that is
    not finite reaches the pixels, and may reach others beside them. Computed in float32, or in float64 where an
    argument is; under autocast in full precision.

    Raises:
        TypeError: an argument is not a floating-point tensor, or float64 with gsplat.
        ModuleNotFoundError: `backend="gsplat"`, and it is not installed.
        ValueError: a shape does not fit, devices differ, near is not positive, low_pass or max_tile_entries negative;
            `backend` is another; with gsplat also a tensor on a CPU, more channels than 509 or none, or
            `max_tile_entries`;
            on the CPU also a negative scale, an opacity outside [0, 1] or a quaternion of another length. A GPU would
            be waited for, so there they are checked where HEADFIELDS_CHECK_INDICES=1 is set, and drawn otherwise: a
            scale by its magnitude, an opacity above 1 as 0.99 at most, one below 0 and such a quaternion not at all.

    Source: Kerbl et al. 2023, "3D Gaussian Splatting", sections 4 and 6, and the constants of its rasterizer; Zwicker
    et al. 2002, "EWA Splatting"; Yu et al. 2024, "Mip-Splatting", the 2D Mip filter.

    >>> import torch, headfields as hf
    >>> camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(32, 32), fov=20)
    >>> red = torch.tensor([[1.0, 0, 0]])  # one ball of 2 cm in the middle
    >>> image = hf.ops.rasterize_gaussians(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.02),
    ...                      torch.tensor([0.9]), red, camera)
    >>> image.color.shape, round(float(image.depth[0, 16, 16] / image.opacity[0, 16, 16]), 3)
    (torch.Size([1, 32, 32, 3]), 1.0)
    """
    tensors = {"means": means, "quaternions": quaternions, "scales": scales, "opacities": opacities, "colors": colors}
    optional = {"background": background, "means2d_offset": means2d_offset, "means2d_absgrad": means2d_absgrad}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    for name, tensor in tensors.items():
        check_floating("rasterize_gaussians", name, tensor)
    if not isinstance(camera, Camera):
        raise TypeError(f"rasterize_gaussians: camera is a {type(camera).__name__}; pass a headfields.Camera")
    camera.require_pinhole("rasterize_gaussians")
    check_same_device("rasterize_gaussians", **tensors, camera=camera.world_to_camera)
    if not near > 0:
        raise ValueError(f"rasterize_gaussians: near is {near}; expected a positive number of meters")
    if not 0 <= low_pass < math.inf:
        raise ValueError(f"rasterize_gaussians: low_pass is {low_pass}; expected 0 pixels² or more (3DGS: 0.3)")
    if backend not in get_args(Backend):
        raise ValueError(f"rasterize_gaussians: backend is {backend!r}; expected one of {', '.join(get_args(Backend))}")
    if max_tile_entries < 0:
        raise ValueError(
            f"rasterize_gaussians: max_tile_entries is {max_tile_entries}; expected a number, or 0 for all of them"
        )
    dtype = torch.float32
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    pose, lens = (x.reshape(-1, *x.shape[-2:]).to(dtype) for x in (camera.world_to_camera, camera.intrinsics))
    c, (height, width) = len(pose), camera.size
    n = means.shape[-2] if means.ndim >= 2 else 0
    trailing = {"means": (3,), "quaternions": (4,), "scales": (3,), "opacities": (), "colors": colors.shape[-1:]}
    if harmonics:
        if colors.ndim < 3 or colors.shape[-1] != 3 or colors.shape[-2] not in (1, 4, 9, 16):
            raise ValueError(
                f"rasterize_gaussians: colors has shape {tuple(colors.shape)}; with harmonics expected (N, K, 3) or "
                "(C, N, K, 3), "
                "K = 1, 4, 9 or 16"
            )
        trailing["colors"] = colors.shape[-2:]
    each = {name: _batched(name, tensors[name].to(dtype), c, n, tail) for name, tail in trailing.items()}
    in_kernel = dtype == torch.float32 and use_native(means)
    if not in_kernel and has_readable_values(each["means"]):
        _check_values(each["quaternions"], each["scales"], each["opacities"])
    for name in ("means2d_offset", "means2d_absgrad"):
        if name in tensors and tensors[name].shape != (c, n, 2):
            raise ValueError(
                f"rasterize_gaussians: {name} has shape {tuple(tensors[name].shape)}; expected ({c}, {n}, 2)"
            )
    d = 3 if harmonics else colors.shape[-1]
    if backend == "gsplat":
        check_gsplat(tensors, d, max_tile_entries)
    if background is not None and background.shape not in ((d,), (c, height, width, d)):
        raise ValueError(
            f"rasterize_gaussians: background has shape {tuple(background.shape)}; expected ({d},), one color, or "
            f"({c}, {height}, {width}, {d}), one for each pixel"
        )
    with full_precision(pose):
        carried = _harmonic_colors(each["means"], each["colors"], pose) if harmonics else each["colors"]
        rows, radii = _project(
            each["means"], each["quaternions"], each["scales"], each["opacities"], pose, lens,
            height, width, float(near), float(low_pass), antialiased,
        )  # fmt: skip
        offset = None if means2d_offset is None else means2d_offset.to(dtype)
        magnitudes = None if means2d_absgrad is None else means2d_absgrad.to(dtype)
        if backend == "gsplat" and rows.numel() and height and width:  # without any there is nothing to blend
            color, through, depth, normal, entries = _rasterize_gsplat.rasterize(
                rows, carried, offset, magnitudes, height, width
            )
            if background is not None:
                color = color + through[..., None] * background.to(dtype)
            return RasterizedGaussians(color, 1 - through, depth, None, normal, radii.detach(), None, entries)
        color, through, depth, normal, median, _, counts, entries, _, _ = _rasterize(
            rows, carried, offset, magnitudes, height, width, max_tile_entries, count_pixels
        )
        if background is not None:
            color = color + through[..., None] * background.to(dtype)
        drawn = counts if count_pixels else None
        return RasterizedGaussians(color, 1 - through, depth, median.detach(), normal, radii.detach(), drawn, entries)


def _check_values(quaternions: Tensor, scales: Tensor, opacities: Tensor) -> None:
    """Refuses values that would draw something else in silence; those that are not finite draw nothing, as is said.

    The extremes, which are quick to find, say that all is well; what is wrong is looked for only where they don't.
    """
    # NumPy stays on this thread, where PyTorch's threads would spin beside those of the kernels.
    q, s, o = (tensor.numpy(force=True) for tensor in (quaternions, scales, opacities))
    if not s.min() >= 0 and bool((s < 0).any()):
        raise ValueError(
            f"rasterize_gaussians: scales has {np.nanmin(s):.3g}; expected standard deviations in meters, 0 or more: "
            "of logarithms take scales.exp()"
        )
    if not (o.min() >= 0 and o.max() <= 1) and bool(((o < 0) | (o > 1)).any()):
        raise ValueError(
            f"rasterize_gaussians: opacities reach from {np.nanmin(o):.3g} to {np.nanmax(o):.3g}; expected [0, 1]: of "
            "logits take opacities.sigmoid()"
        )
    with np.errstate(over="ignore", under="ignore"):
        # Column by column: a sum along rows of four takes twice as long.
        squared = q[..., 0] ** 2 + q[..., 1] ** 2 + q[..., 2] ** 2 + q[..., 3] ** 2
    if squared.min() >= 1e-30 and squared.max() <= 1e30:
        return
    largest = np.abs(q).max(axis=-1)
    if bool((((largest < 1e-15) & (largest > 0)) | ((largest > 1e15) & (largest < math.inf))).any()):
        raise ValueError(
            "rasterize_gaussians: quaternions has one whose length is beyond 1e-15 to 1e15; normalize them"
        )


def _batched(name: str, tensor: Tensor, c: int, n: int, tail: tuple[int, ...]) -> Tensor:
    """(1, N, ...) or (C, N, ...)."""
    if tensor.shape == (n, *tail):
        return tensor[None]
    if tensor.shape != (c, n, *tail):
        sizes = "".join(f", {size}" for size in tail)
        raise ValueError(
            f"rasterize_gaussians: {name} has shape {tuple(tensor.shape)}; expected ({n}{sizes or ','}), or "
            f"({c}, {n}{sizes}) "
            f"for {c} cameras (N = {n} is that of means)"
        )
    return tensor


def _harmonic_colors(means: Tensor, coefficients: Tensor, pose: Tensor) -> Tensor:
    """(C, N, 3) colors of (1 or C, N, K, 3) coefficients in the directions from the cameras."""
    centers = -(pose[:, :3, :3].mT @ pose[:, :3, 3:])[..., 0]
    if not _has_kernel(means) or (dispatch.use_native(means) and not dispatch.use_native(means, "splat_colors")):
        return reference.harmonic_colors(means, coefficients, centers)
    return _colors(means, coefficients, centers)


# The registered operations: rows of Gaussians in cameras, and images of rows. Their backwards have no derivative.


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # of the projection
_Images = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _ready(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def _ready_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _ready(tensor)


def _has_kernel(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32


def _require_kernel(op: str, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None and not _has_kernel(tensor):
            raise TypeError(
                f"torch.ops.headfields.{op}: no kernel for {tensor.dtype}; differentiate hf.ops.rasterize_gaussians"
            )


def _projected(op: str, *inputs: Tensor) -> _Inputs:
    """The tensors as kernels take them, their shapes checked."""
    means, quaternions, scales, opacities, pose, lens = (_ready(tensor) for tensor in inputs)
    c, n = len(pose), means.shape[1] if means.ndim == 3 else -1
    fits = pose.shape == (c, 4, 4) and lens.shape == (c, 3, 3)
    for tensor, tail in ((means, (3,)), (quaternions, (4,)), (scales, (3,)), (opacities, ())):
        fits = fits and tensor.shape in ((1, n, *tail), (c, n, *tail))
    require_shapes(
        op, fits, means=means, quaternions=quaternions, scales=scales, opacities=opacities, world_to_camera=pose,
        intrinsics=lens,
    )  # fmt: skip
    return means, quaternions, scales, opacities, pose, lens


def _color_inputs(op: str, *inputs: Tensor) -> list[Tensor]:
    """The tensors as kernels take them, their shapes checked."""
    means, coefficients, centers = (_ready(tensor) for tensor in inputs)
    c, n, k = len(centers), means.shape[1] if means.ndim == 3 else -1, coefficients.shape[-2]
    fits = centers.shape == (c, 3) and means.shape in ((1, n, 3), (c, n, 3)) and k in (1, 4, 9, 16)
    fits = fits and coefficients.shape in ((1, n, k, 3), (c, n, k, 3))
    require_shapes(op, fits, means=means, coefficients=coefficients, centers=centers)
    _require_kernel(op, means, coefficients, centers)
    return [means, coefficients, centers]


@torch.library.custom_op("headfields::splat_colors", mutates_args=())
def _colors(means: Tensor, coefficients: Tensor, centers: Tensor) -> Tensor:
    """Colors (C, N, 3) of (1 or C, N, K, 3) harmonics in the directions from the centers (C, 3) of cameras."""
    inputs = _color_inputs("splat_colors", means, coefficients, centers)
    if not use_native(means):
        return _rasterize_warp.colors(*inputs)
    out = means.new_empty(len(centers), means.shape[1], 3)
    native.splat_colors(*inputs, out, torch.get_num_threads())
    return out


@torch.library.custom_op("headfields::splat_colors_backward", mutates_args=())
def _colors_backward(
    grad: Tensor, means: Tensor, coefficients: Tensor, centers: Tensor, of_centers: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the three tensors for that of the colors; that of the centers is empty unless asked for."""
    inputs = _color_inputs("splat_colors_backward", means, coefficients, centers)
    shape = (len(centers), means.shape[1], 3)
    require_shapes("splat_colors_backward", grad.shape == shape, grad=grad, means=means)
    _require_kernel("splat_colors_backward", grad)
    if not use_native(means):
        means, coefficients, centers = inputs
        return _rasterize_warp.colors_backward(_ready(grad), means, coefficients, centers, of_centers)
    first, second, third = (torch.empty_like(tensor) for tensor in inputs)
    native.splat_colors_backward(_ready(grad), *inputs, first, second, third, torch.get_num_threads())
    return first, second, third if of_centers else third.new_empty(0)


@torch.library.custom_op("headfields::splat_project", mutates_args=())
def _project(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    near: float,
    low_pass: float,
    antialiased: bool,
) -> tuple[Tensor, Tensor]:
    """Rows (C, N, 10) and radii (C, N) of (1 or C, N, ...) Gaussians."""
    inputs = _projected("splat_project", means, quaternions, scales, opacities, world_to_camera, intrinsics)
    options = (height, width, near, low_pass, antialiased)
    if not _has_kernel(means):
        return reference.project(*inputs, *options)
    _require_kernel("splat_project", *inputs)
    if not use_native(means):
        return _rasterize_warp.project(inputs, options)
    c, n = len(world_to_camera), means.shape[1]
    rows, radii = means.new_empty(c, n, reference.ROW), means.new_empty(c, n)
    if native.splat_project(*inputs, *options, rows, radii, torch.get_num_threads()) is not False:
        _check_values(*inputs[1:4])
    return rows, radii


def _project_shapes(means, quaternions, scales, opacities, world_to_camera, *_):
    c, n = world_to_camera.shape[0], means.shape[1]
    return means.new_empty(c, n, reference.ROW), means.new_empty(c, n)


@torch.library.custom_op("headfields::splat_project_backward", mutates_args=())
def _project_backward(
    grad: Tensor,
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    near: float,
    low_pass: float,
    antialiased: bool,
    of_cameras: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the six tensors for that of the rows; those of the cameras are empty unless asked for."""
    inputs = _projected("splat_project_backward", means, quaternions, scales, opacities, world_to_camera, intrinsics)
    shape = (len(world_to_camera), means.shape[1], reference.ROW)
    require_shapes("splat_project_backward", grad.shape == shape, grad=grad, means=means)
    options = (height, width, near, low_pass, antialiased)
    _require_kernel("splat_project_backward", grad, *inputs)
    if not use_native(means):
        return _rasterize_warp.project_backward(_ready(grad), inputs, options, of_cameras)
    first, second, third, fourth, fifth, sixth = (torch.empty_like(tensor) for tensor in inputs)
    gradients = first, second, third, fourth, fifth, sixth
    native.splat_project_backward(_ready(grad), *inputs, *options, *gradients, torch.get_num_threads())
    return gradients if of_cameras else (*gradients[:4], grad.new_empty(0), grad.new_empty(0))


_MOST_SIDE = 1 << 24
"""Of an image, pixels: coordinates in float32 count further ones no longer one by one."""


def _check_rasterize(
    op: str,
    rows: Tensor,
    colors: Tensor,
    means2d_offset: Tensor | None,
    means2d_absgrad: Tensor | None,
    height: int,
    width: int,
) -> None:
    c, n = rows.shape[:2] if rows.ndim == 3 else (-1, -1)
    fits = rows.shape == (c, n, reference.ROW) and colors.ndim == 3 and colors.shape[:2] in ((1, n), (c, n))
    fits = fits and all(x is None or x.shape == (c, n, 2) for x in (means2d_offset, means2d_absgrad))
    require_shapes(op, fits, rows=rows, colors=colors, means2d_offset=means2d_offset, means2d_absgrad=means2d_absgrad)
    if height < 0 or width < 0:
        raise ValueError(f"torch.ops.headfields.{op}: size is {(height, width)}; expected pixels, not negative")
    if max(height, width) > _MOST_SIDE:  # kernels count tiles in 32 bits
        raise ValueError(
            f"torch.ops.headfields.{op}: size is {(height, width)}; expected at most {_MOST_SIDE} pixels a side"
        )


@torch.library.custom_op("headfields::splat_rasterize", mutates_args=())
def _rasterize(
    rows: Tensor,
    colors: Tensor,
    means2d_offset: Tensor | None,
    means2d_absgrad: Tensor | None,
    height: int,
    width: int,
    max_tile_entries: int = 0,
    count_pixels: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Color, transmittance, depth, normal, median depth, where each pixel ended, the pixels of each Gaussian, the
    number of entries of the tiles' lists, where each list starts, and the Gaussians in them. The lists are kept for the
    gradient where `max_tile_entries` gives their size and a kernel makes them, and are empty elsewhere."""
    _check_rasterize("splat_rasterize", rows, colors, means2d_offset, means2d_absgrad, height, width)
    if not _has_kernel(rows):
        every = reference.rasterize(rows, colors, means2d_offset, means2d_absgrad, height, width)
        color, through, depth, normal = (one.clone() for one in every[:4])  # parts of one tensor
        counts = every[6] if count_pixels else every[6].new_empty(0, 0)
        return color, through, depth, normal, *every[4:6], counts, _no_entries(rows), *_no_lists(rows)
    _require_kernel("splat_rasterize", colors, means2d_offset, means2d_absgrad)
    inputs = _ready(rows), _ready(colors), _ready_or_none(means2d_offset)
    if not use_native(rows):
        return _rasterize_warp.rasterize(*inputs, height, width, max_tile_entries, count_pixels)
    out = _empty_images(rows, colors, height, width)
    native.splat_rasterize(*inputs, height, width, *out[:7], torch.get_num_threads())
    out[7].zero_()
    return out if count_pixels else (*out[:6], out[6].new_empty(0, 0), *out[7:])


def _no_entries(rows: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=rows.device)


def _no_lists(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty(0, 0, dtype=torch.int64), rows.new_empty(0, dtype=torch.int32)


def _empty_images(rows: Tensor, colors: Tensor, height: int, width: int) -> _Images:
    c, n, d = rows.shape[0], rows.shape[1], colors.shape[2]
    image = (c, height, width)
    return (
        rows.new_empty(*image, d), rows.new_empty(image), rows.new_empty(image), rows.new_empty(*image, 3),
        rows.new_empty(image), rows.new_empty(image, dtype=torch.int32), rows.new_empty(c, n, dtype=torch.int32),
        rows.new_empty((), dtype=torch.int64), *_no_lists(rows),
    )  # fmt: skip


def _images_shapes(rows, colors, offset, means2d_absgrad, height, width, max_tile_entries=0, count_pixels=True):
    images = _empty_images(rows, colors, height, width)
    images = images if count_pixels else (*images[:6], images[6].new_empty(0, 0), *images[7:])
    if max_tile_entries == 0 or not _has_kernel(rows) or use_native(rows):
        return images
    lists = _rasterize_warp.tiles(height, width) + 1, max_tile_entries
    return *images[:8], images[8].new_empty(rows.shape[0], lists[0]), images[9].new_empty(lists[1])


@torch.library.custom_op("headfields::splat_rasterize_backward", mutates_args=())
def _rasterize_backward(
    to_color: Tensor | None,
    to_through: Tensor | None,
    to_depth: Tensor | None,
    to_normal: Tensor | None,
    rows: Tensor,
    colors: Tensor,
    means2d_offset: Tensor | None,
    means2d_absgrad: Tensor | None,
    light: Tensor,
    last: Tensor,
    starts: Tensor,
    gaussians: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows and colors for those of images, and of `means2d_absgrad` where it is given; from the lists
    of the tiles, which are made again where these are empty."""
    op, (c, n) = "splat_rasterize_backward", rows.shape[:2]
    _check_rasterize(op, rows, colors, means2d_offset, means2d_absgrad, height, width)
    image = (c, height, width)
    grads = {"to_color": to_color, "to_through": to_through, "to_depth": to_depth, "to_normal": to_normal}
    shapes = ((*image, colors.shape[2]), image, image, (*image, 3))
    fits = all(grad is None or grad.shape == shape for grad, shape in zip(grads.values(), shapes, strict=True))
    require_shapes(op, fits and light.shape == image and last.shape == image, **grads, light=light, last=last)
    if starts.numel():
        fits = starts.shape == (c, _rasterize_warp.tiles(height, width) + 1) and gaussians.ndim == 1
        require_shapes(op, fits, starts=starts, gaussians=gaussians)
        check_index(op, "starts", starts, len(gaussians) + 1)
        check_index(op, "gaussians", gaussians, n)
    _require_kernel(op, *grads.values(), rows, colors, means2d_offset, means2d_absgrad, light)
    outer = [_ready_or_none(grad) for grad in grads.values()]
    inputs = _ready(rows), _ready(colors), _ready_or_none(means2d_offset)
    magnitudes = None if means2d_absgrad is None else rows.new_empty(c, n, 2)
    ends = _ready(light), _ready(last).to(torch.int32)
    if use_native(rows):
        if magnitudes is not None:
            magnitudes.zero_()
        to_rows, to_colors = torch.empty_like(inputs[0]), torch.empty_like(inputs[1])
        native.splat_rasterize_backward(
            *outer, *inputs, height, width, *ends, to_rows, to_colors, magnitudes, torch.get_num_threads()
        )
    else:
        to_rows, to_colors = _rasterize_warp.rasterize_backward(
            outer, *inputs, magnitudes, *ends, height, width, _ready(starts), _ready(gaussians)
        )
    return to_rows, to_colors, rows.new_empty(0) if magnitudes is None else magnitudes


def _rasterize_backward_shapes(to_color, to_through, to_depth, to_normal, rows, colors, offset, means2d_absgrad, *_):
    magnitudes = rows.new_empty(0) if means2d_absgrad is None else rows.new_empty(means2d_absgrad.shape)
    return rows.new_empty(rows.shape), colors.new_empty(colors.shape), magnitudes


def _save_projection(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the radii have none


def _projection_derivative(ctx: Any, grad: Tensor | None, _: Any) -> Any:
    inputs = ctx.saved_tensors
    of_cameras = any(ctx.needs_input_grad[4:6])
    if grad is None:
        return (None,) * 11
    if _has_kernel(inputs[0]):
        gradients = _project_backward(grad, *inputs, *ctx.options, of_cameras)
    else:
        gradients = _OneDerivative.apply(reference.project_backward, ctx.options, grad, *inputs)
    return *gradients[:4], *(gradients[4:] if of_cameras else (None, None)), *(None,) * 5


def _save_images(ctx: Any, inputs: Any, output: Any) -> None:
    rows, colors, means2d_offset, means2d_absgrad, *ctx.size = inputs
    ctx.save_for_backward(rows, colors, means2d_offset, means2d_absgrad, output[1], output[5], *output[8:])
    ctx.set_materialize_grads(False)  # an image that the loss does not use costs nothing
    ctx.mark_non_differentiable(*output[4:])


def _images_derivative(ctx: Any, *grads: Tensor | None) -> Any:
    rows, colors, means2d_offset, means2d_absgrad, light, last, *lists = ctx.saved_tensors
    if _has_kernel(rows):
        gradients = _rasterize_backward(
            *grads[:4], rows, colors, means2d_offset, means2d_absgrad, light, last, *lists, *ctx.size[:2]
        )
    else:
        gradients = _OneDerivative.apply(
            reference.rasterize_backward, tuple(ctx.size[:2]), *grads[:4], rows, colors, means2d_offset, means2d_absgrad
        )
    to_rows, to_colors, magnitudes = gradients
    to_screen = None if means2d_offset is None else to_rows[..., :2].clone()
    return to_rows, to_colors, to_screen, None if means2d_absgrad is None else magnitudes, *(None,) * 4


def _no_second_derivative(ctx: Any, *grads: Tensor | None) -> NoReturn:
    raise NotImplementedError(
        "rasterize_gaussians: a second derivative is requested, and the operation has one; project and rasterize of "
        "headfields.ops.reference.rasterize_gaussians have all of them"
    )


class _OneDerivative(torch.autograd.Function):
    """A gradient by the definition, where no kernel has it: as the kernels' it has no derivative, and says so."""

    @staticmethod
    def forward(ctx: Any, function: Any, options: Any, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        gradients: tuple[Tensor, ...] = function(*tensors, *options)
        return gradients

    backward = staticmethod(_no_second_derivative)


def _colors_derivative(ctx: Any, grad: Tensor) -> Any:
    of_centers = ctx.needs_input_grad[2]
    gradients = _colors_backward(grad, *ctx.saved_tensors, of_centers)
    return gradients if of_centers else (*gradients[:2], None)


def _plain_project_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs, options = arguments[:6], arguments[6:11]
    _, pull = torch.func.vjp(lambda *tensors: reference.project(*tensors, *options)[0], *inputs)
    gradients: tuple[Tensor, ...] = pull(grad)
    of_cameras = len(arguments) < 12 or arguments[11]
    return gradients if of_cameras else (*gradients[:4], grad.new_empty(0), grad.new_empty(0))


def _plain_colors_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = torch.func.vjp(reference.harmonic_colors, *arguments[:3])[1](grad)
    of_centers = len(arguments) < 4 or arguments[3]
    return gradients if of_centers else (*gradients[:2], grad.new_empty(0))


def _colors_backward_shapes(grad, means, coefficients, centers, of_centers=True):
    return (
        means.new_empty(means.shape),
        coefficients.new_empty(coefficients.shape),
        (centers.new_empty(centers.shape if of_centers else (0,))),
    )


def _project_backward_shapes(grad, *arguments):
    of_cameras = len(arguments) < 12 or arguments[11]
    shapes = [x.shape if place < 4 or of_cameras else (0,) for place, x in enumerate(arguments[:6])]
    return tuple(x.new_empty(shape) for x, shape in zip(arguments, shapes, strict=False))


register_op(
    _colors, lambda means, coefficients, centers: means.new_empty(centers.shape[0], means.shape[1], 3),
    reference.harmonic_colors, derivative=_colors_derivative,
)  # fmt: skip
register_op(_colors_backward, _colors_backward_shapes, _plain_colors_backward, derivative=_no_second_derivative)


def _plain_rasterize(rows: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *images, counts = reference.rasterize(rows, *arguments[:5])
    counts = counts if len(arguments) < 7 or arguments[6] else counts.new_empty(0, 0)
    return *images, counts, _no_entries(rows), *_no_lists(rows)


register_op(_project, _project_shapes, reference.project, derivative=_projection_derivative, setup=_save_projection)
register_op(
    _project_backward, _project_backward_shapes, _plain_project_backward, derivative=_no_second_derivative,
)  # fmt: skip
register_op(_rasterize, _images_shapes, _plain_rasterize, derivative=_images_derivative, setup=_save_images)
register_op(
    _rasterize_backward, _rasterize_backward_shapes, None, derivative=_no_second_derivative,
    remedy="project and rasterize of headfields.ops.reference.rasterize_gaussians have every derivative",
)  # fmt: skip
