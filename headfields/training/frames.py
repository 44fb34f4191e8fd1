"""Frames of a capture: which ones, what the camera saw, and what an avatar makes of them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from headfields.parts import Rendering


def choose_frames(capture: Any, split: str, frames: Sequence[int] | None = None) -> list[int]:
    """Frame indices of a split, or the given ones, checked.

    Raises:
        ValueError: there is no such split, it is empty, or an index is out of range.
    """
    if frames is None:
        if split not in capture.splits:
            raise ValueError(
                f"capture {capture.name!r} has no split {split!r}; it has {', '.join(sorted(capture.splits))}"
            )
        frames = [int(frame) for frame in capture.splits[split]]
        if not frames:
            raise ValueError(f"the split {split!r} of capture {capture.name!r} is empty")
    frames = [int(frame) for frame in frames]
    outside = [frame for frame in frames if not 0 <= frame < len(capture)]
    if outside or not frames:
        raise ValueError(
            f"frames {outside or frames} are not in capture {capture.name!r}, which has frames 0 to {len(capture) - 1}"
        )
    return frames


def draw_frames(
    frames: Int64[Tensor, " f"], weights: Float[Tensor, " f"] | None, count: int, generator: torch.Generator
) -> Int64[Tensor, " n"]:
    """`count` different frames (all, if there are fewer), drawn evenly or in proportion to their weights.

    Frames are drawn one after the other, without putting any back, so that frames with large weights come somewhat less
    often than in proportion; those of weight 0 never.
    """
    if weights is None:
        return frames[torch.randperm(len(frames), generator=generator)[:count]]
    most = min(count, int((weights > 0).sum()))
    return frames[torch.multinomial(weights, most, replacement=False, generator=generator)]


def watched_frame(capture: Any, frames: Int64[Tensor, " f"]) -> int:
    """The first validation frame, or the nearest thing to one."""
    splits = capture.splits
    return int(next((splits[name][0] for name in ("val", "test") if len(splits.get(name, ()))), frames[0]))


def render_frame(avatar: Any, capture: Any, frame: int, background: float | int, device: torch.device) -> Rendering:
    """The avatar in one frame's state, from its camera: a `Rendering` of (H, W)."""
    index = torch.tensor([frame])
    return avatar.render(capture.camera(index).to(device)[0], capture.state(index).to(device), background)


def truth_of(
    capture: Any, frame: int, background: float | int, device: torch.device
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """A frame's image over a gray background, (H, W, 3), and its matte (H, W)."""
    image = capture.image(frame).to(device)
    alpha = image[..., 3]
    return image[..., :3] * alpha[..., None] + background * (1 - alpha[..., None]), alpha


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters (the CPU if it has none)."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
