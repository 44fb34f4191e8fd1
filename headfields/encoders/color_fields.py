"""Color blendfields: fields of color residuals, blended by expression and pose."""

from jaxtyping import Float
from torch import Tensor

from headfields.networks.field_basis import BasisFields, BasisKind, BlendCoefficients, blend_fields
from headfields.parts import Encoder
from headfields.records import Canonical, HeadState


class ColorFields(Encoder):
    """Color residual of a frame at a canonical point, Σ_k α_k C_k(x), in logits.

    `Blendfield` for colors in place of points: the alternative in 3VP Avatar's ablation. Pass it as the last condition
    of an avatar whose decoder is `headfields.decoders.BlendedColor`, which adds it to the color.

    Args:
        coefficients: the mapping network; its `fields` is K. It may be shared with a `Blendfield`.
        kind, options: kind and options of the basis, see `headfields.networks.field_basis.BasisFields`.

    Differentiable in points, state and parameters to second order, except across the cells of a grid.

    Raises:
        ValueError: as `BlendCoefficients` and, when the avatar is built, as `BasisFields`.

    Source: 3VP Avatar (Nehvi et al. 2024), the ablation of its blendfields; the formula is our own choice.
    """

    rate_group = "blendfield"
    width = 3

    def __init__(
        self, coefficients: BlendCoefficients, kind: BasisKind = "grid", options: dict[str, int] | None = None
    ) -> None:
        super().__init__()
        self.coefficients = coefficients
        self.needs = coefficients.needs
        self.kind: BasisKind = kind
        self.options = options or {}

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        self.basis = BasisFields(bounds, self.coefficients.fields, 3, self.kind, **self.options)

    def extra_repr(self) -> str:
        return f"{self.coefficients.fields} fields, kind={self.kind!r}"

    def prepare(self, state: HeadState) -> Float[Tensor, "b k"]:
        return self.coefficients(state)

    def forward(self, canonical: Canonical, prepared: Float[Tensor, "b k"]) -> Float[Tensor, "m 3"]:
        return blend_fields(self.fields_at(canonical.points), canonical.frame, prepared)

    def fields_at(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m k 3"]:
        """The K fields at M canonical points, logits."""
        return self.basis(points)
