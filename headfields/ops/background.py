"""The color behind an image, as callers give it: a gray, a color or an image, sRGB in [0, 1]."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records.annotated import is_readable
from headfields.records.device_copy import send

__all__ = ["background_pixels", "check_background", "check_ray_background"]


def check_background(op: str, background: Any) -> None:
    """Refuses a background that is no color in [0, 1], as 255 for white is. On CUDA values are not read.

    Args:
        op: class or function, for messages.
        background: a number, or a tensor (or what `torch.as_tensor` takes).

    Raises:
        TypeError: 8-bit integers, or no numbers.
        ValueError: values outside [0, 1], or not finite.
    """
    try:
        color = torch.as_tensor(background)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: background is {background!r}; expected a number, or a tensor or array of sRGB in [0, 1]"
        ) from error
    if color.dtype == torch.uint8:
        raise TypeError(
            f"{op}: background has dtype {color.dtype}; expected sRGB in [0, 1]: divide 8-bit values by 255"
        )
    if not is_readable(color) or not color.numel():
        return
    low, high = (float(value) for value in color.detach().aminmax())
    if not (low >= 0 and high <= 1):
        remedy = ": divide 8-bit values by 255" if 1 < high <= 255 and low >= 0 else ""
        held = f"is {low:g}" if color.numel() == 1 else f"holds {low:g} to {high:g}"
        raise ValueError(f"{op}: background {held}; expected sRGB in [0, 1]{remedy}")


def background_pixels(op: str, background: Any, size: tuple[int, int], device: torch.device) -> Float[Tensor, "n 3"]:
    """The color behind each pixel, (H * W, 3) float32 in row-major order; a gray or a color is not copied per pixel.

    Args:
        op: class or function, for messages.
        background: a gray level, a color (3,), or an image (H, W, 3).
        size: (H, W) in pixels.
        device: device of the result.

    Raises:
        TypeError, ValueError: as `check_background`; or another shape.

    >>> from headfields.ops.background import background_pixels
    >>> background_pixels("render", 0.5, (2, 1), torch.device("cpu")).tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """
    check_background(op, background)
    color = send(torch.as_tensor(background, dtype=torch.float32), device)
    if color.numel() == 1 or color.shape == (3,):
        return color.reshape(-1).expand(size[0] * size[1], 3)
    if color.shape != (*size, 3):
        raise ValueError(
            f"{op}: background has shape {tuple(color.shape)}; expected a gray, a color (3,), or an image "
            f"({size[0]}, {size[1]}, 3) of the camera's size"
        )
    return color.reshape(-1, 3)


def check_ray_background(op: str, background: Tensor, rays: int) -> None:
    """Refuses a background of N rays that is not one color per ray, or one for all.

    Raises:
        TypeError: it is no floating-point tensor.
        ValueError: another shape.
    """
    if not isinstance(background, Tensor) or not background.is_floating_point():
        kind = background.dtype if isinstance(background, Tensor) else type(background).__name__
        raise TypeError(f"{op}: background is of {kind}; expected a float32 tensor ({rays}, 3), sRGB in [0, 1]")
    if background.shape not in ((rays, 3), (3,)):
        raise ValueError(
            f"{op}: background has shape {tuple(background.shape)}; expected ({rays}, 3), a color behind each ray "
            "(an image: reshape(-1, 3))"
        )
