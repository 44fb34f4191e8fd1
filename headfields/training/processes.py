"""Training by several processes: launching them (Lightning Fabric), and combining their shares of a step.

Every process draws the same batch of `rays_per_step` rays, renders a contiguous share of it, and scales its loss by
the share's fraction of all rays. The *sum* of the gradients over processes is then the gradient of the whole batch for
every loss that is a mean over rays (as in `headfields.losses`) or does not depend on rays (a penalty on weights). A
loss with another denominator (the rays of a mask, say) becomes the mean of its values over processes, by rays.

Fabric serves more than one function: it starts the processes, casts for mixed precision, keeps callbacks and loggers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from headfields.records.device_copy import device_named

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp")

LARGE = 1 << 16
"""Gradients of more numbers than this are sent on their own; smaller ones are packed into one message."""


class PeerError(RuntimeError):
    """Another process of the same training failed or ended; the message says which and why."""


def start_processes(
    device: torch.device | str,
    devices: int | Sequence[int],
    strategy: str,
    precision: str,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Any] = (),
    nodes: int = 1,
) -> tuple[Any, torch.amp.GradScaler | None]:
    """Starts (or joins) the processes; returns the Fabric object and the gradient scaler of `"16-mixed"`.

    Raises:
        ValueError: an unknown precision or strategy, or a device that does not exist.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Trainer: precision is {precision!r}; expected one of {', '.join(map(repr, PRECISIONS))}")
    if strategy not in STRATEGIES:
        raise ValueError(
            f"Trainer: strategy is {strategy!r}; expected 'auto' or 'ddp' (every process holds the whole avatar)"
        )
    target = device_named("Trainer", device)
    count = devices if isinstance(devices, int) else len(devices)
    if nodes < 1:
        raise ValueError(f"Trainer: num_nodes is {nodes}; expected how many machines train together, at least 1")
    if count < 1:
        raise ValueError(f"Trainer: devices is {devices}; expected how many processes, at least 1")
    most = max(os.cpu_count() or 1, 8)
    if target.type == "cpu" and count > most:
        raise ValueError(f"Trainer: devices is {devices}; the processes share this machine's cores, at most {most}")
    if target.type == "cpu" and not isinstance(devices, int):
        raise ValueError(f"Trainer: devices is {list(devices)}, but CPUs are not numbered; pass a count")
    if target.type == "cuda":
        _check_cuda(target, devices, count)
    scaler = None
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler(target.type)
    from lightning_fabric import Fabric  # takes two seconds to import
    from lightning_fabric.plugins import MixedPrecision

    selected: Any = devices if target.type == "cpu" or isinstance(devices, int) else list(devices)
    if count == 1 and target.index is not None and target.type != "cpu":
        selected = [target.index]
    arguments: dict[str, Any] = {
        "accelerator": target.type, "devices": selected, "callbacks": list(callbacks), "loggers": list(loggers),
        "num_nodes": nodes,
    }  # fmt: skip
    if scaler is None:
        arguments["precision"] = precision
    else:
        arguments["plugins"] = [MixedPrecision("16-mixed", target.type, scaler)]
    if count > 1 or nodes > 1 or strategy == "ddp":
        arguments["strategy"] = "ddp"
    fabric = Fabric(**arguments)
    fabric.launch()
    return fabric, scaler


