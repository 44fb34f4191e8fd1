"""Pixels of a recording: how they are stored, drawn at random, and made into training batches."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.data.frame_cache import FrameCache
from headfields.data.labels import label_lookup
from headfields.data.recording import Recording
from headfields.records import Camera, ImageBatch, PixelBatch

__all__ = [
    "decode_pixels",
    "draw_images",
    "draw_patches",
    "draw_pixels",
    "is_depth",
    "meters",
    "pixel_batch",
    "pixel_layout",
    "straight_rgba",
]

_NO_DEPTH = 0xFFFF
_ROUNDS = 64
"""Rounds of rejection sampling, at most; with a hundredth of the pixels accepted, eight are enough."""


def pixel_layout(recording: Recording) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of a frame's stored pixels by name, for `FrameCache`: see `decode_pixels`."""
    count = recording.size[0] * recording.size[1]
    layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"rgba": ((count,), torch.int32)}
    if recording.has_label:
        layout["label"] = ((count,), torch.uint8)
    if recording.has_depth:
        layout["depth"] = ((count,), torch.int16)
    return layout


def decode_pixels(recording: Recording, frame: int) -> dict[str, np.ndarray]:
    """A frame's pixels as stored, in row-major order: RGBA packed in int32, label, depth (uint16 bits in int16).

    Labels are 0 and depths `is_depth` denies in a frame that lacks them; both are absent if the recording has none.

    Raises:
        CaptureError: a file cannot be read.
    """
    rgba, label, depth = recording.decode_image(frame)
    arrays = {"rgba": np.ascontiguousarray(rgba).view(np.int32).reshape(-1)}
    if recording.has_label:
        arrays["label"] = np.zeros(arrays["rgba"].shape, np.uint8) if label is None else label.reshape(-1)
    if recording.has_depth:
        stored = np.full(arrays["rgba"].shape, _NO_DEPTH, np.uint16) if depth is None else depth.reshape(-1)
        arrays["depth"] = stored.view(np.int16)
    return arrays


