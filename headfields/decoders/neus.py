"""NeuS decoder: signed distance from the point and features, color from point, normal, direction and features."""

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headfields.networks.mlp import hidden_layers, mlp
from headfields.ops.frequency import frequency_encoding
from headfields.parts import Decoder
from headfields.records import Canonical, Features, FieldValues

SOFTPLUS = 100.0
"""β of the softplus between the layers of the distance network, a smooth ReLU: normals need second derivatives."""


class NeuSDecoder(Decoder):
    """Signed distance from the canonical point and the features, and color from point, normal, direction and both.

    The input of the distance network is the canonical point, scaled to [-1, 1] over the longest side of the canonical
    box, followed by the features of any encoders. It starts as the distance to a sphere, by the geometric
    initialization of SAL (Atzmon and Lipman 2020), with weights of 1e-4 for the features: not 0, so that hash grids
    learn from the first step. Our own choice: orthogonal weights of hidden layers and a least-squares fit of the last
    layer to the sphere, so that narrow networks start round too; no weight normalization.

    The color network has ReLU, and a sigmoid at the end. Its normal is the normalized derivative of the distance by the
    canonical point, in canonical space, as are its point and direction. Features that depend on the posed point in
    other ways (vertex features, a surface look-up) are constants for this normal; the normal in posed space that
    `headfields.Field.signed_distance` gives includes them.

    Args:
        hidden: units of the hidden layers. NeuS: 256 for both networks.
        layers: hidden layers of the distance network (NeuS: 8). The default is for features of a hash grid.
        skip: index of the hidden layer to which the input is concatenated; None: none (NeuS: 4).
        geometry_width: outputs of the distance network that are inputs of the color network (NeuS: 256).
        color_layers: hidden layers of the color network (NeuS: 4).
        direction_bands: octaves of the direction's encoding, after the direction itself (NeuS: 4); 0 makes color
            independent of it.
        radius: radius of the initial sphere, meters; that of a head is about 0.1. An eighth of the box's diagonal if
            None.
        center: (3,) of the initial sphere, canonical, meters; the middle of the box if None.

    Differentiable to second order in features and points; in directions to any order.

    Raises:
        ValueError: a size or a radius is out of range.

    Source: Wang et al. 2021, "NeuS", section 3 and released configuration; sizes without a note are our own choice.
    """

    gives = "distance"
    color_needs_normals = True
    middle: Tensor
    unit: Tensor

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 2,
        skip: int | None = None,
        geometry_width: int = 16,
        color_layers: int = 2,
        direction_bands: int = 4,
        radius: float | int | None = None,
        center: Float[Tensor, "3"] | None = None,
    ) -> None:
        super().__init__()
        if min(hidden, layers) < 1 or min(geometry_width, color_layers, direction_bands) < 0:
            raise ValueError(
                f"NeuSDecoder: hidden={hidden}, layers={layers}, geometry_width={geometry_width}, color_layers="
                f"{color_layers}, direction_bands={direction_bands}; expected at least 1, 1, 0, 0, 0"
            )
        if skip is not None and not 0 < skip < layers:
            raise ValueError(f"NeuSDecoder: skip is {skip}; expected a hidden layer in [1, {layers}), or None")
        if radius is not None and not radius > 0:
            raise ValueError(f"NeuSDecoder: radius is {radius} m; it must be positive, or None")
        self.hidden = hidden
        self.layers = layers
        self.skip = skip
        self.geometry_width = geometry_width
        self.color_layers = color_layers
        self.direction_bands = direction_bands
        self.radius = radius
        self.register_buffer("middle", torch.zeros(3) if center is None else center.detach().float().clone())
        self.register_buffer("unit", torch.ones(()))
        self._center_fixed = center is not None

    def extra_repr(self) -> str:
        return f"layers={self.layers} x {self.hidden}, skip={self.skip}, radius={self.radius} m"

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        if bounds is not None:
            low, high = bounds.detach().float()
            if not self._center_fixed:
                self.middle.copy_((low + high) / 2)
            self.unit.copy_((high - low).max() / 2)
            if self.radius is None:
                self.radius = float((high - low).norm()) / 8
        if self.radius is None:
            raise ValueError("NeuSDecoder: radius is None outside an Avatar, which knows the box; pass it in meters")
        widths = [3 + width, *hidden_layers(self.hidden, self.layers)]
        inputs = [size + (3 + width if index == self.skip else 0) for index, size in enumerate(widths)]
        outputs = [*widths[1:], 1 + self.geometry_width]
        self.distance_network = nn.ModuleList(nn.Linear(size, out) for size, out in zip(inputs, outputs, strict=True))
        direction_width = 3 * (2 * self.direction_bands + 1) if self.direction_bands else 0
        self.color_network = mlp(
            6 + self.geometry_width + direction_width, self.hidden, self.color_layers, 3, bias=True
        )
        self._initialize_to_sphere(width)

    @torch.no_grad()
    def _initialize_to_sphere(self, width: int) -> None:
        last: Any
        *hidden, last = self.distance_network
        for index, linear in enumerate(cast(list[nn.Linear], hidden)):
            columns = 3 if index == 0 else self.hidden + 3 if index == self.skip else self.hidden
            nn.init.normal_(linear.weight, 0.0, 1e-4)
            linear.weight[:, :columns] = _orthogonal(self.hidden, columns).to(linear.weight)
            nn.init.zeros_(linear.bias)
        sphere = (self.radius or 0.0) / float(self.unit)
        nn.init.normal_(last.weight, 0.0, 1e-2)
        nn.init.zeros_(last.bias)
        # The weights that the geometric initialization has in expectation, and the closest ones that fit the sphere.
        expected = torch.full((self.hidden,), math.sqrt(math.pi / self.hidden), dtype=torch.float64)
        points = 2 * torch.rand(4096, 3) - 1
        units = self._activations(torch.cat([points, points.new_zeros(len(points), width)], dim=-1)).double()
        design = torch.cat([units, torch.ones_like(units[:, :1])], dim=-1)
        target = points.double().norm(dim=-1) - sphere
        prior = torch.cat([expected, expected.new_tensor([-sphere])])
        normal = design.T @ design
        ridge = 1e-6 * normal.diagonal().mean() * torch.eye(len(prior), dtype=torch.float64)
        solution = prior + torch.linalg.solve(normal + ridge, design.T @ (target - design @ prior))
        last.weight[0] = solution[:-1].to(last.weight)
        last.bias[0] = solution[-1].to(last.bias)

    def _activations(self, inputs: Float[Tensor, "m _"]) -> Float[Tensor, "m _"]:
        """Input of the last layer; `inputs` are the scaled point and the features."""
        x = inputs
        for index, linear in enumerate(list(self.distance_network)[:-1]):
            if index == self.skip:
                x = torch.cat([x, inputs], dim=-1) / math.sqrt(2)
            x = functional.softplus(linear(x), beta=SOFTPLUS)
        return x

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        """The distances (M,) of M points, and the geometry for `color`, which needs normals; M = 0 is legal."""
        points = (canonical.points - self.middle) / self.unit
        # Distances are needed to a fraction of a millimeter, and their derivatives too: 16 bits are not enough.
        with torch.autocast(points.device.type, enabled=False):
            inputs = torch.cat([points, features.joined().to(points.dtype)], dim=-1)
            out = self.distance_network[-1](self._activations(inputs))
        return FieldValues(distance=out[:, 0] * self.unit, geometry=torch.cat([points, out[:, 1:]], dim=-1))

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        """The color (M, 3) from `values.geometry` and `values.canonical_normal`; M = 0 is legal.

        Raises:
            ValueError: the values have no canonical_normal.
        """
        if values.geometry is None or values.canonical_normal is None:
            raise ValueError(
                "NeuSDecoder.color: values.geometry or values.canonical_normal is None; decode with "
                "headfields.Field.signed_distance, which computes normals"
            )
        inputs = [values.geometry, values.canonical_normal]
        if self.direction_bands:
            inputs.append(frequency_encoding(canonical.directions, self.direction_bands))
        return self.color_network(torch.cat(inputs, dim=-1)).sigmoid()


def _orthogonal(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """A matrix that with a ReLU preserves lengths on average: orthonormal columns (rows, if fewer) times √2."""
    matrix = torch.empty(rows, columns)
    nn.init.orthogonal_(matrix, gain=math.sqrt(2 * max(columns / rows, 1.0)))
    return matrix
