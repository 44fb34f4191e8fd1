"""MonoNPHM's ensemble of local networks, compared with loops over the networks."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from headfields.decoders import AnchoredDecoder
from headfields.networks import Anchors, head_anchors
from headfields.records import Canonical, Features, HeadState, Template
from headfields.synthetic.head.model import procedural_head

TITLE = "Local networks at anchors"
TEXT = """`AnchoredDecoder` with the paper's sizes: 65 anchors and a global member, 36 networks for distance and 36 for
color, 13 members a point; points are 1 cm (standard deviation) from the procedural head. In evaluation members of a
weight below 1e-3 are left out; `all 13` is ours without that. One loop evaluates every member at every point and uses
13 of them, which is the plain way to write it; the other gives each network the points that it is used for. Both loops
are PyTorch's products; they fold the codes into the first layer's bias once, as ours does. Backward: of distance and
color, to points and to all weights; nothing is left out there. Difference: of distance (m) and color, or of the
gradients."""


def cases(settings: Settings) -> Iterator[Case]:
    for label, color, backward in (("distance", False, False), ("distance and color", True, False),
                                    ("distance and color, backward", True, True)):  # fmt: skip
        for points in settings.pick((1000, 4000), (200,)):
            ensemble = Ensemble(points, color, settings.device)
            goals = {} if backward else {"loop, every network": 5.0}
            yield Case(label, {"points": points}, "points", points, ensemble.contestants(backward), goals)


class Ensemble:
    def __init__(self, points: int, color: bool, device: str) -> None:
        torch.manual_seed(0)
        head = procedural_head()
        vertices = head().vertices[0].detach()
        indices = head_anchors(Template(vertices, head.faces))
        self.decoder = AnchoredDecoder(Anchors(vertices[indices], 30)).to(device)
        self.decoder.build(2)
        self.decoder.to(device)
        codes = {name: 0.1 * torch.randn(1, width) for name, width in self.decoder.code_widths.items()}
        self.state = HeadState(torch.zeros(1, 0, 3), codes=codes).to(device)
        where = vertices[torch.randint(len(vertices), (points,))] + 0.01 * torch.randn(points, 3)
        self.points, self.features = where.to(device), 0.01 * torch.randn(points, 2).to(device)
        self.frame = torch.zeros(points, dtype=torch.long, device=device)
        self.color = color

    def _canonical(self, points: Tensor) -> Canonical:
        return Canonical(points, points, points, self.frame, torch.ones_like(self.frame, dtype=torch.bool))

    def _ours(self, points: Tensor) -> list[Tensor]:
        canonical, prepared = self._canonical(points), self.decoder.prepare(self.state)
        values = self.decoder(Features(self.features), canonical, prepared, self.color)
        return [values.distance, *([values.rgb] if self.color else [])]

    def _all_members(self, points: Tensor) -> list[Tensor]:
        skip, self.decoder.skip_below = self.decoder.skip_below, 0.0
        try:
            return self._ours(points)
        finally:
            self.decoder.skip_below = skip

    def _loop(self, points: Tensor, every: bool) -> list[Tensor]:
        decoder = self.decoder
        members, space = decoder.anchors.layout.members, decoder.anchors
        prepared = decoder.prepare(self.state)
        blend = decoder.blend(self._canonical(points), prepared)
        weights = blend.weight.new_zeros(len(points), members).scatter(1, blend.member, blend.weight)
        places = torch.cat([prepared.anchors[0], torch.zeros_like(prepared.anchors[0, :1])])
        softplus = functools.partial(functional.softplus, beta=decoder.beta)
        total = torch.zeros(len(points), 4 if self.color else 1, device=points.device)
        for member in range(members):
            used = slice(None) if every else (blend.member == member).any(dim=1).nonzero()[:, 0]
            x = (space.normalized(points[used]) - places[member]) * decoder.side[member]
            own = torch.cat([x, self.features[used]], dim=-1)
            value, hidden = _layers(decoder.geometry_networks, decoder, member, own, prepared.geometry, softplus)
            if self.color:
                projected = decoder.projection(hidden)
                rgb, _ = _layers(
                    decoder.appearance_networks, decoder, member, projected, prepared.appearance, functional.relu
                )
                value = torch.cat([value, rgb], dim=-1)
            value = value * weights[used, member][:, None]
            total = total + value if every else total.index_add(0, used, value)
        return [total[:, 0] / space.scale, *([(total[:, 1:] + 1) / 2] if self.color else [])]

    def _contestant(self, name: str, function: Callable[[Tensor], list[Tensor]], backward: bool) -> Contestant:
        def forward() -> list[Tensor]:
            self.decoder.eval()
            with torch.no_grad():
                return function(self.points)

        def both() -> list[Tensor]:
            self.decoder.train()
            with torch.enable_grad():
                points = self.points.clone().requires_grad_()
                total = sum(part.square().sum() for part in function(points))
                return list(torch.autograd.grad(total, [points, *self.decoder.parameters()]))

        def numbers(answer: list[Tensor]) -> np.ndarray:
            return torch.cat([part.reshape(-1) for part in answer]).cpu().numpy()

        return Contestant(name, both if backward else forward, numbers)

    def contestants(self, backward: bool) -> dict[str, Maker]:
        functions: dict[str, Callable[[Tensor], list[Tensor]]] = {OURS: self._ours}
        if not backward:
            functions["headfields, all 13"] = self._all_members
        functions["loop, every network"] = lambda points: self._loop(points, True)
        functions["loop, own points"] = lambda points: self._loop(points, False)
        return {name: self._maker(name, function, backward) for name, function in functions.items()}

    def _maker(self, name: str, function: Callable[[Tensor], list[Tensor]], backward: bool) -> Maker:
        return lambda: self._contestant(name, function, backward)


def _layers(networks, decoder, member, own, starts, activation):  # type: ignore[no-untyped-def]
    """One member's network, layer by layer: its output, and its last hidden layer before the activation."""
    network, last = int(decoder.network[member]), len(networks.weights) - 1
    hidden = own @ networks.weights[0][network, networks.shared :] + starts[member]
    for layer in range(1, last):
        hidden = activation(hidden) @ networks.weights[layer][network] + networks.biases[layer][network]
    return activation(hidden) @ networks.weights[last][network] + networks.biases[last][network], hidden
