"""Real spherical harmonics of directions."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops import dispatch
from headfields.ops._checks import check_floating, check_shape, check_whole, no_third_derivative, require_shapes
from headfields.ops.functorch_rules import pullback
from headfields.ops.reference import spherical_harmonics as reference
from headfields.ops.registration import like, register_op
from headfields.ops.warp_launch import launch


def spherical_harmonics(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch values"]:
    """The real spherical harmonics of all bands l < degree, degree² values a direction.

    Value l(l + 1) + m is Y_lm, −l ≤ m ≤ l, orthonormal on the sphere, with the Condon–Shortley sign (−1)^m:
    Y_1 = −√(3/4π) y, √(3/4π) z, −√(3/4π) x. Each is taken as the polynomial Q_lm(z) · Re or Im (x + iy)^|m|, which is
    the harmonic on the unit sphere; off it the value is the polynomial's, and so is the derivative. (Recurrence as in
    Sloan, *Efficient Spherical Harmonic Evaluation*, 2013.)

    Args:
        directions: unit vectors, in the frame of the values; they are not normalized here.
        degree: number of bands, 1 to 8.

    Returns:
        degree² values, in the dtype of `directions` (float32 or float64). A NaN or infinite direction gives NaN or
        infinite values, for itself alone.

    Differentiable twice to the directions; a third derivative raises.

    Raises:
        TypeError: directions are of another dtype.
        ValueError: directions are not (..., 3), or degree is out of range.

    >>> import torch, headfields as hf
    >>> hf.ops.spherical_harmonics(torch.tensor([0.0, 0.0, 1.0]), degree=2).abs()  # Y_00, then Y_1m
    tensor([0.2821, 0.0000, 0.4886, 0.0000])
    """
    check_floating("spherical_harmonics", "directions", directions)
    check_shape("spherical_harmonics", "directions", directions, "... 3")
    if directions.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"spherical_harmonics: directions has dtype {directions.dtype}; expected float32 or float64 "
            "(directions.float() converts)"
        )
    _check_degree(degree)
    if directions.dtype == torch.float64 and not dispatch.use_native(directions):
        return reference.spherical_harmonics(directions, degree)
    values = torch.ops.headfields.spherical_harmonics(directions.reshape(-1, 3), degree)
    return values.reshape(*directions.shape[:-1], degree**2)


def _check_degree(degree: int) -> None:
    check_whole("spherical_harmonics", "degree", degree, 1, 8)


@functools.lru_cache(maxsize=32)
def _warp_recurrence(degree: int, device: torch.device) -> list[Any]:
    wp = dispatch.warp()
    numbers = [torch.tensor(row, dtype=torch.float32).to(device) for row in reference.recurrence(degree)]
    return [wp.from_torch(row) for row in numbers]  # made by torch, on the stream that the launches are on


def _launch(kernel: str, degree: int, *tensors: Tensor) -> None:
    recurrence = _warp_recurrence(degree, tensors[0].device)
    launch(f"spherical_harmonics.{kernel}", len(tensors[0]), degree, *recurrence, *tensors)


@torch.library.custom_op("headfields::spherical_harmonics", mutates_args=())
def _spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    _check_degree(degree)
    require_shapes("spherical_harmonics", directions.ndim == 2 and directions.shape[1] == 3, directions=directions)
    directions = directions.detach().contiguous()
    out = directions.new_empty((directions.shape[0], degree**2))
    if dispatch.use_native(directions):
        arguments = (*reference.recurrence(degree), torch.get_num_threads())
        dispatch.native.spherical_harmonics(directions, out, *arguments)
    else:
        _launch("evaluate", degree, directions, out)
    return out


def _check_derivative(which: str, degree: int, grad: Tensor, directions: Tensor) -> None:
    _check_degree(degree)
    fits = directions.ndim == 2 and directions.shape[1] == 3 and grad.shape == (len(directions), degree**2)
    require_shapes(f"spherical_harmonics_{which}", fits, grad=grad, directions=directions)


@torch.library.custom_op("headfields::spherical_harmonics_backward", mutates_args=())
def _spherical_harmonics_backward(grad: Tensor, directions: Tensor, degree: int) -> Tensor:
    _check_derivative("backward", degree, grad, directions)
    grad, directions = grad.detach().contiguous(), directions.detach().contiguous()
    out = torch.empty_like(directions)
    if dispatch.use_native(directions):
        arguments = (*reference.recurrence(degree), torch.get_num_threads())
        dispatch.native.spherical_harmonics_backward(grad, directions, out, *arguments)
    else:
        _launch("gradient", degree, grad, directions, out)
    return out


# Second derivatives by a view direction are rare, so no kernel has them.
@torch.library.custom_op("headfields::spherical_harmonics_backward_backward", mutates_args=())
def _spherical_harmonics_backward_backward(
    grad: Tensor, directions: Tensor, gg: Tensor, degree: int
) -> tuple[Tensor, Tensor]:
    _check_derivative("backward_backward", degree, grad, directions)
    require_shapes("spherical_harmonics_backward_backward", gg.shape == directions.shape, gg=gg, directions=directions)
    return reference.second_gradient(grad.detach(), directions.detach(), gg.detach(), degree)


def _backward(ctx, grad):
    return torch.ops.headfields.spherical_harmonics_backward(grad, *ctx.saved_tensors, *ctx.rest), None


def _backward_backward(ctx, gg):
    grads = torch.ops.headfields.spherical_harmonics_backward_backward(*ctx.saved_tensors, gg, *ctx.rest)
    return *grads, None


def _plain_backward(grad: Tensor, directions: Tensor, degree: int) -> Tensor:
    return pullback(reference.spherical_harmonics, 1)(grad, directions, degree)[0]


register_op(
    _spherical_harmonics, lambda directions, degree: directions.new_empty((directions.shape[0], degree**2)),
    reference.spherical_harmonics, derivative=_backward, rows=(0,),
)  # fmt: skip
register_op(_spherical_harmonics_backward, like(1), _plain_backward, derivative=_backward_backward, rows=(0, 1))
register_op(
    _spherical_harmonics_backward_backward, like(0, 1), reference.second_gradient,
    derivative=no_third_derivative("spherical_harmonics"), rows=(0, 1, 2),
)  # fmt: skip
