"""Pixels of a capture as training batches."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.data.labels import label_lookup
from headfields.records import Camera, PixelBatch, Rays

if TYPE_CHECKING:
    from headfields.data.capture import Capture

_ROUNDS = 64
"""Draws until all pixels are found, at most; with a hundredth of pixels accepted, eight do."""


def sample_pixels(
    capture: "Capture",
    frames: Sequence[int],
    count: int,
    generator: torch.Generator,
    background: Literal["random", "white", "black"] = "random",
    weights: Mapping[int | str, float | int] | None = None,
) -> PixelBatch:
    """`count` pixels drawn with replacement over the given frames, uniformly or by what they show.

    Args:
        capture: where the pixels come from.
        frames: frame indices; `rays.frame` of the batch indexes this list.
        count: number of pixels; 0 is legal.
        generator: a CPU generator; the same state gives the same batch.
        background: one color behind every pixel, or (`"random"`) a color of its own for each, uniform in [0, 1].
        weights: how often pixels of a segmentation label or region are drawn, beside 1 for all others; see
            `headfields.data.REGION_LABELS`.

    Raises:
        ValueError: no frames, a negative count or an unknown background; with weights, the capture has no labels, there
            is no such label or region, or (next to) no pixel of these frames has a weight.
    """
    if count < 0 or (count and not frames):
        raise ValueError(
            f"sample_pixels: cannot draw {count} pixels from {len(frames)} frames; count >= 0 and frames not empty"
        )
    if background not in ("random", "white", "black"):
        raise ValueError(f"sample_pixels: background is {background!r}; expected 'random', 'white' or 'black'")
    height, width = capture.size
    if weights:
        frame, pixel = _by_label(capture, frames, count, generator, label_lookup(weights))
    else:
        frame = torch.randint(max(len(frames), 1), (count,), generator=generator)
        pixel = torch.randint(height * width, (count,), generator=generator)
    if background == "random":
        behind = torch.rand(count, 3, generator=generator)
    else:
        behind = torch.full((count, 3), float(background == "white"))
    return _batch(capture, frames, frame, pixel, behind)


def _by_label(
    capture: "Capture", frames: Sequence[int], count: int, generator: torch.Generator, lookup: Float[Tensor, "256"]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Frames and pixels, exactly in proportion to the weights: uniform ones are drawn, and kept by chance."""
    if not capture.recording.has_label:
        raise ValueError(
            f"sample_pixels: weights are by label, and capture {capture.name!r} has no segmentation labels"
        )
    share = lookup / lookup.max().clamp_min(1e-12)
    pixels = capture.size[0] * capture.size[1]
    kept: list[tuple[Tensor, Tensor]] = []
    found, rate = 0, 1.0
    for _ in range(_ROUNDS):
        if found >= count:
            break
        draw = int(min(1.1 * (count - found) / rate + 64, 16 * count + 64))
        frame = torch.randint(len(frames), (draw,), generator=generator)
        pixel = torch.randint(pixels, (draw,), generator=generator)
        label = capture.gather_pixels(frames, frame, pixel)["label"].long()
        here = torch.rand(draw, generator=generator) < share[label]
        kept.append((frame[here], pixel[here]))
        found += int(here.sum())
        rate = max(int(here.sum()) / draw, 1e-2)
    if found < count:
        raise ValueError(
            f"sample_pixels: of {_ROUNDS} times {16 * count + 64} pixels drawn only {found} have a label that the "
            f"weights let through, and {count} are wanted; give the labels of these frames more weight"
        )
    if not kept:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    return torch.cat([frame for frame, _ in kept])[:count], torch.cat([pixel for _, pixel in kept])[:count]


def frame_pixels(capture: "Capture", frame: int, background: float | int = 1.0) -> PixelBatch:
    """Every pixel of one frame in row-major order, over a gray `background` in [0, 1]."""
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
    """Rays through (row, column) pixel centers, and the length of ray per unit of depth along the optical axis."""
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
        depth=capture.meters(raw["depth"]) if "depth" in raw else None,
        depth_scale=scale,
    )
