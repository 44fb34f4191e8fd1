"""Images of a lens with distortion, as a pinhole camera of the same intrinsics would have taken them."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device
from headfields.ops.texture import sample_texture
from headfields.records import Camera
from headfields.records.inverse import inverse_intrinsics
from headfields.records.lens import distort, undistort
from headfields.records.precision import full_precision

__all__ = ["distorted_pixels", "undistort_image", "undistort_pixels"]


def distorted_pixels(camera: Camera) -> Float[Tensor, "h w 2"]:
    """For each pixel's center of the undistorted image, its place in the distorted one: x and y in pixels.

    Args:
        camera: one camera with distortion.

    Raises:
        ValueError: it is a batch, or has no distortion.

    Differentiable to second order in intrinsics and distortion.
    """
    lens, intrinsics = _one("distorted_pixels", camera)
    height, width = camera.size
    device, dtype = intrinsics.device, intrinsics.dtype
    grid = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    center = torch.stack([grid[1], grid[0]], dim=-1).to(dtype) + 0.5
    return _to_pixels(distort(_directions(center, intrinsics), lens), intrinsics)


def undistort_pixels(pixels: Float[Tensor, "*batch 2"], camera: Camera) -> Float[Tensor, "*batch 2"]:
    """Places in a distorted image, landmarks say, to places in the undistorted one; NaN stays, and is the result where
    the distortion has no inverse.

    Args:
        pixels: (..., 2) x and y in pixels.
        camera: one camera with distortion.

    Raises:
        TypeError: pixels is not a floating-point tensor.
        ValueError: the camera is a batch, or has no distortion.

    Differentiable to second order in pixels, intrinsics and distortion.
    """
    check_floating("undistort_pixels", "pixels", pixels)
    lens, intrinsics = _one("undistort_pixels", camera)
    directions, valid = undistort(_directions(pixels.to(intrinsics), intrinsics)[..., :2], lens)
    plane = directions[..., :2] / directions[..., 2:]
    return torch.where((valid & (directions[..., 2] > 0))[..., None], _to_pixels(plane, intrinsics), torch.nan)


def undistort_image(
    image: Float[Tensor, "h w c"], camera: Camera, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Float[Tensor, "h w c"]:
    """The image without its lens distortion, sampled at the same intrinsics and size; 0 beyond the image's border.

    The result belongs to `camera.replace(distortion=None)`. Colors with straight alpha are multiplied by it before, and
    divided after, or the color under transparent pixels bleeds in.

    Args:
        image: (H, W, C) of the camera's size.
        camera: one camera with distortion.
        mode: `"nearest"` for labels and depth.

    Raises:
        TypeError, ValueError: a dtype, shape or mode does not fit; the camera is a batch, or has no distortion.

    Differentiable to any order in the image, and with `"bilinear"` to second order in intrinsics and distortion.

    >>> import torch, headfields as hf
    >>> lens = torch.tensor([-0.2, 0.05, 0.0, 0.0, 0.0])
    >>> camera = hf.Camera.look_at((0, 0, 1.0), (0, 0, 0), size=(32, 32), fov=40).replace(distortion=lens)
    >>> hf.ops.undistort.undistort_image(torch.ones(32, 32, 3), camera)[16, 16].tolist()
    [1.0, 1.0, 1.0]
    """
    op = "undistort_image"
    check_floating(op, "image", image)
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"{op}: mode is {mode!r}; expected 'bilinear' or 'nearest'")
    if image.ndim != 3 or tuple(image.shape[:2]) != camera.size:
        raise ValueError(f"{op}: image has shape {tuple(image.shape)}; expected (H, W, C) of size {camera.size}")
    check_same_device(op, image=image, camera=camera.intrinsics)
    pixels = distorted_pixels(camera).to(image)
    height, width = camera.size
    x, y = pixels.unbind(-1)
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None]
    # Places that are not finite are outside; they must not reach the sampling, or its gradient.
    pixels = torch.where(inside, pixels, 0.0)
    if mode == "nearest":
        column, row = pixels.detach().long().unbind(-1)
        return torch.where(inside, image[row, column] if image.numel() else image, 0.0)
    uv = torch.stack([pixels[..., 0] / max(width, 1), 1 - pixels[..., 1] / max(height, 1)], dim=-1)
    return torch.where(inside, sample_texture(image, uv), 0.0) if image.numel() else image


def _one(op: str, camera: Camera) -> tuple[Float[Tensor, " c"], Float[Tensor, "3 3"]]:
    """Coefficients and intrinsics of one camera."""
    if camera.distortion is None:
        raise ValueError(f"{op}: camera has no distortion; its images are undistorted")
    if camera.world_to_camera.reshape(-1, 4, 4).shape[0] != 1:
        raise ValueError(f"{op}: camera is a batch of {len(camera)}; pass one, camera[0]")
    return camera.distortion.reshape(-1).to(camera.intrinsics), camera.intrinsics.reshape(3, 3)


def _directions(pixels: Float[Tensor, "*b 2"], intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "*b 3"]:
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    with full_precision(intrinsics):
        return homogeneous @ inverse_intrinsics(intrinsics).T


def _to_pixels(plane: Float[Tensor, "*b 2"], intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "*b 2"]:
    with full_precision(intrinsics):
        return plane @ intrinsics[:2, :2].T + intrinsics[:2, 2]
