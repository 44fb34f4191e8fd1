"""Several processes, one training: what each takes of a step, and how their results become one step again.

Every process draws the same batch of `rays_per_step` rays, renders a contiguous share of it, and scales its loss by
the share's part of all rays. The *sum* of the gradients over processes is then the gradient of the whole batch for
every loss that is a mean over rays (all of `headfields.losses`) or does not depend on rays (a penalty on weights). A
loss with another denominator (the rays of a mask, say) becomes the mean of its values over processes, by rays.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

LARGE = 1 << 16
"""Gradients of more numbers than this travel on their own; smaller ones are put into one message."""


class PeerError(RuntimeError):
    """Another process of the same training failed, or is gone; the message says which and why."""


class Ranks:
    """This process among those that train together.

    Args:
        rank: its number, from 0.
        count: how many there are; with one, every method does at once what it says, without communication.
        device: where tensors are exchanged.
    """

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, count, device

    @property
    def first(self) -> bool:
        """Whether this is process 0, the only one that writes files and shows progress."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self.count > 1

    def share(self, total: int) -> slice:
        """This process's part of `total` rays; sizes differ by one at most, and may be 0."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def table(self, row: Float[Tensor, " k"]) -> Float[Tensor, "count k"]:
        """The rows of all processes, in order, on every process."""
        if not self.several:
            return row[None]
        rows = [torch.empty_like(row) for _ in range(self.count)]
        _together(distributed.all_gather, rows, row)
        return torch.stack(rows)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over processes; none at all counts as zero.

        All processes have the same bits afterwards, so weights and averages that start equal stay equal.
        """
        if not self.several:
            return
        small: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad.numel() > LARGE and parameter.grad.is_contiguous():
                _together(distributed.all_reduce, parameter.grad)
            else:
                small.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in small.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            _together(distributed.all_reduce, flat)
            _deal(flat, gradients)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Copies process 0's values into the tensors of all, in place."""
        if not self.several:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor.detach())
        for alike in kinds.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            kind = flat.dtype
            sent = flat.to(torch.uint8) if kind == torch.bool else flat
            _together(distributed.broadcast, sent, 0)
            _deal(sent.to(kind), alike)

    def largest(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over processes, in place."""
        if self.several:
            _together(distributed.all_reduce, tensor, distributed.ReduceOp.MAX)
        return tensor

    def first_does(self, action: Callable[[], Any]) -> None:
        """Process 0 acts while the others wait; an error of it is raised on all.

        Raises:
            PeerError: on the other processes, with the text of process 0's error.
        """
        error: Exception | None = None
        if self.first:
            try:
                action()
            except Exception as raised:
                if not self.several:
                    raise
                error = raised
        self.all_or_none(error)

    def all_or_none(self, error: Exception | None) -> None:
        """Raises on every process if one of them brings an error: its own there, a `PeerError` elsewhere."""
        if not self.several:
            if error is not None:
                raise error
            return
        texts: list[Any] = [None] * self.count
        _together(distributed.all_gather_object, texts, None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise PeerError(f"process {rank} of {self.count} failed: {text}")


class SharedBuffers:
    """Buffers of a module that training changes, kept equal over processes.

    A module can name buffers in `merged_over_processes`: of those, each cell takes the largest of the values that
    processes have changed it to in a step. That is how observations of an occupancy grid combine (each takes a cell to
    max(decay · old, seen)): the grid then is what one process with all rays would have. All other floating-point
    buffers are process 0's, as in PyTorch's DistributedDataParallel.
    """

    def __init__(self, ranks: Ranks, module: nn.Module) -> None:
        self._ranks = ranks
        merged = {id(buffer): buffer for buffer in _merged(module)}
        self._merged = list(merged.values())
        self._others = [b for b in module.buffers() if b.is_floating_point() and b.numel() and id(b) not in merged]
        self._before: list[Tensor] = []

    def remember(self) -> None:
        """Call it where the buffers are equal, before each process goes on with its own rays."""
        if self._ranks.several:
            self._before = [buffer.clone() for buffer in self._merged]

    @torch.no_grad()
    def merge(self) -> None:
        """Call it after that."""
        if not self._ranks.several:
            return
        for buffer, before in zip(self._merged, self._before, strict=True):
            changed = self._ranks.largest(buffer.masked_fill(buffer == before, -torch.inf))
            buffer.copy_(torch.where(changed == -torch.inf, before, changed))
        self._ranks.spread(self._others)


def _merged(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for name in getattr(part, "merged_over_processes", ()):
            yield getattr(part, name)


def _deal(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))


def _together(collective: Callable[..., Any], *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise PeerError(f"another process of this training is gone ({' '.join(str(error).split())[:200]})") from error
