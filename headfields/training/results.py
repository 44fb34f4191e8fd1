"""What training reports: the outcome of a step, and that of a call of `Trainer.fit`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headfields.metrics.image import decibels

__all__ = ["FitResult", "StepOutcome"]


@dataclass(frozen=True)
class FitResult:
    """The outcome of a call of `Trainer.fit`.

    Attributes:
        step: optimizer steps taken in all.
        seconds: wall time of training in all, over resumptions.
        psnr: training PSNR in dB, smoothed over the last steps; NaN before the first.
        rays_per_second: mean rate over this call.
        interrupted: True if Ctrl-C (or SIGTERM) ended it.
        skipped: steps, of those in all, that were skipped because a loss or gradient was not finite.
        skipped_frames: how many of them drew each frame, by its index.
        stopped: the reason given to `Trainer.stop` that ended it early, else None.
        diverged: what shows that training has diverged (see `headfields.training.divergence`), else None; a warning
            says it too.
    """

    step: int
    seconds: float
    psnr: float
    rays_per_second: float
    interrupted: bool
    skipped: int = 0
    skipped_frames: Mapping[int, int] = field(default_factory=dict)
    stopped: str | None = None
    diverged: str | None = None


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step over the rays of all processes: the same on each.

    Attributes:
        terms: weighted losses by name.
        mean_squared_error: mean squared error of the color.
        rays: number of rays.
        seconds: wall time of training until the step began, on process 0.
        interrupted: whether any process was interrupted.
        not_finite: the losses or gradients that are not finite; empty if the step was taken.
        stopped: whether `Trainer.stop` was called on any process before the step.
        rendering: the `headfields.Rendering` of this process's share, for callbacks; its gradients are computed.
    """

    terms: dict[str, float]
    mean_squared_error: float
    rays: int
    seconds: float
    interrupted: bool
    not_finite: str = ""
    stopped: bool = False
    rendering: Any = None

    @property
    def loss(self) -> float:
        """The sum of the terms: what the step minimized."""
        return math.fsum(self.terms.values())

    @property
    def psnr(self) -> float:
        """PSNR of the step's rays in dB, at most 120."""
        return decibels(self.mean_squared_error, most=120.0)
