"""How good an avatar is on frames that it has not seen, and pictures to see it by."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from headfields.metrics import image as metrics
from headfields.training.frames import choose_frames, device_of, ground_truth, render_frame
from headfields.training.refinement import refine_frame


def evaluate(
    avatar: nn.Module,
    capture: Any,
    split: str = "test",
    background: float | int = 1.0,
    frames: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    bar: bool = False,
    refine: bool | Mapping[str, Any] = False,
) -> dict[str, Any]:
    """Renders frames and compares them with the capture, over the same background.

    With `refine` every frame is measured twice: as tracked, and again with pose and codes fitted to its own image
    (`refine_frame`). The second figures use the test image: they say how good the avatar is where it is aligned, not
    how well it predicts, and compare with nothing but figures found in the same way.

    Args:
        avatar: the trained avatar.
        capture: the capture to compare with.
        split: which frames, unless `frames` is given.
        background: gray in [0, 1] behind both sides. Part of the metric: figures over different ones do not compare.
        frames: frame indices instead of the split.
        device: where the avatar is; that of its parameters if None.
        bar: show a progress bar on stderr.
        refine: True, or options of `refine_frame`, e.g. `{"expression": True}`.

    Returns:
        Means over frames of `psnr`, `ssim`, `psnr_masked`, `ssim_masked` (and `lpips` where the package is installed),
        the number `frames`, `seconds_per_frame` of rendering, and `per_frame`, a list of the same per frame with its
        index `frame`. A masked figure is None for a frame without foreground, and left out of the mean. With `refine`
        also the same as `psnr_refined` and so on, how far the pose moved as `refined_degrees` and `refined_mm`,
        `seconds_refining` a frame, and `refine_left_out`, what could not be refined, if anything.

    Raises:
        ValueError: there is no such split, or there are no frames in it.
    """
    chosen = choose_frames(capture, split, frames)
    device = device_of(avatar) if device is None else torch.device(device)
    perceptual = metrics.load_lpips(device)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, None] = {}
    for frame in tqdm(chosen, unit="frame", disable=not bar, dynamic_ncols=True):
        before = time.perf_counter()
        rendering = render_frame(avatar, capture, frame, background, device)
        rendered = rendering.rgb.clamp(0, 1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - before
        truth, alpha = ground_truth(capture, frame, background, device)
        row = {"frame": frame, **_figures(rendered, truth, alpha > 0.5, perceptual), "seconds": seconds}
        if refine is not False:
            options = {} if refine is True else dict(refine)
            fitted = refine_frame(
                avatar, capture, frame, background=background, device=device, psnr_before=row["psnr"], **options
            )
            figures = _figures(fitted.rendering.rgb.clamp(0, 1), truth, alpha > 0.5, perceptual)
            row |= {f"{key}_refined": value for key, value in figures.items()}
            row |= {"refined_degrees": fitted.rotation, "refined_mm": fitted.translation,
                    "seconds_refining": fitted.seconds}  # fmt: skip
            left_out |= dict.fromkeys(fitted.left_out)
        rows.append(row)
    summary: dict[str, Any] = {}
    for key in rows[0]:
        if key not in ("frame", "seconds"):
            values = [row[key] for row in rows if row[key] is not None]
            summary[key] = sum(values) / len(values) if values else None
    if left_out:
        summary["refine_left_out"] = list(left_out)
    summary["frames"] = len(rows)
    summary["seconds_per_frame"] = sum(row["seconds"] for row in rows) / len(rows)
    return {**summary, "split": split if frames is None else None, "background": background, "per_frame": rows}


def _figures(
    rendered: Float[Tensor, "h w 3"],
    truth: Float[Tensor, "h w 3"],
    mask: Bool[Tensor, "h w"],
    perceptual: Callable[[Tensor, Tensor], float] | None,
) -> dict[str, float | None]:
    figures = {"psnr": metrics.psnr(rendered, truth), "ssim": metrics.ssim(rendered, truth),
               "psnr_masked": metrics.psnr(rendered, truth, mask),
               "ssim_masked": metrics.ssim(rendered, truth, mask)}  # fmt: skip
    return figures if perceptual is None else {**figures, "lpips": perceptual(rendered, truth)}


def picture(
    avatar: nn.Module, capture: Any, frame: int, background: float | int = 1.0, device: torch.device | str | None = None
) -> tuple[Float[Tensor, "h w 3"], float]:
    """Truth | rendering | error of one frame side by side, (H, 3 W, 3) in [0, 1], and its PSNR in dB.

    The error is four times the mean absolute difference of the channels, dark where it is 0.

    Args:
        avatar: the avatar.
        capture: where truth, camera and state come from.
        frame: index of the frame.
        background: gray in [0, 1] behind both sides.
        device: where the avatar is; that of its parameters if None.
    """
    device = device_of(avatar) if device is None else torch.device(device)
    rendered = render_frame(avatar, capture, frame, background, device).rgb.clamp(0, 1)
    truth, _ = ground_truth(capture, frame, background, device)
    error = (4 * (rendered - truth).abs().mean(-1, keepdim=True)).clamp(0, 1).expand_as(truth)
    psnr = metrics.psnr(rendered, truth)
    return torch.cat([truth, rendered, error], dim=1), math.nan if psnr is None else psnr
