"""Devices by name, and copies to a GPU that the host does not wait for."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

M = TypeVar("M", bound="Movable")


def device_named(owner: str, name: torch.device | str) -> torch.device:
    """The torch device of that name; "auto" is CUDA where there is one.

    Raises:
        ValueError: there is no such device, or none of the library's kernels runs on it, in the name of `owner`.
    """
    if str(name) == "auto":  # ROCm's devices are called cuda, too
        return torch.device("cuda" if torch.cuda.is_available() and torch.version.hip is None else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{owner}: device is {name!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{owner}: device is {str(name)!r}; kernels run on 'cpu' and on NVIDIA's GPUs, 'cuda'")
    return device


def device_here(owner: str, name: str) -> torch.device:
    """`device_named`, of this machine.

    Raises:
        ValueError: there is no such device, or torch sees no GPU.
    """
    device = device_named(owner, name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{owner}: device is {name!r}, and torch sees no CUDA device (headfields doctor tells more); expected 'cpu'"
        )
    return device


class Movable(nn.Module):
    """A module whose `to` says which devices there are, and takes "auto"."""

    def to(self: M, *arguments: Any, **named: Any) -> M:
        """`torch.nn.Module.to`; a device by its name may be "auto", too.

        Raises:
            ValueError: there is no device of that name.
        """
        owner = f"{type(self).__name__}.to"
        if arguments and isinstance(arguments[0], str):
            arguments = (device_here(owner, arguments[0]), *arguments[1:])
        if isinstance(named.get("device"), str):
            named["device"] = device_here(owner, named["device"])
        return super().to(*arguments, **named)


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device.

    From ordinary host memory CUDA copies while the host waits; so the tensor goes to pinned memory first, and the copy
    takes its place in the stream. Pinned memory has the strides of its source, and an expanded tensor's overlap: it is
    copied first.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.is_cpu and not tensor.requires_grad:
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def any_directions(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Directions, all along −z, for a call that needs the points alone; made on the device, so that none is sent."""
    direction = points.new_zeros(3)
    direction[2].fill_(-1.0)
    return direction.expand_as(points)


def send_numbers(numbers: Sequence[float | int | bool], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """(K,) numbers of the host on the device."""
    return send(torch.tensor(numbers, dtype=dtype), device)
