"""Blendfields: displacement fields over canonical space, blended by expression and pose."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.deformers.jacobian import point_jacobian
from headfields.networks.field_basis import BasisFields, BasisKind, BlendCoefficients, blend_fields
from headfields.ops.ray_box import ray_box
from headfields.parts import Correction, Deformer
from headfields.records import Canonical, HeadState, Rays, Splats

_ITERATIONS = 4


@dataclass(frozen=True)
class Mixture:
    """Coefficients of B frames, from `Blendfield.prepare`."""

    coefficients: Float[Tensor, "b k"]


class Blendfield(Deformer):
    """Fine deformation after a coarse one: x_c = x + scale · Σ_k α_k D_k(x).

    x is the image of a posed point under the coarse deformer, D_k are K displacement fields over that space, and α are
    the coefficients of the frame: `Chain(SurfaceCanonicalizer(...), Blendfield(...))`. Motion that the tracked mesh
    does not model (inner mouth, folds, hair) is learned once for all frames, as a function of jaw and expression.
    Directions are unchanged, and every point is valid: the coarse deformer decides validity. Without a coarse deformer
    it samples rays through its box.

    Gaussians keep canonical coordinates and go back by x = x_c − scale · Σ_k α_k D_k(x), solved by four fixed-point
    iterations from x_c: their error is about the displacement times the fourth power of the field's slope. Rotations
    and scales are unchanged.

    It is a learned correction (`corrects`), so `headfields.losses.WarpMagnitude` and `Elastic` apply to it;
    `headfields.losses.blendfield` has losses of its own.

    The paper's outline is known and its numbers are not. Our own choice are all sizes, the order (fine after coarse, as
    in the paper's abstract), unbounded coefficients, fields that start at zero, and unchanged directions.

    Args:
        box: (2, 3) corners of the space that points come from, meters: `bounds()` of the coarse deformer.
        coefficients: the mapping network; its `fields` is K.
        kind: `"grid"` or `"mlp"`, see `BasisFields`.
        scale: displacement for a field's value of 1 and a coefficient of 1, meters; the larger, the faster it learns.
        options: options of the basis, see `BasisFields`.

    Differentiable in points, state and parameters to second order, except across the cells of a grid.

    Raises:
        ValueError: an argument is out of range; later, as `BlendCoefficients`.
        TypeError: there is no such option.

    Source: 3VP Avatar (Nehvi et al. 2024).
    """

    corrects = True
    poses = True
    follows_head = False
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

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        return splats, torch.full_like(splats.means[..., 0], -1).long() if face is None else face

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        return splats

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: Mixture) -> Splats:
        frames = len(prepared.coefficients)
        canonical = splats.means.expand(frames, splats.count, 3)
        frame = torch.arange(frames, device=canonical.device).repeat_interleave(splats.count)
        moved = canonical
        for _ in range(_ITERATIONS):
            offset = self.displacement(moved.flatten(0, 1), frame, prepared.coefficients)
            moved = canonical - offset.view_as(canonical)
        return splats.placed(moved, splats.quaternions, splats.scales)

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
