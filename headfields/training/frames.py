"""Frames of a capture: choosing and drawing them, their ground truth, and renderings of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from headfields.data.frame_indices import frame_indices
from headfields.ops.background import check_background
from headfields.parts import Rendering
from headfields.records import Camera, HeadState


def check_avatar_and_capture(owner: str, avatar: Any, capture: Any) -> None:
    """Raises TypeError, in the name of `owner`, unless these are an avatar and a capture: swapped, or a folder."""
    if isinstance(capture, str | Path):
        raise TypeError(
            f"{owner}: capture is the path {str(capture)!r}; pass headfields.data.load_capture(...) of it, or "
            "call headfields.training.train, which takes a folder"
        )
    if not hasattr(capture, "splits"):
        swapped = "; they are swapped: the avatar comes first" if hasattr(avatar, "splits") else ""
        raise TypeError(f"{owner}: capture is {_kind(capture)} and avatar {_kind(avatar)}{swapped or _CAPTURE}")
    if isinstance(avatar, str | Path | type) or hasattr(avatar, "splits"):
        raise TypeError(f"{owner}: avatar is {_kind(avatar)}; pass an avatar, as headfields.load_avatar(...)")


_CAPTURE = "; pass a capture, as headfields.data.load_capture(...)"


def _kind(value: Any) -> str:
    return (
        "None"
        if value is None
        else f"the class {value.__name__}"
        if isinstance(value, type)
        else (f"of type {type(value).__name__}")
    )


def choose_frames(capture: Any, split: str, frames: Sequence[int] | None = None) -> list[int]:
    """Frame indices of a split, or `frames` themselves, checked.

    Raises:
        ValueError: there is no such split, or no frame in it.
        TypeError, IndexError: an index is no integer, or out of range.
    """
    if frames is None:
        if split not in capture.splits:
            raise ValueError(
                f"capture {capture.name!r} has no split {split!r}; it has {', '.join(sorted(capture.splits))}"
            )
        frames = capture.splits[split]
        if not len(frames):
            raise ValueError(f"the split {split!r} of capture {capture.name!r} is empty")
    indices = frame_indices(frames, len(capture), f"capture {capture.name!r}")
    if not indices:
        raise ValueError(f"frames is empty; name one or more of capture {capture.name!r}")
    return indices


def draw_frames(
    frames: Int64[Tensor, " f"], weights: Float[Tensor, " f"] | None, count: int, generator: torch.Generator
) -> Int64[Tensor, " n"]:
    """`count` different frames (all, if there are fewer), drawn uniformly or in proportion to their weights.

    Frames are drawn without replacement, so frames with large weights come somewhat less often than in proportion;
    those of weight 0 never.

    >>> import torch
    >>> from headfields.training.frames import draw_frames
    >>> weights = torch.tensor([0.0, 1.0, 0.0, 1.0])
    >>> draw_frames(torch.arange(10, 14), weights, 3, torch.Generator().manual_seed(0)).sort().values.tolist()
    [11, 13]
    """
    if weights is None:
        return frames[torch.randperm(len(frames), generator=generator)[:count]]
    most = min(count, int((weights > 0).sum()))
    return frames[torch.multinomial(weights, most, replacement=False, generator=generator)]


def training_frame_weights(weights: Any, capture: Any, frames: Int64[Tensor, " f"]) -> Float[Tensor, " f"] | None:
    """The weights of the F training frames, from those of all frames of the capture; None if there are none.

    Raises:
        TypeError: they are no numbers.
        ValueError: there is not one for each frame, one is negative or not finite, or no training frame has one.
    """
    if weights is None:
        return None
    try:
        weights = torch.as_tensor(weights, dtype=torch.double).cpu()
    except (TypeError, ValueError):
        raise TypeError(
            f"Trainer: frame_weights is {weights!r}; expected {len(capture)} numbers, one for each frame of capture "
            f"{capture.name!r}"
        ) from None
    if weights.shape != (len(capture),):
        raise ValueError(
            f"Trainer: frame_weights has shape {tuple(weights.shape)}; expected ({len(capture)},), one for each frame "
            f"of capture {capture.name!r}"
        )
    selected = weights[frames]
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool((selected > 0).any()):
        raise ValueError("Trainer: frame_weights must be finite and not negative, and some training frame's positive")
    return selected


def check_latent_rows(avatar: nn.Module, capture: Any, frames: Int64[Tensor, " f"]) -> None:
    """Raises ValueError unless the avatar's latent tables have a row for each of the frames."""
    for name, table in getattr(avatar, "codes", {}).items():
        if table.by == "frame" and int(frames.max()) >= len(table):
            raise ValueError(
                f"Trainer: the table of the code {name!r} has {len(table)} rows, and frame {int(frames.max())} of "
                f"capture {capture.name!r} is a training frame; build it with count=len(capture), {len(capture)}"
            )


def watched_frame(capture: Any, frames: Int64[Tensor, " f"]) -> int:
    """The frame that training takes pictures of: the first of the split "val", else "test", else of `frames`."""
    splits = capture.splits
    return int(next((splits[name][0] for name in ("val", "test") if len(splits.get(name, ()))), frames[0]))


def view_of(capture: Any, frame: int, device: torch.device) -> tuple[Camera, HeadState]:
    """One frame's camera, and its state."""
    index = torch.tensor([frame])
    return capture.camera(index).to(device)[0], capture.state(index).to(device)


def render_frame(avatar: Any, capture: Any, frame: int, background: float | int, device: torch.device) -> Rendering:
    """Renders the avatar in one frame's state from its camera: a `Rendering` of (H, W)."""
    return avatar.render(*view_of(capture, frame, device), background)


def ground_truth(
    capture: Any, frame: int, background: float | int, device: torch.device
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """A frame's image over a gray background (H, W, 3), and its matte (H, W)."""
    check_background("ground_truth", background)
    image = capture.image(frame).to(device)
    alpha = image[..., 3]
    return image[..., :3] * alpha[..., None] + background * (1 - alpha[..., None]), alpha


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters (the CPU if it has none)."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
