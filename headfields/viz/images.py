"""Images: conversion to 8 bits, saving, captions, rows of images, and normal maps."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from headfields.files.atomic import write_image
from headfields.parts import Rendering
from headfields.records import Camera
from headfields.records.opengl_axes import flip_y_z

CAPTION_HEIGHT = 18


Picture = Float[Tensor, "h w *c"] | UInt8[Tensor, "h w *c"] | UInt8[np.ndarray, "h w *c"]


def to_uint8(image: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an image (H, W), (H, W, 1), (H, W, 3) or straight-alpha (H, W, 4), over white, to (H, W, 3) of 8 bits.

    Floats are sRGB in [0, 1], clipped and rounded; NaN becomes magenta. Not differentiable.

    Raises:
        ValueError: another shape.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"to_uint8: image has shape {tuple(image.shape)}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    pixels = torch.as_tensor(image).detach().cpu()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    broken = pixels.isnan().any(dim=-1)
    if pixels.shape[-1] == 4:
        pixels = pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:])
    pixels = pixels.expand(*pixels.shape[:2], 3).clone()
    pixels[broken] = torch.tensor([1.0, 0.0, 1.0])
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def save_image(path: Path | str, image: Picture) -> Path:
    """Writes an image in the format of the file's ending.

    Floats are sRGB in [0, 1], clipped and rounded; NaN becomes magenta.

    Args:
        path: the file; its folder is made. `.jpg` composites four channels over white, other endings keep alpha.
        image: (H, W), (H, W, 1), (H, W, 3) or straight-alpha (H, W, 4), floats or 8 bits.

    Returns:
        The path.

    Raises:
        ValueError: another shape.
    """
    path = Path(path)
    if image.ndim == 3 and image.shape[2] == 4 and path.suffix.lower() not in (".jpg", ".jpeg"):
        color = to_uint8(image[..., :3])
        alpha = to_uint8(image[..., 3])[..., :1]
        return write_image(path, np.concatenate([color, alpha], axis=-1))
    return write_image(path, to_uint8(image))


def encoded(image: Picture, kind: str = "png", quality: int = 90) -> bytes:
    """The bytes of an image file, for a notebook or a browser.

    Args:
        image: as for `to_uint8`.
        kind: a format of Pillow: png, jpeg, webp.
        quality: of formats with loss, to 100.
    """
    file = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(file, kind, **({} if kind == "png" else {"quality": quality}))
    return file.getvalue()


def side_by_side(
    images: Sequence[Float[Tensor, "_ _ ..."] | UInt8[Tensor, "_ _ ..."]], captions: Sequence[str] = ()
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Places images in a row, aligned at the top on white, with a caption above each.

    Args:
        images: any number, of any sizes; (H, W), (H, W, 1), (H, W, 3) or straight-alpha (H, W, 4), floats or 8 bits.
        captions: one for each image, or none.

    Returns:
        (H, W, 3) of 8 bits; (0, 0, 3) for no images.

    Raises:
        ValueError: captions and images differ in number.

    >>> import torch, headfields as hf
    >>> hf.viz.side_by_side([torch.rand(48, 64, 3), torch.rand(32, 32)]).shape
    (48, 96, 3)
    """
    if captions and len(captions) != len(images):
        raise ValueError(f"side_by_side: {len(captions)} captions for {len(images)} images; pass one each, or none")
    tiles = [to_uint8(image) for image in images]
    if captions:
        tiles = [captioned(tile, caption) for tile, caption in zip(tiles, captions, strict=True)]
    height = max((tile.shape[0] for tile in tiles), default=0)
    padded = [np.pad(tile, ((0, height - tile.shape[0]), (0, 0), (0, 0)), constant_values=255) for tile in tiles]
    return np.concatenate(padded, axis=1) if padded else np.empty((0, 0, 3), np.uint8)


def normal_map(rendering: Rendering, camera: Camera) -> Float[Tensor, "h w 3"]:
    """The normals of a rendered image as colors over white: red is right, green up, blue toward the camera.

    Args:
        rendering: result of `Avatar.render`, with a `normal` in posed space.
        camera: the camera of the rendering.

    Returns:
        (H, W, 3) in [0, 1]; not differentiable.

    Raises:
        ValueError: the rendering has no normals.
    """
    if rendering.normal is None:
        raise ValueError("normal_map: the rendering has no normals; use SurfaceRenderer")
    local = rendering.normal.detach() @ camera.world_to_camera.reshape(4, 4)[:3, :3].T
    local = flip_y_z(torch.nn.functional.normalize(local, dim=-1))
    opacity = rendering.opacity.detach()[..., None]
    return ((0.5 + 0.5 * local) * opacity + 1 - opacity).clamp(0, 1)


def captioned(tile: UInt8[np.ndarray, "h w 3"], caption: str) -> UInt8[np.ndarray, "h2 w 3"]:
    """The tile below a white strip with its caption, cut off at the tile's width."""
    strip = Image.new("RGB", (tile.shape[1], CAPTION_HEIGHT), "white")
    ImageDraw.Draw(strip).text((3, 3), caption, fill="black", font=ImageFont.load_default())
    return np.concatenate([np.asarray(strip), tile], axis=0)
