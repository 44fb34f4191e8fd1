"""Differentiable rasterization of 3D Gaussians (3DGS): colors, opacity, depth and normals of posed Gaussians in one or
several cameras."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device
from headfields.ops.reference import splat as reference
from headfields.ops.spherical_harmonics import spherical_harmonics
from headfields.precision import full_precision
from headfields.record_base import Record
from headfields.records import Camera


@dataclass(frozen=True)
class Splatted(Record):
    """Images of Gaussians in C cameras; the result of `splat`.

    Attributes:
        color: (C, H, W, D) over the background, or over 0.
        opacity: (C, H, W) in [0, 1].
        depth: (C, H, W) expected depth along the optical axis, meters, weighted by opacity (divide to normalize).
        median_depth: (C, H, W) depth of the Gaussian behind which at most half of the light is left, meters; 0 where
            more than half is left behind all. No gradient.
        normal: (C, H, W, 3) expected normal in world space, weighted by opacity (normalize for a direction). That of a
            Gaussian is its flattest axis, toward the camera.
        radii: (C, N) three standard deviations on screen along the longer axis, low-pass included, pixels (3DGS's
            radius, not rounded); 0 where the Gaussian is not drawn. No gradient.
        counts: (C, N) pixels in which it is drawn.
    """

    color: Float[Tensor, "c h w d"]
    opacity: Float[Tensor, "c h w"]
    depth: Float[Tensor, "c h w"]
    median_depth: Float[Tensor, "c h w"]
    normal: Float[Tensor, "c h w 3"]
    radii: Float[Tensor, "c n"]
    counts: Int[Tensor, "c n"]


def splat(
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
    screen: Float[Tensor, "c n 2"] | None = None,
    screen_absolute: Float[Tensor, "c n 2"] | None = None,
) -> Splatted:
    """Draws N Gaussians in C cameras, blended from front to back in order of depth (ties: of index).

    At a pixel's center p a Gaussian has alpha = min(0.99, opacity · exp(−½ dᵀ Σ⁻¹ d)), d from its projected center to p.
    It is left out where that is below 1/255, and else adds alpha times its color times the light that the ones before
    it let through. Σ is the covariance under the Jacobian of the projection (EWA), plus `low_pass` on the diagonal. The
    box in which a Gaussian is drawn holds every pixel above 1/255 (3DGS cuts at three standard deviations). The kernels
    end a pixel where less than 1e-5 of the light is left, which changes no color in [0, 1] by more; 3DGS stops at 1e-4,
    before the Gaussian that would go below.

    Args:
        means: (N, 3), or (C, N, 3) for Gaussians of their own in each camera, meters, world frame. So for all below.
        quaternions: (N, 4) or (C, N, 4) rotations (w, x, y, z) of any length but zero.
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
        screen: (C, N, 2) is added to the projected centers, pixels. Zeros that require a gradient get that of the
            centers: the signed mean gradient that densification reads.
        screen_absolute: (C, N, 2) whose values are not read. Its "gradient" is the sum over pixels of the magnitudes of
            the centers' gradients (AbsGS, Ye et al. 2024); it is no derivative.

    Returns:
        `Splatted`.

    Differentiable once in all floating-point inputs, the camera's pose and intrinsics among them; a second derivative
    raises, and `headfields.ops.reference.splat` has it. Where alpha is clamped or left out it has no gradient.
    Outside 1.3 times the field of view the Jacobian of the projection is that at the border, and so is its gradient. A
    Gaussian with a value that is not finite is not drawn: its radius is 0, and so are its gradients. A color that is
    not finite reaches the pixels. Computed in float32, or in float64 where an argument is; under autocast in full
    precision.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape does not fit, devices differ, near is not positive, or low_pass negative.

    Source: Kerbl et al. 2023, "3D Gaussian Splatting", sections 4 and 6, and the constants of its rasterizer; Zwicker et
    al. 2002, "EWA Splatting"; Yu et al. 2024, "Mip-Splatting", the 2D Mip filter.

    >>> import torch, headfields as hf
    >>> camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(32, 32), fov=20)
    >>> red = torch.tensor([[1.0, 0, 0]])  # one ball of 2 cm in the middle
    >>> image = hf.ops.splat(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.02),
    ...                      torch.tensor([0.9]), red, camera)
    >>> image.color.shape, round(float(image.depth[0, 16, 16] / image.opacity[0, 16, 16]), 3)
    (torch.Size([1, 32, 32, 3]), 1.0)
    """
    tensors = {"means": means, "quaternions": quaternions, "scales": scales, "opacities": opacities, "colors": colors}
    optional = {"background": background, "screen": screen, "screen_absolute": screen_absolute}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    for name, tensor in tensors.items():
        check_floating("splat", name, tensor)
    if not isinstance(camera, Camera):
        raise TypeError(f"splat: camera is a {type(camera).__name__}; pass a headfields.Camera")
    check_same_device("splat", **tensors, camera=camera.world_to_camera)
    if not near > 0:
        raise ValueError(f"splat: near is {near}; expected a positive number of meters")
    if not low_pass >= 0:
        raise ValueError(f"splat: low_pass is {low_pass}; expected 0 pixels² or more (3DGS: 0.3)")
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
                f"splat: colors has shape {tuple(colors.shape)}; with harmonics expected (N, K, 3) or (C, N, K, 3), "
                "K = 1, 4, 9 or 16"
            )
        trailing["colors"] = colors.shape[-2:]
    each = {name: _batched(name, tensors[name].to(dtype), c, n, tail) for name, tail in trailing.items()}
    for name in ("screen", "screen_absolute"):
        if name in tensors and tensors[name].shape != (c, n, 2):
            raise ValueError(f"splat: {name} has shape {tuple(tensors[name].shape)}; expected ({c}, {n}, 2)")
    d = 3 if harmonics else colors.shape[-1]
    if background is not None and background.shape not in ((d,), (c, height, width, d)):
        raise ValueError(
            f"splat: background has shape {tuple(background.shape)}; expected ({d},), one color, or "
            f"({c}, {height}, {width}, {d}), one for each pixel"
        )
    with full_precision(pose):
        carried = _harmonic_colors(each["means"], each["colors"], pose) if harmonics else each["colors"]
        rows, radii = reference.project(
            each["means"], each["quaternions"], each["scales"], each["opacities"], pose, lens,
            height, width, float(near), float(low_pass), antialiased,
        )  # fmt: skip
        offsets = [None if x is None else x.to(dtype) for x in (screen, screen_absolute)]
        color, through, depth, normal, median, _, counts = reference.rasterize(rows, carried, *offsets, height, width)
        if background is not None:
            color = color + through[..., None] * background.to(dtype)
        return Splatted(color, 1 - through, depth, median.detach(), normal, radii.detach(), counts)


def _batched(name: str, tensor: Tensor, c: int, n: int, tail: tuple[int, ...]) -> Tensor:
    """(1, N, ...) or (C, N, ...)."""
    if tensor.shape == (n, *tail):
        return tensor[None]
    if tensor.shape != (c, n, *tail):
        sizes = "".join(f", {size}" for size in tail)
        raise ValueError(
            f"splat: {name} has shape {tuple(tensor.shape)}; expected ({n}{sizes or ','}), or ({c}, {n}{sizes}) "
            f"for {c} cameras (N = {n} is that of means)"
        )
    return tensor


def _harmonic_colors(means: Tensor, coefficients: Tensor, pose: Tensor) -> Tensor:
    """(C, N, 3) colors of (., N, K, 3) coefficients in the directions from the cameras (3DGS)."""
    bands = reference.harmonic_bands(coefficients.shape[-2])
    center = -(pose[:, :3, :3].mT @ pose[:, :3, 3:]).mT
    away = means - center
    usable = away.isfinite().all(-1, keepdim=True) & (away != 0).any(-1, keepdim=True)  # others are not drawn
    directions = torch.nn.functional.normalize(torch.where(usable, away, 1.0), dim=-1)
    basis = spherical_harmonics(directions, bands)
    return ((basis[..., None, :] @ coefficients)[..., 0, :] + 0.5).clamp_min(0)
