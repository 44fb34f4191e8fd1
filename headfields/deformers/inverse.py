"""Inverse of a deformer: posed positions of canonical points, by Broyden's method."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.implicit import implicit_root
from headfields.parts import Deformer
from headfields.records import Inverse
from headfields.records.device_copy import any_directions, send
from headfields.records.inverse import inverse_3x3

_FIXED = 8192
"""A GPU searches up to so many points without being waited for, all of them in all steps. Of more, those that have
converged are left out after each step, which the host waits for: there are meshes. Own choice."""


def invert(
    deformer: Deformer,
    prepared: Any,
    points: Float[Tensor, "n 3"],
    frame: Int[Tensor, " n"],
    guess: Float[Tensor, "n 3"] | None = None,
    starts: int = 32,
    spread: float | int = 0.0005,
    steps: int = 30,
    tolerance: float | int = 1.25e-5,
    diverge: float | int = 0.025,
    chunk: int = 32768,
) -> Inverse:
    """The posed points that a deformer maps to the given canonical points: landmarks and meshes, posed.

    Broyden's method from each point's guess, all points at once: the exact Jacobian at the start, then rank-one
    updates. Points that did not converge are searched again from `starts - 1` points drawn around the guess (with a
    fixed seed), and the best is kept. If the deformer maps several posed points to one canonical point, the guess
    decides which is returned.

    The defaults are those of MonoNPHM's tracker (σ .002, tolerance 5e-5, divergence .1 in its units, quarters of a
    meter), in meters. Our own choice: to search from the guess alone first, and to give up a search only if its
    residual also exceeds the initial one.

    `Canonical.valid` is ignored: a point outside the deformer's domain has an inverse if the formula has one.

    >>> import torch
    >>> from headfields.deformers import Static
    >>> points = torch.tensor([[0.0, 0.1, 0.0]])
    >>> inverse = invert(Static(torch.tensor([[-1.0] * 3, [1.0] * 3])), None, points, torch.tensor([0]))
    >>> inverse.points, inverse.converged
    (tensor([[0.0000, 0.1000, 0.0000]]), tensor([True]))

    Args:
        deformer: any whose points are differentiable in its posed points.
        prepared: the result of its `prepare`.
        points: (N, 3) canonical, meters; N = 0 is legal.
        frame: (N,) the row of the state in which each is posed.
        guess: (N, 3) initial posed points, meters; the canonical points if None.
        starts: most searches for a point.
        spread: standard deviation of further initial points around the guess, meters.
        steps: most steps of a search.
        tolerance: largest residual of a converged point, meters. float32 resolves points of a head to about 1e-8 m.
        diverge: a search ends if its residual exceeds this and its initial residual, meters.
        chunk: points at a time.

    Differentiable once in the canonical points and in all that the deformer is differentiable in (codes, vertices,
    parameters), by the implicit function theorem: dx = J⁻¹ (dx_c - ∂g/∂θ dθ). A second derivative raises.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or a number is out of range.

    Source: Broyden 1965, "A class of methods for solving nonlinear simultaneous equations"; inverses of deformation
    fields: SNARF (Chen et al. 2021), section 3.3; MonoNPHM (Giebenhain et al. 2024), released code.
    """
    op = "invert"
    check_floating(op, "points", points)
    check_shape(op, "points", points, "N 3")
    check_integer(op, "frame", frame)
    check_shape(op, "frame", frame, f"{len(points)}")
    if guess is not None:
        check_floating(op, "guess", guess)
        check_shape(op, "guess", guess, f"{len(points)} 3")
    if min(starts, steps, chunk) < 1 or not (spread >= 0 and tolerance > 0 and diverge > 0):
        raise ValueError(
            f"{op}: starts={starts}, steps={steps}, chunk={chunk}, spread={spread}, tolerance={tolerance}, "
            f"diverge={diverge}; expected at least 1, 1, 1, 0 and positive numbers"
        )
    search = _Search(deformer, prepared, steps, float(tolerance), float(diverge))
    start = (points if guess is None else guess).detach()
    with torch.no_grad():
        chunks = [
            search.several(start[i : i + chunk], points[i : i + chunk].detach(), frame[i : i + chunk], starts, spread)
            for i in range(0, max(len(points), 1), chunk)
        ]
        root, residual = (torch.cat(each) for each in zip(*chunks, strict=True))
        converged = residual <= tolerance
    if torch.is_grad_enabled():
        off = search.canonical(root, frame) - points
        if may_be_differentiated(off):
            _, jacobian = search.with_jacobian(root, frame)
            inverse, usable = _inverse(jacobian)
            root = implicit_root(root, off, torch.where((converged & usable)[:, None, None], inverse, 0.0))
    return Inverse(points=root, converged=converged, residual=residual)


@dataclass(frozen=True)
class _Search:
    deformer: Deformer
    prepared: Any
    steps: int
    tolerance: float
    diverge: float

    def canonical(self, x: Float[Tensor, "n 3"], frame: Int[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        directions = any_directions(x)
        return self.deformer(x, directions, frame, self.prepared).points

    def with_jacobian(
        self, x: Float[Tensor, "n 3"], frame: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 3"]]:
        """The canonical points and J[n, i, j] = ∂(canonical)ᵢ / ∂xⱼ, without a graph."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            mapped = self.canonical(x, frame)
            rows = [
                torch.autograd.grad(
                    mapped[:, axis].sum(), x, retain_graph=axis < 2, allow_unused=True, materialize_grads=True
                )[0]
                for axis in range(3)
            ]
        return mapped.detach(), torch.stack(rows, dim=1)

    def several(
        self, guess: Tensor, target: Tensor, frame: Tensor, starts: int, spread: float | int
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """The best points of a search from the guess and, if that fails, from points around it; and their residuals."""
        best, residual = self.once(guess, target, frame)
        more = starts - 1
        if more == 0:
            return best, residual
        if not _leaves_out(guess, more * len(guess)):
            return self._all_again(best, residual, guess, target, frame, more, spread)
        lost = (residual > self.tolerance).nonzero()[:, 0]
        if len(lost) == 0:
            return best, residual
        shift = (spread * _normal(more, len(lost))).to(guess)
        x, off = self._again(guess[lost], target[lost], frame[lost], shift)
        better = off < residual[lost]
        best[lost] = torch.where(better[:, None], x, best[lost])
        residual[lost] = torch.where(better, off, residual[lost])
        return best, residual

    def _all_again(
        self, best: Tensor, residual: Tensor, guess: Tensor, target: Tensor, frame: Tensor, more: int,
        spread: float | int,
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:  # fmt: skip
        """As `several` after its first search; points that it has found are searched too, and stay."""
        x, off = self._again(guess, target, frame, _sent_shift(more, len(guess), spread, guess.dtype, guess.device))
        better = (off < residual) & (residual > self.tolerance)
        return torch.where(better[:, None], x, best), torch.where(better, off, residual)

    def _again(
        self, guess: Tensor, target: Tensor, frame: Tensor, shift: Float[Tensor, "s n 3"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """The best of S searches for each point, from its guess and these shifts."""
        more, count = shift.shape[:2]
        x, off = self.once((guess + shift).flatten(0, 1), target.repeat(more, 1), frame.repeat(more))
        off, which = off.view(more, count).min(dim=0)
        return x.view(more, count, 3)[which, torch.arange(count, device=x.device)], off

    def once(self, x: Tensor, target: Tensor, frame: Tensor) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """One search for each point: its best iterate, and the residual of that."""
        mapped, jacobian = self.with_jacobian(x, frame)
        off = mapped - target
        inverse, usable = _inverse(jacobian)
        identity = torch.eye(3, dtype=x.dtype, device=x.device)
        inverse = torch.where(usable[:, None, None], inverse, identity)
        best, residual = x.clone(), off.norm(dim=-1).nan_to_num(nan=torch.inf)
        limit = residual.clamp_min(self.diverge)
        if not _leaves_out(x, len(x)):
            return self._in_all_steps(x, off, inverse, best, residual, limit, target, frame)
        active = ((residual > self.tolerance) & residual.isfinite()).nonzero()[:, 0]
        x, off, inverse = x[active], off[active], inverse[active]
        for _ in range(self.steps):
            if len(active) == 0:
                break
            step = -(inverse @ off[..., None])[..., 0]
            x = x + step
            before, off = off, self.canonical(x, frame[active]) - target[active]
            length = off.norm(dim=-1).nan_to_num(nan=torch.inf)
            better = (length < residual[active]).nonzero()[:, 0]
            best[active[better]], residual[active[better]] = x[better], length[better]
            going = ((length > self.tolerance) & (length <= limit[active])).nonzero()[:, 0]
            step, before = step[going], before[going]
            active, x, off, inverse = active[going], x[going], off[going], inverse[going]
            inverse = _corrected(inverse, step, off - before)
        return best, residual

    def _in_all_steps(
        self, x: Tensor, off: Tensor, inverse: Tensor, best: Tensor, residual: Tensor, limit: Tensor, target: Tensor,
        frame: Tensor,
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:  # fmt: skip
        """As `once` after its Jacobian, without a wait: points whose search has ended stay where they are."""
        active = (residual > self.tolerance) & residual.isfinite()
        for _ in range(self.steps):
            step = torch.where(active[:, None], -(inverse @ off[..., None])[..., 0], 0.0)
            x = x + step
            now = self.canonical(x, frame) - target
            length = now.norm(dim=-1).nan_to_num(nan=torch.inf)
            better = active & (length < residual)
            best, residual = torch.where(better[:, None], x, best), torch.where(better, length, residual)
            active = active & (length > self.tolerance) & (length <= limit)
            corrected = _corrected(inverse, step, now - off)
            inverse = torch.where(active[:, None, None], corrected, inverse)
            off = torch.where(active[:, None], now, off)
        return best, residual


def _leaves_out(like: Tensor, count: int) -> bool:
    """Whether a search of so many points leaves out those that have converged, by indices that a GPU is waited for."""
    return like.is_cpu or count > _FIXED


def _normal(searches: int, count: int) -> Float[Tensor, "s n 3"]:
    """Normal random numbers, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(searches, count, 3, generator=generator, dtype=torch.float64)


@functools.lru_cache(8)
def _sent_shift(
    searches: int, count: int, spread: float | int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "s n 3"]:
    """`_normal`, scaled, on a GPU; sent once, as a captured step sends nothing."""
    return send((spread * _normal(searches, count)).to(dtype), device)


def _inverse(matrix: Float[Tensor, "n 3 3"]) -> tuple[Float[Tensor, "n 3 3"], Bool[Tensor, " n"]]:
    """Inverses, and which of them are usable."""
    inverse = inverse_3x3(matrix)
    return inverse, inverse.isfinite().all(dim=(-1, -2))


def _corrected(inverse: Float[Tensor, "n 3 3"], step: Tensor, change: Tensor) -> Float[Tensor, "n 3 3"]:
    """Broyden's ("good") correction of the inverse Jacobian after a step that changed the residual by `change`."""
    row = (step[:, None] @ inverse)[:, 0]
    along = (row * change).sum(dim=-1, keepdim=True)
    shortfall = step - (inverse @ change[..., None])[..., 0]
    scale = step.norm(dim=-1, keepdim=True).square()
    safe = along.abs() > 1e-6 * scale  # else the update would flip the inverse or make it huge
    factor = torch.where(safe, shortfall / torch.where(safe, along, torch.ones_like(along)), 0.0)
    return inverse + factor[..., None] * row[:, None]
