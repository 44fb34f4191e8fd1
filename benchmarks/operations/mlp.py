"""INSTA's two small networks, compared with the same layers in PyTorch."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import compiled
from headfields.ops import mlp

TITLE = "Small networks"
TEXT = """The density network (32 features and a condition of 57, then 64, 64, 16) and the color network (32, then
64, 64, 64, 3), without biases; backward to features and weights. The condition has two rows, one of which each sample
has: PyTorch is given it as such too, and joins it to the features. Difference: of the output, or of the gradients."""


def cases(settings: Settings) -> Iterator[Case]:
    for label, widths, shared in (("density", (89, 64, 64, 16), 57), ("color", (32, 64, 64, 64, 3), 0)):
        for backward in (False, True):
            kind = "forward, backward" if backward else "forward"
            sizes = settings.pick((4000, 20_000, 100_000, 800_000), (1000, 4000))
            for rows in sizes[:3] if backward else sizes:
                network = Network(rows, widths, shared, settings.device)
                yield Case(f"{label}, {kind}", {"rows": rows}, "rows", rows, network.contestants(backward))


class Network:
    def __init__(self, rows: int, widths: tuple[int, ...], shared: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        pairs = itertools.pairwise(widths)
        self.weights = [draw(after, before) * (2 / before) ** 0.5 for before, after in pairs]
        self.x, self.grad = draw(rows, widths[0] - shared), draw(rows, widths[-1])
        self.condition = draw(2, shared) if shared else None
        self.index = (torch.rand(rows, generator=generator) < 0.1).long().to(device) if shared else None

    def _ours(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        return mlp(x, weights, None, self.condition, self.index)

    def _layers(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        x = x if self.condition is None else torch.cat([x, self.condition[self.index]], dim=-1)
        for layer, weight in enumerate(weights):
            x = functional.linear(x.relu_() if layer else x, weight)
        return x

    def _contestant(self, name: str, function: Callable[[Tensor, list[Tensor]], Tensor], backward: bool) -> Contestant:
        def forward() -> list[Tensor]:
            return [function(self.x, self.weights)]

        def both() -> list[Tensor]:
            with torch.enable_grad():
                inputs = [tensor.detach().requires_grad_() for tensor in (self.x, *self.weights)]
                return list(torch.autograd.grad(function(inputs[0], inputs[1:]), inputs, self.grad))

        def numbers(answer: list[Tensor]) -> np.ndarray:
            return torch.cat([part.reshape(-1) for part in answer]).cpu().numpy()

        return Contestant(name, both if backward else forward, numbers)

    def contestants(self, backward: bool) -> dict[str, Maker]:
        return {
            OURS: lambda: self._contestant(OURS, self._ours, backward),
            "PyTorch": lambda: self._contestant("PyTorch", self._layers, backward),
            "torch.compile": lambda: self._contestant(
                "torch.compile", compiled(self._layers, self.x.device.type), backward
            ),
        }
