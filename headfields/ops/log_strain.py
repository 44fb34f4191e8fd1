"""Logarithmic strain: the sum of squared logarithms of the singular values of a Jacobian, 0 where a map is rigid.

With C = JᵀJ and its eigenvalues λ = σ², the energy Σ log² σ = ¼ Σ log² λ is a smooth function of C, also where
eigenvalues are equal, as at J = I. Its derivatives are those of a function of a symmetric matrix: the first is
G = V diag(g(λ)) Vᵀ with g(λ) = ½ log(λ) / λ, the second V (g[λᵢ, λⱼ] ∘ VᵀHV) Vᵀ with divided differences of g
(Daleckii and Krein 1965; Higham 2008, "Functions of Matrices", theorem 3.11). Neither divides by a difference of
eigenvalues, as the derivative of a decomposition would.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape, no_third_derivative, require_shapes
from headfields.ops.eigen import symmetric_eigen
from headfields.ops.registration import like, register_op

LEAST = 1e-12
"""Least eigenvalue of JᵀJ (singular value 1e-6): smaller ones count as this much, so the energy stays finite."""


def log_strain(jacobians: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """‖log Σ‖² = Σᵢ log² σᵢ of the singular values of each matrix: 0 for a rotation (or a reflection).

    The squared Frobenius norm of Hencky's strain log √(JᵀJ), which is Nerfies' elastic energy before its robust
    function (Park et al. 2021, section 3.3).

    Args:
        jacobians: (..., 3, 3).

    Returns:
        (...), not negative; NaN where a matrix is not finite.

    Differentiable to second order, equal singular values included (at a rotation the gradient is 0 and the second
    derivative that of the squared linear strain). A singular value below 1e-6 counts as 1e-6 and has no gradient. The
    third derivative raises. Computed in float64 whatever the dtype, on any device.

    Raises:
        TypeError: `jacobians` is not a floating-point tensor.
        ValueError: its last axes are not (3, 3).

    >>> import torch, headfields as hf
    >>> stretch = torch.diag(torch.tensor([1.0, 1.0, torch.e]))  # log σ = (0, 0, 1)
    >>> hf.ops.log_strain(torch.stack([torch.eye(3), stretch])).round(decimals=4).tolist()
    [0.0, 1.0]
    """
    check_floating("log_strain", "jacobians", jacobians)
    check_shape("log_strain", "jacobians", jacobians, "... 3 3")
    flat = jacobians.reshape(-1, 3, 3).double()
    return _energy(flat.mT @ flat).to(jacobians.dtype).reshape(jacobians.shape[:-2])


def _spectrum(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (at least `LEAST`) and vectors of symmetric matrices, and a NaN for those that are not finite."""
    require_shapes("log_strain", c.ndim == 3 and c.shape[1:] == (3, 3), c=c)
    c = c.detach()
    sound = c.isfinite().all(dim=-1).all(dim=-1)
    # The identity in place of matrices that are not finite, or the solver fails for the whole batch.
    identity = torch.eye(3, dtype=c.dtype, device=c.device)
    values, vectors = symmetric_eigen(torch.where(sound[:, None, None], c, identity))
    return values.clamp_min(LEAST), vectors, torch.where(sound, 0.0, torch.nan).to(c.dtype)


def _slope(values: Tensor) -> Tensor:
    """g: the derivative of the energy by each eigenvalue; 0 where that is clamped."""
    return torch.where(values > LEAST, 0.5 * values.log() / values, 0.0)


@torch.library.custom_op("headfields::log_strain", mutates_args=())
def _energy(c: Tensor) -> Tensor:
    values, _, nan = _spectrum(c)
    return 0.25 * values.log().square().sum(dim=-1) + nan


@torch.library.custom_op("headfields::log_strain_backward", mutates_args=())
def _gradient(grad: Tensor, c: Tensor) -> Tensor:
    require_shapes("log_strain_backward", grad.shape == c.shape[:1], grad=grad, c=c)
    values, vectors, nan = _spectrum(c)
    return ((grad + nan)[:, None, None] * vectors * _slope(values)[:, None, :]) @ vectors.mT


@torch.library.custom_op("headfields::log_strain_double_backward", mutates_args=())
def _second(direction: Tensor, grad: Tensor, c: Tensor) -> Tensor:
    """`grad` times the derivative of G along the symmetric part of `direction`."""
    fits = direction.shape == c.shape and grad.shape == c.shape[:1]
    require_shapes("log_strain_double_backward", fits, direction=direction, grad=grad, c=c)
    values, vectors, nan = _spectrum(c)
    a, b = values[:, :, None], values[:, None, :]
    # (log a - log b) / (a - b) = 2 artanh(z) / (z (a + b)) with z = (a - b) / (a + b): a series where a is near b.
    z = (a - b) / (a + b)
    near = z.abs() < 0.05
    square = torch.where(near, z * z, 0.0)
    series = torch.zeros_like(z)
    for k in range(6, -1, -1):
        series = series * square + 1 / (2 * k + 1)
    far = torch.where(near, 0.5, z)
    quotient = 2 * torch.where(near, series, torch.atanh(far) / far) / (a + b)
    differences = 0.5 * (quotient / a - b.log() / (a * b))
    low, other = a <= LEAST, b <= LEAST
    # Next to an eigenvalue whose g is 0, the difference quotient is g of the other over their distance.
    distance = torch.where(low ^ other, a - b, 1.0)
    flat = (_slope(values)[:, :, None] - _slope(values)[:, None, :]) / distance
    differences = torch.where(low | other, torch.where(low & other, 0.0, flat), differences)
    symmetric = 0.5 * (direction + direction.mT)
    inner = vectors.mT @ symmetric @ vectors
    return (grad + nan)[:, None, None] * (vectors @ (differences * inner) @ vectors.mT)


def _backward(ctx: object, grad: Tensor) -> Tensor:
    (c,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return _gradient(grad, c)


def _double_backward(ctx: object, direction: Tensor) -> tuple[Tensor, Tensor]:
    grad, c = ctx.saved_tensors  # type: ignore[attr-defined]
    to_grad = (_gradient(torch.ones_like(grad), c) * direction).sum(dim=(-2, -1))
    return to_grad, _second(direction, grad, c)


_REVERSE = "use reverse mode (torch.autograd.grad), or headfields.ops.reference.log_strain where singular values differ"
register_op(_energy, lambda c: c.new_empty(c.shape[0]), None, derivative=_backward, rows=(0,), remedy=_REVERSE)
register_op(_gradient, like(1), None, derivative=_double_backward, rows=(0, 1), remedy=_REVERSE)
register_op(_second, like(2), None, derivative=no_third_derivative("log_strain", ""), rows=(0, 1, 2), remedy=_REVERSE)
