"""Expression coefficients fitted to a mesh by bounded least squares, and a basis regressed from examples."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

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


def regress_expressions(
    codes: Float[Tensor, "n e"], vertices: Float[Tensor, "n v 3"]
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "e v 3"]]:
    """Neutral mesh and expression basis by ridge regression over examples.

    Captures store meshes and coefficients, but not the head model. For blendshapes the relation is linear, and this
    recovers the part of the basis that the examples span; otherwise it is the best linear approximation. The
    leave-one-out error, which has a closed form (Golub, Heath and Wahba 1979), chooses the ridge.

    Args:
        codes: (N, E); N ≥ 3.
        vertices: (N, V, 3) meters.

    Returns:
        neutral (V, 3) and basis (E, V, 3), meters. A coefficient that never varies has a zero displacement.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or there are fewer than three examples.
    """
    check_floating("regress_expressions", "codes", codes)
    check_shape("regress_expressions", "codes", codes, "N E")
    check_floating("regress_expressions", "vertices", vertices)
    check_shape("regress_expressions", "vertices", vertices, "N V 3")
    if len(codes) != len(vertices) or len(codes) < 3:
        raise ValueError(
            f"regress_expressions: {len(codes)} rows of codes and {len(vertices)} meshes; pass three of both or more"
        )
    x, y = codes.double(), vertices.double().flatten(1)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    significant = s > 1e-9 * s.amax().clamp_min(1e-300) if len(s) else s > 0
    u, s, vh = u[:, significant], s[significant], vh[significant]
    if not len(s):
        return mean_y.reshape(-1, 3).to(vertices), codes.new_zeros(codes.shape[1], *vertices.shape[1:])
    along = u.transpose(0, 1) @ y
    best, chosen = torch.inf, 0.0
    for exponent in torch.linspace(-8, 1, 19).tolist():
        penalty = float(s[0]) ** 2 * 10**exponent
        share = s**2 / (s**2 + penalty)
        leverage = 1 / len(x) + ((u * u) * share).sum(1)
        residual = y - u @ (share[:, None] * along)
        error = float(((residual / (1 - leverage).clamp_min(1e-6)[:, None]) ** 2).sum())
        if error < best:
            best, chosen = error, penalty
    slopes = vh.transpose(0, 1) @ ((s / (s**2 + chosen))[:, None] * along)
    neutral = mean_y - mean_x @ slopes
    return neutral.reshape(-1, 3).to(vertices), slopes.reshape(codes.shape[1], *vertices.shape[1:]).to(vertices)
