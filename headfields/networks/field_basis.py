"""Blended fields over canonical space: a basis of K fields, and their coefficients from expression and pose."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.networks.frame_inputs import FrameInputs, Rotations
from headfields.networks.mlp import MLP, hidden_layers
from headfields.ops.frequency import frequency_encoding
from headfields.ops.hash_grid import hash_grid
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.part_base import Part
from headfields.records import HeadState

BasisKind = Literal["grid", "mlp"]
_INITIAL = 1e-4


class BlendCoefficients(Part):
    """Mapping network: coefficients α (B, K) of K fields from expression, codes and joint rotations of each frame.

    A small fully connected network, α(c) = net(c) − net(0). The input of a joint is R − I, nine numbers without
    discontinuities. The neutral face, c = 0, has coefficients of 0, so what all frames share is left to the canonical
    field. Coefficients are not bounded.

    The weights of the inputs start at zero. Those of an input that is zero in all frames of training have no gradient
    and stay there, so an expression that training never showed does exactly nothing, instead of what random weights
    would make of it. So that all hidden units are active and have gradients from the first step on, the biases of the
    first layer start between 0.5 and 1.5: the network is linear at first and bends as its weights grow. With Adam,
    coefficients grow to about one within some hundred steps.

    3VP Avatar drives its blendfields by jaw pose and expression, not by the view or by a code of the frame, so that
    they generalize to new motion; the paper's numbers are not known, and everything else is our own choice.

    Args:
        condition: names of fields (or codes) of the `HeadState`, with the number of values of each that are used, the
            first ones: `{"expression": 100}`.
        joints: indices of joints whose rotations are used: `(2,)` is the jaw of FLAME, `(22,)` that of SMPL-X.
        fields: K.
        hidden, layers: width and number of hidden layers of the network.
        rotations: `"matrix"`, or `"6d"` for the first two rows of R.
        centered: whether it is that network; False: net(c), with PyTorch's initial values, as in RGBAvatar's released
            code (model/gaussian.py, `weight_module`: 129 numbers, 128, 128, K), where blendshapes start at zero
            instead.

    Differentiable to second order in the state and the parameters.

    Raises:
        ValueError: nothing drives the coefficients, or a size is not positive; later, a state whose fields are missing
            or too narrow.

    Source: 3VP Avatar (Nehvi et al. 2024): "blendfields" mixed by a mapping network.
    """

    rate_group = "blendfield"

    def __init__(
        self,
        condition: Mapping[str, int],
        joints: Sequence[int] = (),
        fields: int = 8,
        hidden: int = 64,
        layers: int = 2,
        rotations: Rotations = "matrix",
        centered: bool = True,
    ) -> None:
        super().__init__()
        self._inputs = FrameInputs(dict(condition), tuple(joints), rotations)
        self._inputs.check("BlendCoefficients")
        for name, value in (("fields", fields), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"BlendCoefficients: {name} is {value}; it must be at least 1")
        if layers < 0:
            raise ValueError(f"BlendCoefficients: layers is {layers}; it may not be negative")
        self.condition = dict(condition)
        self.joints = tuple(joints)
        self.fields, self.centered = fields, centered
        self.needs = self._inputs.needs
        self.code_widths = dict(condition)
        width = self._inputs.width
        self.layers = layers
        if not centered:
            sizes = [width, *[hidden] * layers, fields]
            linear = [nn.Linear(*pair) for pair in pairwise(sizes)]
            self.network = nn.Sequential(*(part for layer in linear for part in (layer, nn.ReLU())))[:-1]
            return
        if layers:
            self.trunk = MLP(width, *hidden_layers(hidden, layers), bias=True)
            nn.init.zeros_(self.trunk[0].weight)  # type: ignore[arg-type]
            nn.init.uniform_(self.trunk[0].bias, 0.5, 1.5)  # type: ignore[arg-type]
            if layers > 1:
                nn.init.kaiming_uniform_(self.trunk[-1].weight, nonlinearity="relu")  # type: ignore[arg-type]
        self.out = nn.Linear(hidden if layers else width, fields, bias=False)
        if layers:
            nn.init.normal_(self.out.weight, std=hidden**-0.5)
        else:
            nn.init.zeros_(self.out.weight)

    def extra_repr(self) -> str:
        return f"{self.condition}, joints={self.joints}, fields={self.fields}"

    def inputs(self, state: HeadState) -> Float[Tensor, "b width"]:
        """Input of the network for B frames."""
        return self._inputs.of(type(self).__name__, state)

    def forward(self, state: HeadState) -> Float[Tensor, "b fields"]:
        """α of B frames; B = 0 is legal."""
        return self.of(self.inputs(state))

    def of(self, inputs: Float[Tensor, "b width"]) -> Float[Tensor, "b fields"]:
        """α of B rows of inputs (see `inputs`)."""
        if not self.centered:
            coefficients: Tensor = self.network(inputs)
            return coefficients
        if not self.layers:
            return self.out(inputs)
        hidden = torch.relu(self.trunk(torch.cat([inputs, inputs.new_zeros(1, inputs.shape[1])])))
        return self.out(hidden[:-1] - hidden[-1])


class BasisFields(nn.Module):
    """K fields over a box, of W values each: one encoding of the point, and a linear layer to all fields.

    `"grid"`: a multiresolution hash grid, dense at the resolutions of the defaults, and a linear layer; cheap, local.
    `"mlp"`: a frequency encoding and a fully connected network: smooth and slower. Both start near zero (1e-4).
    Outside the box a grid's values are those of its border.

    Args:
        box: (2, 3) corners, meters; the fields cover the cube around it.
        fields: K.
        width: W.
        kind: `"grid"` or `"mlp"`.
        options: options of the grid: `levels`, `features`, `log2_table_size`, `base_resolution`, `finest_resolution`;
            of the network: `bands`, `hidden`, `layers`.

    Differentiable to second order in points and parameters, except across the cells of the grid.

    Raises:
        ValueError: kind is neither, or a size is out of range.
        TypeError: an option does not exist.
    """

    low: Tensor
    side: Tensor

    def __init__(
        self, box: Float[Tensor, "2 3"], fields: int, width: int, kind: BasisKind = "grid", **options: int
    ) -> None:
        super().__init__()
        if kind not in ("grid", "mlp"):
            raise ValueError(f"BasisFields: kind is {kind!r}; expected 'grid' or 'mlp'")
        if min(fields, width) < 1:
            raise ValueError(f"BasisFields: fields is {fields} and width {width}; both must be at least 1")
        if box.shape != (2, 3) or not bool((box[1] > box[0]).all()):
            raise ValueError(f"BasisFields: box is {box.tolist()}; expected a minimum below a maximum corner, (2, 3)")
        box = box.detach().float()
        side = (box[1] - box[0]).max()
        self.register_buffer("low", box.mean(dim=0) - side / 2, persistent=False)
        self.register_buffer("side", side, persistent=False)
        self.fields, self.width, self.kind = fields, width, kind
        if kind == "grid":
            self._build_grid(fields * width, **options)
        else:
            self._build_network(fields * width, **options)

    def _build_grid(
        self,
        outputs: int,
        levels: int = 4,
        features: int = 4,
        log2_table_size: int = 19,
        base_resolution: int = 8,
        finest_resolution: int = 64,
    ) -> None:
        self.layout = HashGridLayout(levels, features, log2_table_size, base_resolution, finest_resolution)
        self.table = nn.Parameter(torch.empty(self.layout.entries, features).uniform_(-_INITIAL, _INITIAL))
        self.out = nn.Linear(self.layout.width, outputs, bias=False)

    def _build_network(self, outputs: int, bands: int = 4, hidden: int = 64, layers: int = 3) -> None:
        if bands < 0 or hidden < 1 or layers < 0:
            raise ValueError(f"BasisFields: bands={bands}, hidden={hidden}, layers={layers}; expected at least 0, 1, 0")
        self.bands = bands
        self.network = MLP(3 * (2 * bands + 1), *hidden_layers(hidden, layers), outputs, bias=True)
        with torch.no_grad():
            self.network[-1].weight.mul_(_INITIAL)  # type: ignore[operator]

    def forward(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m k w"]:
        """The K values (M, K, W) at M points."""
        unit = (points - self.low) / self.side
        if self.kind == "grid":
            values = self.out(hash_grid(unit, self.table, self.layout))
        else:
            values = self.network(frequency_encoding(2 * unit - 1, self.bands))
        return values.unflatten(-1, (self.fields, self.width))


def blend_fields(
    fields: Float[Tensor, "m k w"], frame: Int[Tensor, " m"], coefficients: Float[Tensor, "b k"]
) -> Float[Tensor, "m w"]:
    """Σ_k α[frame, k] fields[:, k]."""
    return (coefficients.index_select(0, frame)[..., None] * fields).sum(dim=1)
