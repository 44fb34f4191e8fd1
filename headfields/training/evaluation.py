"""How good an avatar is on frames that it has not seen, and pictures to see it by."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from headfields import metrics
from headfields.records import Rendering


def evaluate(
    avatar: nn.Module,
    capture: Any,
    split: str = "test",
    background: float | int = 1.0,
    frames: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    bar: bool = False,
) -> dict[str, Any]:
    """Renders frames and compares them with the capture, over the same background.

    Args:
        avatar: the trained avatar.
        capture: the capture to compare with.
        split: which frames, unless `frames` is given.
        background: grey in [0, 1] behind both sides. Part of the metric: figures over different ones do not compare.
        frames: frame indices instead of the split.
        device: where the avatar is; that of its parameters if None.
        bar: show a progress bar on stderr.

    Returns:
        Means over frames of `psnr`, `ssim`, `psnr_masked`, `ssim_masked` (and `lpips` where the package is installed),
        the number `frames`, `seconds_per_frame` of rendering, and `per_frame`, a list of the same per frame with its
        index `frame`. A masked figure is None for a frame without foreground, and left out of the mean.

    Raises:
        ValueError: there is no such split, or there are no frames in it.
    """
    chosen = choose_frames(capture, split, frames)
    device = device_of(avatar) if device is None else torch.device(device)
    perceptual = metrics.load_lpips(device)
    rows: list[dict[str, Any]] = []
    for frame in tqdm(chosen, unit="frame", disable=not bar, dynamic_ncols=True):
        before = time.perf_counter()
        rendering = render_frame(avatar, capture, frame, background, device)
        rendered = rendering.rgb.clamp(0, 1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - before
        truth, alpha = truth_of(capture, frame, background, device)
        mask = alpha > 0.5
        row = {"frame": frame, "psnr": metrics.psnr(rendered, truth), "ssim": metrics.ssim(rendered, truth),
               "psnr_masked": metrics.psnr(rendered, truth, mask), "ssim_masked": metrics.ssim(rendered, truth, mask),
               "seconds": seconds}  # fmt: skip
        if perceptual is not None:
            row["lpips"] = perceptual(rendered, truth)
        rows.append(row)
    summary: dict[str, Any] = {}
    for key in ("psnr", "ssim", "psnr_masked", "ssim_masked", "lpips"):
        values = [row[key] for row in rows if row.get(key) is not None]
        if any(key in row for row in rows):
            summary[key] = sum(values) / len(values) if values else None
    summary["frames"] = len(rows)
    summary["seconds_per_frame"] = sum(row["seconds"] for row in rows) / len(rows)
    return {**summary, "split": split if frames is None else None, "background": background, "per_frame": rows}


def picture(
    avatar: nn.Module, capture: Any, frame: int, background: float | int = 1.0, device: torch.device | str | None = None
) -> tuple[Float[Tensor, "h w 3"], float]:
    """Truth | rendering | error of one frame side by side, (H, 3 W, 3) in [0, 1], and its PSNR in dB.

    The error is four times the mean absolute difference of the channels, dark where it is 0.

    Args:
        avatar: the avatar.
        capture: where truth, camera and state come from.
        frame: index of the frame.
        background: grey in [0, 1] behind both sides.
        device: where the avatar is; that of its parameters if None.
    """
    device = device_of(avatar) if device is None else torch.device(device)
    rendered = render_frame(avatar, capture, frame, background, device).rgb.clamp(0, 1)
    truth, _ = truth_of(capture, frame, background, device)
    error = (4 * (rendered - truth).abs().mean(-1, keepdim=True)).clamp(0, 1).expand_as(truth)
    psnr = metrics.psnr(rendered, truth)
    return torch.cat([truth, rendered, error], dim=1), math.nan if psnr is None else psnr


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


def render_frame(avatar: Any, capture: Any, frame: int, background: float | int, device: torch.device) -> Rendering:
    """The avatar in one frame's state, from its camera: a `Rendering` of (H, W)."""
    index = torch.tensor([frame])
    return avatar.render(capture.camera(index).to(device)[0], capture.state(index).to(device), background)


def truth_of(
    capture: Any, frame: int, background: float | int, device: torch.device
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """A frame's image over a grey background, (H, W, 3), and its matte (H, W)."""
    image = capture.image(frame).to(device)
    alpha = image[..., 3]
    return image[..., :3] * alpha[..., None] + background * (1 - alpha[..., None]), alpha


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters (the CPU if it has none)."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
