"""Hyper-dimensional deformation of MonoNPHM: posed points to canonical points and hyper-coordinates."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headfields.networks import Anchors
from headfields.networks.mlp import hidden_layers
from headfields.ops.ray_box import ray_sphere
from headfields.ops.softplus import softplus
from headfields.parts import Deformer
from headfields.records import Canonical, HeadState, Rays

_SPREAD = 1e-2
"""Factor of the output layer's initial weights, so that the deformation starts near the identity."""


@dataclass(frozen=True)
class HyperFrames:
    """B frames, prepared for `HyperDeformer`: the contribution of codes and biases to the first layer, and to the layer
    to which the input is concatenated, if there is one."""

    first: Float[Tensor, "b hidden"]
    again: Float[Tensor, "b hidden"] | None


class HyperDeformer(Deformer):
    """Backward deformation with hyper-coordinates: x_c = x + δ and h, outputs of a network of the point and the codes.

    The input of the network is [x, identity, expression]; identity is a linear layer of [geometry code, anchors], 16
    wide. Hyper-coordinates h represent topology that changes between frames (a mouth that opens): they select a slice
    of a higher-dimensional shape for the decoder (Park et al. 2021, "HyperNeRF"). The contribution of the codes to the
    two layers that they enter is computed once per frame.

    Points are in meters; the network computes in `anchors.normalized` units. Directions are unchanged. A point is valid
    within the sphere, and rays are sampled there.

    Our own choice: the output layer starts at a hundredth of the usual weights, and the layer to which the input is
    concatenated is as wide as the others.

    Args:
        anchors: anchors of the identity; shared with the decoder.
        ambient: number of hyper-coordinates; 0: none. MonoNPHM has 2; a `HashGrid` reads 1.
        expression_width: numbers in the expression code.
        identity_width: width of the projected geometry code and anchors.
        hidden, layers: units and number of the hidden layers.
        skip: index of the hidden layer to whose input the network's input is concatenated (both divided by √2), 1 to
            layers - 1; None: none.
        beta: sharpness of the Softplus, log(1 + exp(beta · x)) / beta.
        radius: radius of the sphere around `anchors.center` that contains the head, meters; 0.7 of MonoNPHM's units.
        expression: name of the expression code in `HeadState.codes`.

    Differentiable to any order in points, codes and parameters.

    Raises:
        ValueError: an argument is out of range; a code of the state has another width.

    Source: MonoNPHM (Giebenhain et al. 2024), section 4.1; sizes as in its released code.
    """

    gives_faces = False
    follows_head = False

    def __init__(
        self,
        anchors: Anchors,
        ambient: int = 1,
        expression_width: int = 100,
        identity_width: int = 16,
        hidden: int = 400,
        layers: int = 6,
        skip: int | None = 3,
        beta: float | int = 100.0,
        radius: float | int = 0.175,
        expression: str = "expression_code",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("ambient", ambient, 0), ("expression_width", expression_width, 1), ("identity_width", identity_width, 1),
            ("hidden", hidden, 1), ("layers", layers, 1),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"HyperDeformer: {name} is {value}; it must be at least {least}")
        if skip is not None and not 0 < skip < layers:
            raise ValueError(f"HyperDeformer: skip is {skip}; expected 1 to {layers - 1} with {layers} layers, or None")
        if not (0 < beta < torch.inf and 0 < radius < torch.inf):
            raise ValueError(f"HyperDeformer: beta is {beta} and radius {radius}; expected positive numbers")
        self.anchors = anchors
        self.ambient_width = ambient
        self.expression = expression
        self.expression_width = expression_width
        self.hidden = hidden
        self.skip = skip
        self.beta = float(beta)
        self.radius = float(radius)
        self.needs = (anchors.code, expression)
        self.code_widths = {anchors.code: anchors.layout.width, expression: expression_width}
        self.identity = nn.Linear(anchors.layout.width + 3 * len(anchors), identity_width)
        width = 3 + identity_width + expression_width
        inner = enumerate(hidden_layers(hidden, layers - 1), start=1)
        widths = [width] + [units + (width if layer == skip else 0) for layer, units in inner]
        self.layers = nn.ModuleList([nn.Linear(before, hidden) for before in widths])
        self.out = nn.Linear(hidden, 3 + ambient)
        with torch.no_grad():
            self.out.weight *= _SPREAD
            self.out.bias.zero_()

    def prepare(self, state: HeadState) -> HyperFrames:
        name = type(self).__name__
        geometry = self.anchors.layout.of_state(name, self.anchors.code, state)
        expression = state.need(name, self.expression, self.expression_width)
        if expression.shape[1] != self.expression_width:
            raise ValueError(
                f"{name}: the code {self.expression!r} of the HeadState has {expression.shape[1]} numbers, and "
                f"expression_width is {self.expression_width}; make its LatentTable as wide"
            )
        anchors = self.anchors.normalized(self.anchors(geometry)).flatten(1)
        codes = torch.cat([self.identity(torch.cat([geometry, anchors], dim=-1)), expression], dim=-1)
        first = self._layer(0)
        starts = functional.linear(codes, first.weight[:, 3:], first.bias)
        if self.skip is None:
            return HyperFrames(starts, None)
        again = self._layer(self.skip)
        return HyperFrames(starts, functional.linear(codes / 2**0.5, again.weight[:, self.hidden + 3 :], again.bias))

    def bounds(self) -> Float[Tensor, "2 3"]:
        return torch.stack([self.anchors.center - self.radius, self.anchors.center + self.radius])

    def posed_bounds(self, prepared: HyperFrames) -> Float[Tensor, "2 3"]:
        return self.bounds()

    def near_far(self, rays: Rays, prepared: HyperFrames) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return ray_sphere(rays, self.anchors.center, self.radius)

    def forward(
        self,
        points: Float[Tensor, "m 3"],
        directions: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        prepared: HyperFrames,
    ) -> Canonical:
        x = self.anchors.normalized(points)
        out = self._network(x, frame, prepared)
        return Canonical(
            points=points + out[:, :3] / self.anchors.scale,
            directions=directions,
            posed_points=points,
            frame=frame,
            valid=(points.detach() - self.anchors.center).norm(dim=-1) <= self.radius,
            ambient=out[:, 3:] if self.ambient_width else None,
        )

    def _network(self, x: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: HyperFrames) -> Tensor:
        hidden = x
        for index in range(len(self.layers)):
            layer = self._layer(index)
            if index == 0:
                hidden = _linear_from(x, layer.weight[:, :3], prepared.first, frame)
            elif index == self.skip and prepared.again is not None:
                joined = torch.cat([hidden, x], dim=-1) / 2**0.5
                hidden = _linear_from(joined, layer.weight[:, : self.hidden + 3], prepared.again, frame)
            else:
                hidden = layer(hidden)
            hidden = softplus(hidden, self.beta)
        return self.out(hidden)

    def _layer(self, index: int) -> nn.Linear:
        layer = self.layers[index]
        assert isinstance(layer, nn.Linear)
        return layer


def _linear_from(x: Tensor, weight: Tensor, starts: Float[Tensor, "b hidden"], frame: Int[Tensor, " m"]) -> Tensor:
    """x Wᵀ + the row of each point's frame; with one frame the row is the bias of the layer."""
    if len(starts) == 1:
        return functional.linear(x, weight, starts[0])
    return functional.linear(x, weight) + starts.index_select(0, frame)
