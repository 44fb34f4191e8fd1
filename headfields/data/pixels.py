"""Pixels of a capture as training batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.records import Camera, PixelBatch, Rays

if TYPE_CHECKING:
    from headfields.data.capture import Capture


def sample_pixels(
    capture: "Capture",
    frames: Sequence[int],
    count: int,
    generator: torch.Generator,
    background: Literal["random", "white", "black"] = "random",
) -> PixelBatch:
    """`count` pixels drawn uniformly, with replacement, over the given frames.

    Args:
        capture: where the pixels come from.
        frames: frame indices; `rays.frame` of the batch indexes this list.
        count: number of pixels; 0 is legal.
        generator: a CPU generator; the same state gives the same batch.
        background: one colour behind every pixel, or (`"random"`) a colour of its own for each, uniform in [0, 1].

    Raises:
        ValueError: no frames, a negative count or an unknown background.
    """
    if count < 0 or (count and not frames):
        raise ValueError(
            f"sample_pixels: cannot draw {count} pixels from {len(frames)} frames; count >= 0 and frames not empty"
        )
    if background not in ("random", "white", "black"):
        raise ValueError(f"sample_pixels: background is {background!r}; expected 'random', 'white' or 'black'")
    height, width = capture.size
    frame = torch.randint(max(len(frames), 1), (count,), generator=generator)
    pixel = torch.randint(height * width, (count,), generator=generator)
    if background == "random":
        behind = torch.rand(count, 3, generator=generator)
    else:
        behind = torch.full((count, 3), float(background == "white"))
    return _batch(capture, frames, frame, pixel, behind)


def frame_pixels(capture: "Capture", frame: int, background: float | int = 1.0) -> PixelBatch:
    """Every pixel of one frame in row-major order, over a grey `background` in [0, 1]."""
    count = capture.size[0] * capture.size[1]
    return _batch(
        capture,
        [frame],
        torch.zeros(count, dtype=torch.long),
        torch.arange(count),
        torch.full((count, 3), float(background)),
    )


def camera_rays(
    camera: Camera, pixels: Int[Tensor, "n 2"], frame: Int[Tensor, " n"]
) -> tuple[Rays, Float[Tensor, " n"]]:
    """Rays through (row, column) pixel centres, and the length of ray per unit of depth along the optical axis."""
    rays = camera.rays(pixels, frame)
    axis = camera.world_to_camera[:, 2, :3]
    return rays, 1 / (rays.directions * axis[frame]).sum(dim=-1)


def _batch(capture: "Capture", frames: Sequence[int], frame: Tensor, pixel: Tensor, background: Tensor) -> PixelBatch:
    width = capture.size[1]
    raw = capture.gather_pixels(frames, frame, pixel)
    rgba = raw["rgba"].view(torch.uint8).reshape(-1, 4).float() / 255
    place = torch.stack([torch.div(pixel, width, rounding_mode="floor"), pixel % width], dim=-1)
    rays, scale = camera_rays(capture.camera(list(frames)), place, frame)
    return PixelBatch(
        rays=rays,
        rgb=rgba[:, :3].contiguous(),
        alpha=rgba[:, 3].contiguous(),
        background=background,
        label=raw["label"].long() if "label" in raw else None,
        depth=capture.metres(raw["depth"]) if "depth" in raw else None,
        depth_scale=scale,
    )
