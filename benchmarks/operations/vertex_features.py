"""Vertex-anchored features, forward and backward, compared with the same formulas in PyTorch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import compiled
from headfields.encoders import VertexFeatures
from headfields.encoders.vertex_source import VertexSource
from headfields.ops import frequency_encoding
from headfields.ops.nearest_vertices import inverse_distance_weights
from headfields.records import Canonical, HeadState

TITLE = "Vertex features"
TEXT = """Features of the 4 nearest of 10,059 vertices with 64 features each, merged, at points of a normal distribution
of 8 mm about the surface; forward, and forward and backward to the parameters and the vertices' features. *Paper*: 10
bands and 3 + 3 layers of 128; *small*: 6 bands and 2 + 2 of 48. PyTorch gathers the features of each neighbor and
runs all layers on the joined rows; it is given the same neighbors' search. Difference: of features, or of
gradients."""

_SIZES = {"paper": {}, "small": {"hidden": 48, "layers": 2, "merged_layers": 2, "bands": 6}}


class Table(VertexSource):
    """Features learned for each vertex."""

    def __init__(self, vertex_count: int, width: int) -> None:
        super().__init__()
        self.vertex_count, self.width = vertex_count, width
        self.table = nn.Parameter(torch.randn(vertex_count, width))

    def forward(self, state: HeadState) -> Tensor:
        return self.table.expand(len(state), -1, -1)


def cases(settings: Settings) -> Iterator[Case]:
    count = settings.pick(14_000, 2_000)
    for label in _SIZES:
        for backward in (False, True):
            kind = "forward, backward" if backward else "forward"
            yield Case(f"{label}, {kind}", {"points": count}, "points", count, contestants(label, count, backward,
                       settings.device))  # fmt: skip


def contestants(label: str, count: int, backward: bool, device: str) -> dict[str, Maker]:
    torch.manual_seed(0)
    mesh = shapes.head(20_000)
    vertices, points = (torch.from_numpy(x).to(device) for x in (mesh.vertices32, shapes.near_surface(mesh, count)))
    encoder = VertexFeatures(Table(len(vertices), 64), **_SIZES[label]).to(device)  # type: ignore[arg-type]
    state = HeadState(vertices=vertices[None])
    canonical = Canonical(
        points=points, directions=points, posed_points=points, frame=torch.zeros(count, dtype=torch.long).to(device),
        valid=torch.ones(count, dtype=torch.bool).to(device),
    )  # fmt: skip
    grad = torch.randn(count, encoder.width).to(device)
    parameters = list(encoder.parameters())

    def ours() -> Tensor:
        return encoder(canonical, encoder.prepare(state))

    def layers(network: nn.Sequential, x: Tensor) -> Tensor:
        for linear in list(network)[::2]:
            x = functional.linear(x, linear.weight, linear.bias).relu()  # type: ignore[arg-type]
        return x

    def plain() -> Tensor:
        nearest = encoder.prepare(state).tree.nearest(points, 4)
        table = encoder.source(state)[0]
        encoded = frequency_encoding((vertices[nearest.index] - points[:, None]) / encoder.unit, encoder.bands)
        rows = layers(encoder.neighbor_network, torch.cat([encoded, table[nearest.index]], -1))
        merged = (inverse_distance_weights(nearest.distance)[..., None] * rows).sum(1)
        assert encoder.merged_network is not None
        return layers(encoder.merged_network, merged)

    def contestant(name: str, function) -> Contestant:  # type: ignore[no-untyped-def]
        def both() -> list[Tensor]:
            with torch.enable_grad():
                return list(torch.autograd.grad(function(), parameters, grad))

        def numbers(answer: list[Tensor]) -> np.ndarray:
            return torch.cat([part.detach().reshape(-1) for part in answer]).cpu().numpy()

        return Contestant(name, both if backward else lambda: [function()], numbers)

    return {
        OURS: lambda: contestant(OURS, ours),
        "PyTorch": lambda: contestant("PyTorch", plain),
        "torch.compile": lambda: contestant("torch.compile", compiled(plain, device)),
    }
