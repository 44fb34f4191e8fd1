"""The device's part of a step that the host does not wait for: its metrics, and whether the optimizer takes it.

What a step decides by its metrics, the device decides: whether it is finite, and so whether the optimizer, the moving
average and the buffers take it. `headfields.training.asynchronous_steps` launches such steps and reads the metrics
later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.records import Batch
from headfields.renderers.padded import Buffers, PaddedSamples
from headfields.runs.asynchronous import step_if
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.nonfinite import BufferBackup
from headfields.training.processes import Processes, SharedBuffers


@dataclass(frozen=True)
class PendingStep:
    """A step that has been launched.

    Attributes:
        step: its number, from 0.
        frames: the B frames.
        state, batch: what the host gave the device, to find the frames that are not finite; of pixels that the device
            looks up, which are bytes, no batch.
        rays: number of rays, or pixels.
        seconds: time of training until it began.
        rate: learning rate.
    """

    step: int
    frames: Tensor
    state: Any
    batch: Batch | None
    rays: int
    seconds: float
    rate: float

    def suspects(self, seen: list[float]) -> Bool[Tensor, " b"]:
        """Frames with a state or target that is not finite, or with a rendered color, `seen` (B), that is not."""
        suspects = torch.tensor(seen) > 0
        if self.batch is not None:
            bad = ~self.batch.target.isfinite().all(dim=-1)
            suspects[self.batch.frame[bad].cpu()] = True
        for name in ("vertices", "expression", "pose"):
            values = getattr(self.state, name, None)
            if values is not None:
                suspects |= ~values.flatten(1).isfinite().all(dim=1).cpu()
        return suspects


@dataclass(frozen=True)
class StepMetrics:
    """What the device has written down of a step.

    Attributes:
        losses: weighted losses.
        squared_error: mean squared error of the color.
        samples: number of composited samples.
        norms: norms of the gradients.
        seen: (B,) above 0 for frames with a rendered color that is not finite.
        taken: whether the optimizer took the step.
        overflow: whether a buffer overflowed, for which it was not taken.
        needed: samples of each buffer, by its name.
    """

    losses: list[float]
    squared_error: float
    samples: float
    norms: list[float]
    seen: list[float]
    taken: bool
    overflow: bool
    needed: dict[str, int]


class AsynchronousUpdate:
    """The device's part of a step, after the gradients.

    Attributes:
        taken: () whether the optimizer took the last step, on the device.

    Args:
        parameters: what is trained, by name.
        optimizer: takes `found_inf`, as PyTorch's fused ones do.
        ema: the moving average, or None.
        backup: keeps the buffers of before the step.
        buffers: sizes of the samples' buffers; None: there are none.
        losses: number of losses.
        frames: B, the number of frames of a step.
        needs_samples: whether a step without samples has no gradient, so that the optimizer leaves all as it is.
        processes: those that train together. They add up losses and gradients, and what one of them refuses, all do:
            each has the same numbers to decide by.
        shared: the buffers that they keep equal.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        ema: ExponentialMovingAverage | None,
        backup: BufferBackup,
        buffers: Buffers | None,
        losses: int,
        frames: int,
        needs_samples: bool,
        device: torch.device,
        processes: Processes,
        shared: SharedBuffers,
    ) -> None:
        self._needs_samples, self._processes, self._shared = needs_samples, processes, shared
        self._parameters, self._optimizer, self._ema = parameters, optimizer, ema
        self._backup, self._buffers, self._losses, self._frames = backup, buffers, losses, frames
        self.taken = torch.zeros((), dtype=torch.bool, device=device)

    def resized(self, parameters: Mapping[str, Tensor], backup: BufferBackup, shared: SharedBuffers) -> None:
        """Takes note of parameters and buffers of other sizes; their names stay."""
        self._parameters, self._backup, self._shared = parameters, backup, shared
        if self._buffers is not None and not self._needs_samples:
            self._buffers.resize({})  # of more Gaussians

    @torch.no_grad()
    def take(
        self, losses: Float[Tensor, " l"], rendering: Any, frame: Int[Tensor, "..."] | None
    ) -> Float[Tensor, " m"]:
        """Checks a step, takes it if it is finite, and gives its metrics, which `read` names. The host waits for
        nothing.

        Args:
            losses: the losses and the squared error, of this process.
            rendering: what was rendered.
            frame: the row of the state that each ray of it shows; None for images, one of each row.
        """
        buffers, samples = self._buffers, rendering.samples
        count = torch.full_like(losses[0], 0.0 if samples is None else float(len(samples)))
        if isinstance(samples, PaddedSamples):
            count = samples.count.to(losses)
        overflow = torch.zeros_like(count, dtype=torch.bool) if buffers is None else buffers.overflow()
        seen = self._not_finite(rendering.rgb, frame).double()
        needed = seen.new_zeros(0) if buffers is None else buffers.needed.double()
        if self._processes.several:
            summed = self._processes.sum(torch.cat([losses, count[None]]))
            losses, count = summed[:-1], summed[-1]
            most = self._processes.maximum(torch.cat([overflow.double()[None], seen, needed]))
            overflow, (seen, needed) = most[0] > 0, most[1:].split([len(seen), len(needed)])
            # Each process takes the same way through the code, so the same parameters have a gradient on all.
            self._processes.sum_gradients([p for p in self._parameters.values() if p.grad is not None])
            self._shared.merge()
        given = [p.grad for p in self._parameters.values() if p.grad is not None]
        known = iter(torch._foreach_norm(given) if given else ())
        none = torch.zeros((), device=losses.device)
        norms = torch.stack([none if p.grad is None else next(known) for p in self._parameters.values()]).double()
        # The largest magnitude is NaN where one is: two launches, where `isfinite` and `all` are five.
        finite = torch.linalg.vector_norm(torch.cat([losses[: self._losses], norms]), torch.inf) < torch.inf
        fits = finite & ~overflow
        # Without samples nothing has a gradient: as packed ones have none then, the optimizer leaves all as it is.
        self.taken = fits & (count > 0) if self._needs_samples else fits
        step_if(self._optimizer, self.taken)
        if self._ema is not None:
            self._ema.update_if(fits)
        self._backup.restore_unless(fits)
        flags = torch.stack([fits, overflow]).double()
        return torch.cat([losses, count[None], norms, seen, flags, needed])

    def _not_finite(self, rgb: Float[Tensor, "... 3"], frame: Int[Tensor, "..."] | None) -> Bool[Tensor, " b"]:
        """Whether a frame has a rendered color that is not finite."""
        if frame is None:
            return ~(torch.linalg.vector_norm(rgb.flatten(1), torch.inf, dim=1) < torch.inf)
        bad = (~(torch.linalg.vector_norm(rgb, torch.inf, dim=-1) < torch.inf)).to(rgb).flatten()
        return bad.new_zeros(self._frames).scatter_reduce_(0, frame.long().flatten(), bad, "amax") > 0

    def read(self, row: list[float]) -> StepMetrics:
        """The metrics of a step, as the host has read them."""
        losses, rest = row[: self._losses], row[self._losses :]
        (squared_error, samples), rest = rest[:2], rest[2:]
        norms, rest = rest[: len(self._parameters)], rest[len(self._parameters) :]
        seen, (taken, overflow, *needed) = rest[: self._frames], rest[self._frames :]
        names = () if self._buffers is None else self._buffers.names
        return StepMetrics(
            losses, squared_error, samples, norms, seen, bool(taken), bool(overflow),
            {name: int(count) for name, count in zip(names, needed, strict=True)},
        )  # fmt: skip
