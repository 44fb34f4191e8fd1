"""Blendfields: a basis of displacement fields over canonical space, mixed by what drives the head."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.jacobian import point_jacobian
from headfields.networks.field_basis import BasisFields, BasisKind, BlendCoefficients, blend_fields
from headfields.ops.ray_box import ray_box
from headfields.parts import Correction, Deformer
from headfields.records import Canonical, HeadState, Rays


@dataclass(frozen=True)
class Mixture:
    """What `Blendfield.prepare` makes of B frames: their coefficients."""

    coefficients: Float[Tensor, "b k"]


class Blendfield(Deformer):
    """The fine deformation behind a coarse one: x_c = x + scale · Σ_k α_k D_k(x).

    x is where the coarse deformer takes a posed point, D_k are K displacement fields over that space, and α are the
    coefficients of the frame: `Chain(SurfaceCanonicalizer(...), Blendfield(...))`. What the tracked mesh cannot say (an
    inner mouth, folds, hair) is learned once for all frames, and comes back with the jaw and the expression that it
    came with. Directions stay as they are, and every point is valid: whether there is matter is the coarse deformer's
    to say. Standing alone, it samples rays through its box.

    It is a learned correction (`corrects`), so that `headfields.losses.WarpMagnitude` and `Elastic` hold it small and
    stiff; `headfields.losses.blendfield` has what is its own.

    The paper's outline is known and its numbers are not: all sizes are our own choice, and so are the order (fine after
    coarse, as the paper's abstract has it), the unbounded coefficients, fields that start at zero, and directions that
    stay.

    Args:
        box: (2, 3) corners of the space that points come from, meters: `bounds()` of the coarse deformer.
        coefficients: the mapping network; its `fields` is K.
        kind: `"grid"` or `"mlp"`, see `BasisFields`.
        scale: meters that a field's value of 1 moves a point, with a coefficient of 1; the larger, the faster it
            learns.
        options: of the basis, see `BasisFields`.

    Differentiable in points, state and parameters to second order, except across the cells of a grid.

    Raises:
        ValueError: an argument is out of range; later, as `BlendCoefficients`.
        TypeError: there is no such option.

    Source: 3VP Avatar (Nehvi et al. 2024).
    """

    corrects = True
    rate_group = "blendfield"
    box: Tensor

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        coefficients: BlendCoefficients,
        kind: BasisKind = "grid",
        scale: float | int = 0.01,
        options: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < scale < torch.inf:
            raise ValueError(f"Blendfield: scale is {scale} m; expected a positive number")
        self.coefficients = coefficients
        self.needs = coefficients.needs
        self.basis = BasisFields(box, coefficients.fields, 3, kind, **(options or {}))
        self.register_buffer("box", box.detach().float().clone(), persistent=False)
        self.scale = scale

    def extra_repr(self) -> str:
        return f"{self.coefficients.fields} fields, kind={self.basis.kind!r}, scale={self.scale} m"

    def bounds(self) -> Float[Tensor, "2 3"]:
        return self.box

    def posed_bounds(self, prepared: Mixture) -> Float[Tensor, "2 3"]:
        return self.box

    def near_far(self, rays: Rays, prepared: Mixture) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return ray_box(rays, self.box)

    def prepare(self, state: HeadState) -> Mixture:
        return Mixture(self.coefficients(state))

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"],
        prepared: Mixture,
    ) -> Canonical:  # fmt: skip
        moved = points + self.displacement(points, frame, prepared.coefficients)
        valid = torch.ones(len(points), dtype=torch.bool, device=points.device)
        return Canonical(points=moved, directions=directions, posed_points=points, frame=frame, valid=valid)

    def displacement(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], coefficients: Float[Tensor, "b k"]
    ) -> Float[Tensor, "m 3"]:
        """scale · Σ_k α_k D_k at M points, meters, with the coefficients of their frames."""
        return blend_fields(self.fields_at(points), frame, coefficients)

    def fields_at(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m k 3"]:
        """The K fields at M points, meters."""
        return self.scale * self.basis(points)

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Mixture, jacobians: bool = False
    ) -> list[Correction]:
        def moved(x: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
            return x + self.displacement(x, frame, prepared.coefficients)

        if jacobians:
            return [Correction(points, *point_jacobian(moved, points))]
        return [Correction(points, moved(points))]