class Processes:
    """This process among those that train together.

    Args:
        rank: its number, from 0.
        count: number of processes; with one, no method communicates.
        device: device on which tensors are exchanged.
    """

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, count, device

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, the only one that writes files and shows progress."""
        return self.rank == 0

    @property
    def exchanges_late(self) -> bool:
        """Whether the host waits for no exchange, and a CUDA graph can hold it: by NCCL, or alone."""
        return not self.several or (self.device.type == "cuda" and distributed.get_backend() == "nccl")

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self.count > 1

    def share(self, total: int) -> slice:
        """This process's part of `total` rays; sizes differ by one at most, and may be 0."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def gather(self, row: Float[Tensor, " k"]) -> Float[Tensor, "count k"]:
        """The rows of all processes, in order, on every process."""
        if not self.several:
            return row[None]
        rows = [torch.empty_like(row) for _ in range(self.count)]
        _communicate(distributed.all_gather, rows, row)
        return torch.stack(rows)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over processes, in place; a missing gradient counts as zero.

        All processes have the same bits afterwards, so weights and averages that start equal stay equal.
        """
        if not self.several:
            return
        small: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad.numel() > LARGE and parameter.grad.is_contiguous():
                _communicate(distributed.all_reduce, parameter.grad)
            else:
                small.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in small.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            _communicate(distributed.all_reduce, flat)
            _unpack(flat, gradients)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Copies process 0's values into the tensors of all processes, in place."""
        if not self.several:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor.detach())
        for group in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dtype = flat.dtype
            sent = flat.to(torch.uint8) if dtype == torch.bool else flat
            _communicate(distributed.broadcast, sent, 0)
            _unpack(sent.to(dtype), group)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.several:
            _communicate(distributed.all_reduce, tensor)
        return tensor

    def maximum(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over processes, in place."""
        if self.several:
            _communicate(distributed.all_reduce, tensor, distributed.ReduceOp.MAX)
        return tensor

    def on_first(self, action: Callable[[], Any]) -> None:
        """Runs `action` on process 0 while the others wait; its error is raised on all.

        Raises:
            PeerError: on the other processes, with the text of process 0's error.
        """
        error: Exception | None = None
        if self.is_first:
            try:
                action()
            except Exception as raised:
                if not self.several:
                    raise
                error = raised
        self.raise_on_all(error)

    def raise_on_all(self, error: Exception | None) -> None:
        """Raises on every process if one of them has an error: its own there, a `PeerError` elsewhere."""
        if not self.several:
            if error is not None:
                raise error
            return
        texts: list[Any] = [None] * self.count
        _communicate(
            distributed.all_gather_object, texts, None if error is None else f"{type(error).__name__}: {error}"
        )
        if error is not None:
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise PeerError(f"process {rank} of {self.count} failed: {text}")


class SharedBuffers:
    """Buffers that training changes, kept equal over processes.

    A module names buffers in `merged_over_processes`: of those, each cell takes the largest of the values that
    processes changed it to in a step. Observations of an occupancy grid combine like this (each sets a cell to
    max(decay · old, observed)), so the grid is that of one process with all rays. All other floating-point buffers
    are process 0's, as in PyTorch's DistributedDataParallel.
    """

    def __init__(self, processes: Processes, module: nn.Module) -> None:
        self._processes = processes
        merged = {id(buffer): buffer for buffer in _merged_buffers(module)}
        self._merged = list(merged.values())
        self._others = [b for b in module.buffers() if b.is_floating_point() and b.numel() and id(b) not in merged]
        self._before: list[Tensor] = []

    def snapshot(self) -> None:
        """Call it while the buffers are equal, before each process renders its share."""
        if self._processes.several:
            self._before = [buffer.clone() for buffer in self._merged]

    @torch.no_grad()
    def merge(self) -> None:
        """Makes the buffers equal again; call it after each process has rendered its share."""
        if not self._processes.several:
            return
        for buffer, before in zip(self._merged, self._before, strict=True):
            values = buffer if buffer.is_floating_point() else buffer.float()  # a mask: what any process has set
            changed = self._processes.maximum(values.masked_fill(buffer == before, -torch.inf))
            buffer.copy_(torch.where(changed == -torch.inf, before.to(changed), changed))
        self._processes.broadcast(self._others)


def _merged_buffers(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for name in getattr(part, "merged_over_processes", ()):
            yield getattr(part, name)


def _unpack(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))


def _communicate(collective: Callable[..., Any], *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise PeerError(f"another process of this training has ended ({' '.join(str(error).split())[:200]})") from error


def _check_cuda(target: torch.device, devices: int | Sequence[int], count: int) -> None:
    available = torch.cuda.device_count()
    numbers = list(range(count)) if isinstance(devices, int) else list(devices)
    if count == 1 and isinstance(devices, int) and target.index is not None:
        numbers = [target.index]
    if any(not 0 <= number < available for number in numbers):
        raise ValueError(
            f"Trainer: device is {str(target)!r} and devices is {devices}, but torch sees {available} CUDA devices"
        )
    if count > 1 and target.index is not None:
        raise ValueError(
            f"Trainer: device is {str(target)!r} with devices={devices}; pass device='cuda' and the numbers as devices"
        )
