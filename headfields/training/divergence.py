"""When training has diverged: the rule by which `Trainer.fit` says so.

A learning rate that is far too high gives no NaN, only an avatar that is worse than none. Training has diverged if,
after 40 steps or more, the training PSNR smoothed over the last ones

- is more than 5 dB below the best it has been, or
- is more than 1 dB below the first step's, before any update, and less than 3 dB above that of a single color, the mean
  of all pixels. (An avatar that was trained before begins far above.)

Short runs at usable rates stay clear of both: their first steps gain tenths of a decibel.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from headfields.metrics.image import decibels

__all__ = ["divergence", "single_color_psnr"]

_LEAST_STEPS = 40
_FALL = 5.0
_BELOW_START = 1.0
_ABOVE_COLOR = 3.0


def divergence(steps: int, start: float, best: float, end: float, single_color: Callable[[], float]) -> str | None:
    """What shows that a run of `steps` steps has diverged; None if nothing does.

    Args:
        steps: number of steps in all.
        start: PSNR of the first step, dB.
        best, end: largest and last smoothed PSNR, dB.
        single_color: computes the PSNR of one color, called only if the rest of the rule is met.

    >>> from headfields.training.divergence import divergence
    >>> divergence(100, start=13.0, best=17.2, end=11.6, single_color=lambda: 11.5)
    'its training PSNR is 11.6 dB, and was 17.2 dB'
    >>> divergence(100, start=13.0, best=13.3, end=12.4, single_color=lambda: 11.5) is None
    True
    """
    if steps < _LEAST_STEPS or not math.isfinite(end):
        return None
    if best - end > _FALL:
        return f"its training PSNR is {end:.1f} dB, and was {best:.1f} dB"
    if start - end > _BELOW_START and end < single_color() + _ABOVE_COLOR:
        return f"its training PSNR is {end:.1f} dB, and was {start:.1f} dB before training"
    return None


def single_color_psnr(capture: Any, frames: Int64[Tensor, " f"], background: Any) -> float:
    """PSNR in dB of the best single color for random pixels of the training frames: of their variance."""
    generator = torch.Generator().manual_seed(0)
    some = frames[torch.linspace(0, len(frames) - 1, min(len(frames), 16)).long()]
    batch, _ = capture.sample_pixels(some, 4096, generator, background=background)
    return decibels(float(batch.target.var(dim=0, correction=0).mean()), most=120.0)
