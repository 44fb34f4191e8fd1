"""Steps whose loss or gradient is not finite: skipped, counted, and the end of a fit after too many in a row.

One bad frame must not end a long run, nor leave a NaN in what the run has learned. So the optimizer takes no such step,
the moving average and the buffers stay as they were before it, and the step counts as one. `MOST_IN_ROW` of them one
after the other mean that no step will succeed any more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headfields.runs.progress import NanLossError

__all__ = ["MOST_IN_ROW", "BufferBackup", "SkippedSteps", "check_weights", "finite_gradients"]

MOST_IN_ROW = 10
"""A fit ends when this many steps in a row are not finite."""
_NAMED = 6


@dataclass
class SkippedSteps:
    """The steps that a fit has skipped.

    Attributes:
        kind: what a step draws: "frame", "scan", "image"; empty if every step uses the same.
        total: number of skipped steps.
        in_row: number of skipped steps since the last that was finite.
        drawn: how many of them drew each frame (scan, ...), by its name.
    """

    kind: str = ""
    total: int = 0
    in_row: int = 0
    drawn: dict[str, int] = field(default_factory=dict)

    def accept(self) -> None:
        """Notes a finite step."""
        self.in_row = 0

    def skip(self, step: int, what: str, drawn: Iterable[Any] = (), remedy: str = "") -> None:
        """Counts a step that is not taken.

        Args:
            step: its number.
            what: the losses or gradients that are not finite.
            drawn: names of its frames.
            remedy: end of the error's message.

        Raises:
            NanLossError: it is the last of `MOST_IN_ROW` in a row.
        """
        self.total, self.in_row = self.total + 1, self.in_row + 1
        names = [str(name) for name in drawn]
        for name in names:
            self.drawn[name] = self.drawn.get(name, 0) + 1
        if self.in_row >= MOST_IN_ROW:
            where = f" ({self._plural(names)})" if names else ""
            end = f"; {remedy}" if remedy else ""
            raise NanLossError(f"step {step}: {what} is not finite{where}, the {MOST_IN_ROW}th step in a row{end}")

    def summary(self) -> str:
        """One line about all skipped steps; empty if there are none.

        >>> from headfields.runs.nonfinite import SkippedSteps
        >>> skipped = SkippedSteps("frame")
        >>> skipped.skip(step=7, what="loss color", drawn=[3])
        >>> skipped.summary()
        '1 step was skipped, whose loss or gradient was not finite (frame 3: 1)'
        """
        if not self.total:
            return ""
        most = sorted(self.drawn, key=lambda name: -self.drawn[name])
        where = f" ({self._plural([f'{name}: {self.drawn[name]}' for name in most])})" if most else ""
        steps = "1 step was" if self.total == 1 else f"{self.total} steps were"
        return f"{steps} skipped, whose loss or gradient was not finite{where}"

    def state(self) -> dict[str, Any]:
        """JSON content for a checkpoint."""
        return {"total": self.total, "in_row": self.in_row, "drawn": self.drawn}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores `state()`; an empty one is no skipped step."""
        self.total, self.in_row = int(state.get("total", 0)), int(state.get("in_row", 0))
        self.drawn = {str(name): int(count) for name, count in state.get("drawn", {}).items()}

    def _plural(self, names: Sequence[str]) -> str:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"{self.kind}{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}{more}"


class BufferBackup:
    """The buffers of a module before a step, so that a skipped step leaves nothing of itself in them.

    A step writes to buffers before its loss is known: an occupancy grid, the statistics of a normalization. All are
    copied every step: not every operation of PyTorch that writes to a tensor tells so by its version.

    Args:
        module: its buffers, persistent or not, are kept.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [buffer.detach() for buffer in module.buffers() if buffer.numel()]
        self._copies = [torch.empty_like(buffer) for buffer in self._buffers]

    def keep(self) -> None:
        """Keeps the present values."""
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)

    def restore(self) -> None:
        """Puts back the values that `keep` has kept."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._copies)

    def restore_unless(self, taken: Tensor) -> None:
        """Puts back the values that `keep` has kept unless `taken` () is true, which the host does not read."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            torch.where(taken, buffer, copy, out=buffer)


def check_weights(module: nn.Module, remedy: str) -> None:
    """Raises NanLossError, with the `remedy`, if a parameter is not finite or a buffer has NaN: they are not saved.

    Finite gradients can lead there too: parameters by a learning rate that overflows, buffers by a part that writes
    NaN into its own. A buffer may hold infinity, as a bound.
    """
    named = [(name, p.detach()) for name, p in module.named_parameters() if p.numel() and p.is_floating_point()]
    # the largest magnitude is NaN where there is one
    largest = torch._foreach_norm([p for _, p in named], torch.inf) if named else []
    bad = [name for (name, _), value in zip(named, largest, strict=True) if not math.isfinite(value)]
    saved = module.state_dict()
    bad += [
        name
        for name, buffer in module.named_buffers()
        if name in saved and buffer.is_floating_point() and bool(buffer.isnan().any())
    ]
    if bad:
        raise NanLossError(f"the weights {', '.join(bad[:_NAMED])} are not finite, and are not saved; {remedy}")


def finite_gradients(loss: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether a loss and the gradients of parameters are finite, with one wait for the device.

    >>> import torch
    >>> from headfields.runs.nonfinite import finite_gradients
    >>> x = torch.tensor([1.0, 0.0], requires_grad=True)
    >>> loss = x.sqrt().sum()
    >>> loss.backward()
    >>> finite_gradients(loss, [x])  # the slope of the square root at 0
    False
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    values = [value for value in values if value.numel()]
    norms = torch._foreach_norm(values) if values else []
    return bool(torch.stack([loss.detach().double(), *(norm.double() for norm in norms)]).isfinite().all())
