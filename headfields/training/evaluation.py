"""Evaluation of an avatar on held-out frames: metrics, and a comparison image of one frame."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from headfields.metrics import image as metrics
from headfields.records.device_copy import device_named
from headfields.training.frames import (
    check_avatar_and_capture,
    choose_frames,
    device_of,
    ground_truth,
    render_frame,
    view_of,
)
from headfields.training.refinement import refine_frame
from headfields.training.region_scores import RegionMasks, region_scores
from headfields.training.surface_scores import SurfaceScores


def evaluate(
    avatar: Any,
    capture: Any,
    split: str = "test",
    background: float | int = 1.0,
    frames: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    bar: bool = False,
    refine: bool | Mapping[str, Any] = False,
    regions: bool = False,
) -> dict[str, Any]:
    """Renders frames and compares them with the capture, over the same background.

    With `refine` every frame is measured twice: as tracked, and with pose and codes fitted to its own image
    (`refine_frame`). The second metrics use the test image: they measure the avatar's quality when aligned, not its
    prediction, and compare only with metrics measured in the same way.

    Args:
        avatar: the trained avatar.
        capture: the ground truth.
        split: split to evaluate, unless `frames` is given.
        background: gray in [0, 1] behind both images. Figures over different backgrounds do not compare.
        frames: frame indices, instead of the split.
        device: device to run on; that of the avatar's parameters if None.
        bar: show a progress bar on stderr.
        refine: True, or arguments of `refine_frame`, e.g. `{"expression": True}`.
        regions: measure also the regions of the capture's labels (`headfields.training.region_scores.REGIONS`) and the
            eyelids, if it has labels; and errors of `depth` (mm) and `normal` (degrees), and `flicker`
            (`headfields.training.surface_scores`).

    Returns:
        Means over frames of `psnr`, `ssim`, `psnr_head`, `ssim_head` (and `flip`, `flip_head` and `lpips` where their
        packages are installed), the number `frames`, `seconds_per_frame` of rendering alone (not of reading the frame),
        and `per_frame`, a list of the same per frame with its index `frame`. With `regions` also `psnr_mouth`,
        `psnr_eyes` and so on. The score of a region is None for a frame with too few of its pixels, and left out of the
        mean; `headfields.training.region_scores` defines regions and scores. With `refine` also `psnr_refined` and so
        on, the correction of the pose as `refined_degrees` and `refined_mm`, `seconds_refining` per frame, and, if
        anything could not be refined, `refine_left_out`.

    Raises:
        TypeError: `avatar` and `capture` are something else, as swapped ones.
        ValueError: there is no such split or device, or there are no frames in it.
    """
    check_avatar_and_capture("evaluate", avatar, capture)
    indices = choose_frames(capture, split, frames)
    device = device_of(avatar) if device is None else device_named("evaluate", device)
    lpips, flip = metrics.load_lpips(device), metrics.load_flip()
    regions_of, surface = RegionMasks(capture), SurfaceScores(capture)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, None] = {}
    for frame in tqdm(indices, unit="frame", disable=not bar, dynamic_ncols=True):
        view = view_of(capture, frame, device)  # reads the frame's mesh, which is no part of rendering
        started = time.perf_counter()
        rendering = avatar.render(*view, background)
        rendered = rendering.rgb.clamp(0, 1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        truth, alpha = ground_truth(capture, frame, background, device)
        masks = regions_of(frame, alpha, regions)
        row = {"frame": frame, **region_scores(rendered, truth, masks, lpips, flip), "seconds": seconds}
        if regions:
            row |= surface(frame, rendering, truth, masks)
        if refine is not False:
            arguments = {} if refine is True else dict(refine)
            refined = refine_frame(
                avatar, capture, frame, background=background, device=device, psnr_before=row["psnr"], **arguments
            )
            better = region_scores(refined.rendering.rgb.clamp(0, 1), truth, masks, lpips, flip)
            row |= {f"{key}_refined": value for key, value in better.items()}
            row |= {"refined_degrees": refined.rotation, "refined_mm": refined.translation,
                    "seconds_refining": refined.seconds}  # fmt: skip
            left_out |= dict.fromkeys(refined.left_out)
        rows.append(row)
    summary: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        if key not in ("frame", "seconds"):
            values = [row[key] for row in rows if row.get(key) is not None]
            summary[key] = sum(values) / len(values) if values else None
    if left_out:
        summary["refine_left_out"] = list(left_out)
    summary["frames"] = len(rows)
    summary["seconds_per_frame"] = sum(row["seconds"] for row in rows) / len(rows)
    return {**summary, "split": split if frames is None else None, "background": background, "per_frame": rows}


def picture(
    avatar: nn.Module, capture: Any, frame: int, background: float | int = 1.0, device: torch.device | str | None = None
) -> tuple[Float[Tensor, "h w 3"], float]:
    """Ground truth | rendering | error of one frame side by side, (H, 3 W, 3) in [0, 1], and its PSNR in dB.

    The error image is four times the mean absolute difference of the channels.

    Args:
        avatar: the avatar.
        capture: ground truth, camera and state.
        frame: index of the frame.
        background: gray in [0, 1] behind both images.
        device: device to run on; that of the avatar's parameters if None.
    """
    device = device_of(avatar) if device is None else device_named("evaluate", device)
    rendered = render_frame(avatar, capture, frame, background, device).rgb.clamp(0, 1)
    truth, _ = ground_truth(capture, frame, background, device)
    error = (4 * (rendered - truth).abs().mean(-1, keepdim=True)).clamp(0, 1).expand_as(truth)
    psnr = metrics.psnr(rendered, truth)
    return torch.cat([truth, rendered, error], dim=1), math.nan if psnr is None else psnr
