"""The device's part of a step that the host does not wait for: its figures, and whether the optimizer takes it.

What a step decides by its figures, the device decides: whether it is finite, and so whether the optimizer, the moving
average and the buffers take it. `headfields.training.asynchronous_steps` launches such steps and reads the figures
later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.records import Batch
from headfields.renderers.padded import Buffers
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.nonfinite import BufferBackup

READ_EVERY = 32
"""Steps between two looks at the figures. Own choice: a wait in so many steps costs next to nothing."""


@dataclass(frozen=True)
class LateStep:
    """A step that has been launched.

    Attributes:
        step: its number, from 0.
        frames: the B frames.
        state, batch: what the host gave the device, to find the frames that are not finite.
        rays: number of rays, or pixels.
        seconds: time of training until it began.
        rate: learning rate.
    """

    step: int
    frames: Tensor
    state: Any
    batch: Batch
    rays: int
    seconds: float
    rate: float

    def suspects(self, seen: list[float]) -> Bool[Tensor, " b"]:
        """Frames with a state or target that is not finite, or with a rendered color, `seen` (B), that is not."""
        suspects = torch.tensor(seen) > 0
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


class FigureTable:
    """Rows of figures on the device, and the place of the next one, which the device counts too.

    Args:
        width: numbers in a row.
        device: the device.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._rows = torch.zeros(READ_EVERY, width, dtype=torch.double, device=device)
        self._next = torch.zeros(1, dtype=torch.long, device=device)

    def write(self, row: Float[Tensor, " w"]) -> None:
        """Writes the next row."""
        self._rows.index_copy_(0, self._next, row[None])
        self._next.add_(1).remainder_(READ_EVERY)

    def read(self, count: int) -> list[list[float]]:
        """The last `count` rows since the table was read last; waits for the device."""
        rows = self._rows[:count].tolist()
        self._next.zero_()
        return rows


class AsynchronousUpdate:
    """The device's part of a step, after the gradients.

    Attributes:
        pending: steps whose figures have not been read.
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
    ) -> None:
        self._needs_samples = needs_samples
        self._parameters, self._optimizer, self._ema = parameters, optimizer, ema
        self._backup, self._buffers, self._losses, self._frames = backup, buffers, losses, frames
        width = losses + 2 + len(parameters) + frames + 2 + (0 if buffers is None else len(buffers.names))
        self.table = FigureTable(width, device)
        self.pending: list[LateStep] = []
        self.taken = torch.zeros((), dtype=torch.bool, device=device)

    def resized(self, parameters: Mapping[str, Tensor], backup: BufferBackup) -> None:
        """Takes note of parameters and buffers of other sizes; their names stay."""
        self._parameters, self._backup = parameters, backup
        if self._buffers is not None and not self._needs_samples:
            self._buffers.resize({})  # of more Gaussians

    def take(self, figures: Float[Tensor, " f"], seen: Float[Tensor, " b"]) -> None:
        """Checks a step, takes it if it is finite, and writes its figures down. The host waits for nothing.

        Args:
            figures: the losses, the squared error, the number of samples.
            seen: as in `StepMetrics`.
        """
        buffers = self._buffers
        given = [p.grad for p in self._parameters.values() if p.grad is not None]
        known = iter(torch._foreach_norm(given) if given else ())
        none = torch.zeros((), device=figures.device)
        norms = torch.stack([none if p.grad is None else next(known) for p in self._parameters.values()]).double()
        finite = torch.cat([figures[: self._losses], norms]).isfinite().all()
        overflow = torch.zeros_like(finite) if buffers is None else buffers.overflow()
        fits = finite & ~overflow
        # Without samples nothing has a gradient: as packed ones have none then, the optimizer leaves all as it is.
        moves = fits & (figures[-1] > 0) if self._needs_samples else fits
        self.taken = moves
        optimizer: Any = self._optimizer
        optimizer.grad_scale, optimizer.found_inf = None, (~moves).float()
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf
        if self._ema is not None:
            self._ema.update_if(fits)
        self._backup.restore_unless(fits)
        flags = torch.stack([fits, overflow]).double()
        needed = [] if buffers is None else [buffers.needed.double()]
        self.table.write(torch.cat([figures, norms, seen.double(), flags, *needed]))

    def read(self) -> list[tuple[LateStep, StepMetrics]]:
        """All steps that have been launched since the last call, and their figures; waits for the device."""
        if not self.pending:
            return []
        rows, pending, self.pending = self.table.read(len(self.pending)), self.pending, []
        return [(step, self._figures(row)) for step, row in zip(pending, rows, strict=True)]

    def _figures(self, row: list[float]) -> StepMetrics:
        losses, rest = row[: self._losses], row[self._losses :]
        (squared_error, samples), rest = rest[:2], rest[2:]
        norms, rest = rest[: len(self._parameters)], rest[len(self._parameters) :]
        seen, (taken, overflow, *needed) = rest[: self._frames], rest[self._frames :]
        names = () if self._buffers is None else self._buffers.names
        return StepMetrics(
            losses, squared_error, samples, norms, seen, bool(taken), bool(overflow),
            {name: int(count) for name, count in zip(names, needed, strict=True)},
        )  # fmt: skip
