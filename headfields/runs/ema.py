"""Exponential moving average of parameters, used at inference."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

_LARGE = 1 << 16
"""Parameters of more numbers than this cost a GPU more by their bytes than by the launch of a kernel."""


class ExponentialMovingAverage:
    """average ← decay · average + (1 - decay) · parameters, once per step (decay 0.95: INSTA's released code).

    The average starts at the parameters, not at zero, so it needs no bias correction. It is kept on the parameters'
    devices in their dtypes and updated in place, each number read and written once.

    Args:
        module: its trainable parameters are averaged. Buffers (an occupancy grid, say) are not.
        decay: decay per step in [0, 1); 0 makes the average a copy.

    Raises:
        ValueError: decay is outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay is {decay}; expected 0 <= decay < 1")
        self.decay = decay
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average toward the parameters; call it after each step of the optimizer."""
        if self.average:
            torch._foreach_lerp_(list(self.average.values()), list(self._parameters.values()), 1 - self.decay)

    @torch.no_grad()
    def update_if(self, taken: Tensor) -> None:
        """As `update` if `taken` () is true, which the host does not read; the parameters are finite either way."""
        share, small = taken * (1 - self.decay), []
        for name, parameter in self._parameters.items():
            if parameter.numel() > _LARGE:  # a table: in one pass
                self.average[name].lerp_(parameter.detach(), share.to(parameter.dtype))
            else:
                small.append((self.average[name], parameter.detach()))
        if small:  # in few launches, which read the numbers thrice
            average, parameters = map(list, zip(*small, strict=True))
            difference = torch._foreach_sub(parameters, average)
            torch._foreach_mul_(difference, share)
            torch._foreach_add_(average, difference)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the `with` block the module runs on the average; its own parameters are back afterwards.

        Storage is exchanged, not copied, so it costs nothing; do not update within the block.
        """
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Copies an average of the same names and shapes, which `checkpoint.load` has checked."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def resized(self, module: nn.Module) -> None:
        """Takes note of parameters that are new: their averages start at their values."""
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for name, parameter in parameters.items():
            if self._parameters.get(name) is not parameter:
                self.average[name] = parameter.detach().clone()
        self.average = {name: self.average[name] for name in parameters}
        self._parameters = parameters

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges parameters and average; a second call puts them back."""
        for name, parameter in self._parameters.items():
            parameter.data, self.average[name] = self.average[name], parameter.data
