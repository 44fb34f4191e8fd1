"""Random generators of a run, separate from those of the program around it, and deterministic operations."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class RandomStream:
    """The random generators of one run: one for frames and pixels, and torch's global ones while the run is active.

    Args:
        seed: seed of all generators.
        device: the CUDA generator of this device is included; others are not.

    Attributes:
        generator: random number generator on the CPU, for frames and pixels.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._devices = [device] if device.type == "cuda" else []
        self._active = False
        with torch.random.fork_rng(devices=self._devices):
            torch.manual_seed(seed)
            self._states = self._live()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the `with` block torch's global generators are the run's; afterwards they are restored."""
        with torch.random.fork_rng(devices=self._devices):
            self._set(self._states)
            self._active = True
            try:
                yield
            finally:
                self._states = self._live()
                self._active = False

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restores torch's global generators after the `with` block, so that drawing in it changes nothing later."""
        with torch.random.fork_rng(devices=self._devices):
            yield

    @contextlib.contextmanager
    def share(self, first: int, total: int) -> Iterator[None]:
        """Within the `with` block torch's global generators belong to one of several processes that share `total` rays.

        They start as if one number had been drawn for each of the `first` rays of the processes before this one, and
        end, on every process, `total` numbers after where they were. So processes draw different numbers and stay
        synchronized, and on the CPU a sampler that draws one number per ray (`OccupancySampler`) draws the numbers of
        one process with all rays.
        """
        states = self._live()
        self._skip(first)
        try:
            yield
        finally:
            self._set(states)
            self._skip(total)

    def states(self) -> dict[str, Tensor]:
        """All states as uint8 tensors, for a checkpoint."""
        return {"generator": self.generator.get_state(), **(self._live() if self._active else self._states)}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Restores states from `states()`; a generator without one (another device's) stays as it is."""
        if "generator" in states:
            self.generator.set_state(states["generator"])
        self._states = {name: states.get(name, own) for name, own in self._states.items()}
        if self._active:
            self._set(self._states)

    def _skip(self, count: int) -> None:
        for device in (torch.device("cpu"), *self._devices):
            torch.rand(count, device=device)

    def _live(self) -> dict[str, Tensor]:
        states = {"torch": torch.get_rng_state()}
        if self._devices:
            states["cuda"] = torch.cuda.get_rng_state(self._devices[0])
        return states

    def _set(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["torch"])
        for device in self._devices:
            torch.cuda.set_rng_state(states["cuda"], device)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Within the `with` block, PyTorch uses deterministic implementations on the CPU where it has them.

    Otherwise the backward of indexing adds floats in the order in which threads arrive. Nothing changes on CUDA:
    kernels that add by atomics (the hash grid's backward among them) have no deterministic implementation.
    """
    settings: Any = torch.utils.deterministic  # its attributes are unknown to type checkers
    fill = settings.fill_uninitialized_memory
    was_enabled, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if device.type == "cpu" and not was_enabled:
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # costs a pass over each new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_enabled, warn_only=only_warned)
        settings.fill_uninitialized_memory = fill
