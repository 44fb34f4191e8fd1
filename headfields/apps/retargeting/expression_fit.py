"""Expression coefficients fitted to a mesh by bounded least squares."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.data.expression_basis import regress_expressions
from headfields.ops._checks import check_floating, check_shape

__all__ = ["ExpressionFit", "regress_expressions"]

_ROUNDS = 200  # most iterations of the search for the active bounds


class ExpressionFit(nn.Module):
    """The coefficients c, within bounds, for which neutral + c · basis is nearest to given vertices.

    A network trained with one head's coefficients (INSTA's mouth reads them) cannot read another head's. So the
    coefficients are fitted to the retargeted mesh in the target's own basis, within the range seen in training. The
    problem is a convex quadratic program in E unknowns: min ‖W(v − n − c·B)‖² + λ‖c‖², low ≤ c ≤ high. Accelerated
    projected gradient descent finds which bounds are active; a linear solve then gives the free coefficients exactly.

    Args:
        neutral: (V, 3) meters.
        basis: (E, V, 3) displacements of the coefficients at 1, meters.
        low, high: (E,) bounds; 0 and 1 by default, as usual for blendshapes.
        weights: (V,) of the vertices; 1 by default.
        ridge: λ over the mean diagonal entry of the normal matrix. It shares ambiguous coefficients evenly, and keeps
            those that the mesh does not determine at 0 (or at the nearer bound).

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or a lower bound is above its upper one.

    Differentiable in the vertices to any order, with the set of coefficients at their bounds held fixed.
    """

    neutral: Tensor
    basis: Tensor
    low: Tensor
    high: Tensor
    weights: Tensor
    _normal: Tensor

    def __init__(
        self,
        neutral: Float[Tensor, "v 3"],
        basis: Float[Tensor, "e v 3"],
        low: Float[Tensor, " e"] | None = None,
        high: Float[Tensor, " e"] | None = None,
        weights: Float[Tensor, " v"] | None = None,
        ridge: float = 1e-4,
    ) -> None:
        super().__init__()
        check_floating("ExpressionFit", "neutral", neutral)
        check_shape("ExpressionFit", "neutral", neutral, "V 3")
        check_floating("ExpressionFit", "basis", basis)
        if basis.dim() != 3 or basis.shape[1:] != neutral.shape:
            raise ValueError(
                f"ExpressionFit: basis has shape {tuple(basis.shape)}; expected (E, {len(neutral)}, 3) for neutral's "
                f"{len(neutral)} vertices"
            )
        if not ridge > 0:
            raise ValueError(f"ExpressionFit: ridge is {ridge}; it must be positive")
        count = len(basis)
        low = basis.new_zeros(count) if low is None else low
        high = basis.new_ones(count) if high is None else high
        weights = basis.new_ones(len(neutral)) if weights is None else weights
        for name, value, size in (("low", low, count), ("high", high, count), ("weights", weights, len(neutral))):
            if value.shape != (size,):
                raise ValueError(f"ExpressionFit: {name} has shape {tuple(value.shape)}; expected ({size},)")
        if bool((low > high).any()):
            bad = int((low > high).nonzero()[0])
            raise ValueError(f"ExpressionFit: low[{bad}] = {float(low[bad])} is above high[{bad}] = {float(high[bad])}")
        flat = basis.detach().double().flatten(1)
        weighted = flat * weights.double().repeat_interleave(3)
        normal = weighted @ flat.transpose(0, 1)
        amount = ridge * float(normal.diagonal().mean()) if count else 0.0
        normal = normal + max(amount, 1e-12) * torch.eye(count, dtype=torch.float64, device=basis.device)
        for name, value in (
            ("neutral", neutral), ("basis", basis), ("low", low), ("high", high), ("weights", weights),
        ):  # fmt: skip
            self.register_buffer(name, value.detach().clone(), persistent=False)
        self.register_buffer("_normal", normal, persistent=False)

    def extra_repr(self) -> str:
        return f"{len(self.basis)} coefficients from {len(self.neutral)} vertices"

    def forward(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b e"]:
        """Coefficients (B, E) of vertices (B, V, 3) in the head's own frame; B = 0 is legal.

        Raises:
            TypeError, ValueError: dtype or shape does not fit.
        """
        check_floating("ExpressionFit", "vertices", vertices)
        if vertices.dim() != 3 or vertices.shape[1:] != self.neutral.shape:
            raise ValueError(
                f"ExpressionFit: vertices has shape {tuple(vertices.shape)}; expected (B, {len(self.neutral)}, 3)"
            )
        moved = ((vertices - self.neutral).double() * self.weights.double()[:, None]).flatten(1)
        right = moved @ self.basis.double().flatten(1).transpose(0, 1)
        low, high = self.low.double(), self.high.double()
        with torch.no_grad():
            rough = self._descend(right.detach(), low, high)
            free = (rough > low) & (rough < high)
        # The free coefficients solve a linear system, which carries the gradient; the others stay at their bounds.
        pair = free[:, :, None] & free[:, None, :]
        identity = torch.eye(len(low), dtype=torch.float64, device=right.device)
        system = torch.where(pair, self._normal, identity)
        fixed = torch.where(free, 0.0, rough)
        target = torch.where(free, right - fixed @ self._normal, fixed)
        exact = torch.linalg.solve(system, target[..., None])[..., 0] if right.numel() else right
        return exact.clamp(low, high).to(vertices.dtype)

    def _descend(self, right: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # Scaled to a unit diagonal: blinks move millimeters of few vertices, jaws centimeters of many.
        scale = self._normal.diagonal().clamp_min(1e-300).sqrt()
        matrix = self._normal / (scale[:, None] * scale[None])
        right, low, high = right / scale, low * scale, high * scale
        step = 1.0 / torch.linalg.matrix_norm(matrix, ord=2).clamp_min(1e-12) if len(matrix) else 1.0
        current = right.new_zeros(right.shape).clamp(low, high)
        ahead, momentum = current, 1.0
        for _ in range(_ROUNDS):
            after = (ahead - step * (ahead @ matrix - right)).clamp(low, high)
            following = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
            ahead = after + (momentum - 1) / following * (after - current)
            current, momentum = after, following
        return current / scale