def straight_rgba(packed: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
    """Color and straight alpha in [0, 1] of packed pixels (N,) int32."""
    return packed.view(torch.uint8).reshape(-1, 4).float() / 255


def is_depth(stored: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Where stored depth (uint16 bits in int16) is a value of a depth map; the largest uint16 is none."""
    return (stored.int() & 0xFFFF) != _NO_DEPTH


def meters(stored: Int[Tensor, "*shape"], unit: float) -> Float[Tensor, "*shape"]:
    """Depth in meters of stored depth (uint16 bits in int16), at `unit` meters per step."""
    return (stored.int() & 0xFFFF).float() * unit


def draw_pixels(
    images: FrameCache,
    frames: Sequence[int],
    size: tuple[int, int],
    count: int,
    generator: torch.Generator,
    background: Literal["random", "white", "black"] = "random",
    weights: Mapping[int | str, float | int] | None = None,
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Pixels drawn with replacement over frames, uniformly or by their labels, and a background color for each.

    Args:
        images: the frames' stored pixels.
        frames: (B,) frame indices.
        size: (height, width) of a frame.
        count: N; 0 is legal.
        generator: a CPU generator; the same state gives the same pixels.
        background: `"random"` draws a color uniform in [0, 1] for each pixel.
        weights: sampling weights of pixels by label or region, relative to 1 for all others; see
            `headfields.data.labels.label_lookup`.

    Returns:
        Rows (N,) of `frames`, row-major pixel indices (N,) and background colors (N, 3).

    Raises:
        ValueError: no frames, a negative count or an unknown background; with weights, the frames have no labels, there
            is no such label or region, or no pixel of these frames has a weight.
    """
    if count < 0 or (count and not frames):
        raise ValueError(
            f"sample_pixels: cannot draw {count} pixels from {len(frames)} frames; count >= 0 and frames not empty"
        )
    if background not in ("random", "white", "black"):
        raise ValueError(f"sample_pixels: background is {background!r}; expected 'random', 'white' or 'black'")
    if weights:
        row, pixel = _draw_by_label(images, frames, size[0] * size[1], count, generator, label_lookup(weights))
    else:
        row = torch.randint(max(len(frames), 1), (count,), generator=generator)
        pixel = torch.randint(size[0] * size[1], (count,), generator=generator)
    if background == "random":
        return row, pixel, torch.rand(count, 3, generator=generator)
    return row, pixel, torch.full((count, 3), float(background == "white"))


def draw_images(
    images: FrameCache,
    frames: Sequence[int],
    camera: Camera,
    generator: torch.Generator,
    background: Literal["random", "white", "black"] = "random",
) -> ImageBatch:
    """Whole frames, and a background color for each.

    Args:
        images: the frames' stored pixels.
        frames: (B,) frame indices.
        camera: their B cameras.
        generator: a CPU generator; the same state gives the same colors.
        background: `"random"` draws a color uniform in [0, 1] for each image.

    Raises:
        ValueError: no frames, or an unknown background.
    """
    if not frames:
        raise ValueError("sample_images: frames is empty; name one or more")
    if background not in ("random", "white", "black"):
        raise ValueError(f"sample_images: background is {background!r}; expected 'random', 'white' or 'black'")
    stored = images.rows(frames)
    shape = (len(frames), *camera.size)
    rgba = straight_rgba(stored["rgba"].reshape(-1)).reshape(*shape, 4)
    if background == "random":
        color = torch.rand(len(frames), 3, generator=generator)
    else:
        color = torch.full((len(frames), 3), float(background == "white"))
    label = stored["label"].reshape(shape) if "label" in stored else None
    return ImageBatch(camera, rgba[..., :3], rgba[..., 3], color, label)


def draw_patches(
    images: FrameCache,
    frames: Sequence[int],
    size: tuple[int, int],
    count: int,
    side: int,
    generator: torch.Generator,
    background: Literal["random", "white", "black"] = "random",
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Square patches, each of a random frame around a random pixel of its foreground, and a color behind each patch.

    A patch whose pixel is near the border is moved into the image. In a frame without foreground any pixel will do.

    Args:
        images: the frames' stored pixels.
        frames: (B,) frame indices.
        size: (height, width) of a frame.
        count: P, number of patches; 0 is legal.
        side: S, their side in pixels.
        generator: a CPU generator; the same state gives the same patches.
        background: `"random"` draws a color uniform in [0, 1] for each patch.

    Returns:
        Rows (P S S,) of `frames`, row-major pixel indices (P S S,) and background colors (P S S, 3), patch by patch.

    Raises:
        ValueError: no frames, a negative count, a side that is not positive or larger than the image, or an unknown
            background.
    """
    if count < 0 or (count and not frames):
        raise ValueError(
            f"sample_patches: cannot draw {count} patches from {len(frames)} frames; count >= 0 and frames not empty"
        )
    if not 1 <= side <= min(size):
        raise ValueError(f"sample_patches: side is {side}; expected 1 to {min(size)}, as images are {size}")
    if background not in ("random", "white", "black"):
        raise ValueError(f"sample_patches: background is {background!r}; expected 'random', 'white' or 'black'")
    height, width = size
    row = torch.randint(max(len(frames), 1), (count,), generator=generator)
    place = torch.rand(count, generator=generator, dtype=torch.float64)
    pixels = torch.zeros(count, side, side, dtype=torch.long)
    for patch in range(count):
        foreground = (straight_rgba(images.rows([frames[int(row[patch])]])["rgba"][0])[:, 3] > 0.5).nonzero()[:, 0]
        choice = int(place[patch] * (len(foreground) or height * width))
        center = int(foreground[choice]) if len(foreground) else choice
        top = min(max(center // width - side // 2, 0), height - side)
        left = min(max(center % width - side // 2, 0), width - side)
        pixels[patch] = (torch.arange(side)[:, None] + top) * width + torch.arange(side) + left
    if background == "random":
        color = torch.rand(count, 3, generator=generator)
    else:
        color = torch.full((count, 3), float(background == "white"))
    return row.repeat_interleave(side**2), pixels.reshape(-1), color.repeat_interleave(side**2, dim=0)


def _draw_by_label(
    images: FrameCache,
    frames: Sequence[int],
    pixels: int,
    count: int,
    generator: torch.Generator,
    lookup: Float[Tensor, "256"],
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and pixels exactly in proportion to the weights of their labels, by rejection of uniform draws."""
    if "label" not in images:
        raise ValueError("sample_pixels: weights are by label, and the capture has no segmentation labels")
    acceptance = lookup / lookup.max().clamp_min(1e-12)
    accepted: list[tuple[Tensor, Tensor]] = []
    total, rate = 0, 1.0
    for _ in range(_ROUNDS):
        if total >= count:
            break
        draw = int(min(1.1 * (count - total) / rate + 64, 16 * count + 64))
        row = torch.randint(len(frames), (draw,), generator=generator)
        pixel = torch.randint(pixels, (draw,), generator=generator)
        label = images.gather(frames, row, pixel)["label"].long()
        accept = torch.rand(draw, generator=generator) < acceptance[label]
        accepted.append((row[accept], pixel[accept]))
        total += int(accept.sum())
        rate = max(int(accept.sum()) / draw, 1e-2)
    if total < count:
        raise ValueError(
            f"sample_pixels: of {_ROUNDS} times {16 * count + 64} pixels drawn only {total} have a label that the "
            f"weights let through, and {count} are needed; raise the weights of these frames' labels"
        )
    if not accepted:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    return torch.cat([row for row, _ in accepted])[:count], torch.cat([pixel for _, pixel in accepted])[:count]


def pixel_batch(
    stored: Mapping[str, Tensor],
    camera: Camera,
    row: Int[Tensor, " n"],
    pixel: Int[Tensor, " n"],
    background: Float[Tensor, "n 3"],
    depth_unit: float,
) -> PixelBatch:
    """N stored pixels as a batch with their rays.

    Args:
        stored: packed `"rgba"` (N,), and `"label"` and `"depth"` if the recording has them; see `decode_pixels`.
        camera: (B,) cameras.
        row: (N,) the camera of each pixel, which becomes `rays.frame`.
        pixel: (N,) row-major index in the image.
        background: (N, 3) color behind each pixel.
        depth_unit: meters per step of the stored depth.
    """
    rgba = straight_rgba(stored["rgba"])
    width = camera.size[1]
    rays = camera.rays(torch.stack([torch.div(pixel, width, rounding_mode="floor"), pixel % width], dim=-1), row)
    axis = camera.world_to_camera[:, 2, :3]
    return PixelBatch(
        rays=rays,
        rgb=rgba[:, :3].contiguous(),
        alpha=rgba[:, 3].contiguous(),
        background=background,
        label=stored["label"].long() if "label" in stored else None,
        depth=meters(stored["depth"], depth_unit) if "depth" in stored else None,
        depth_scale=1 / (rays.directions * axis[row]).sum(dim=-1),
    )
