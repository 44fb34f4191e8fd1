"""Lens distortion: OpenCV's radial-tangential model with five coefficients and its fisheye model with four.

Both map directions to points of the image plane at distance 1, before the intrinsics, so they do not depend on the size
of the image. Plain PyTorch: any device and float dtype, N = 0 is legal, differentiable to second order; the inverse is
solved by Newton's method, whose derivative is that of the implicit function.

Source: OpenCV's documentation of `cv::projectPoints` and `cv::fisheye`, after Brown 1971 and Kannala & Brandt 2006.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["FISHEYE", "RADIAL_TANGENTIAL", "distort", "undistort"]

RADIAL_TANGENTIAL, FISHEYE = 5, 4
"""Numbers of coefficients: k1, k2, p1, p2, k3; and k1, k2, k3, k4."""
_ITERATIONS = 25
_DIFFERENTIABLE = 2  # steps of Newton's method after convergence: the first carries first derivatives, the next second
_TOLERANCE = 1e-4  # of the image plane at distance 1: a tenth of a pixel at a focal length of a thousand
_NEAR_AXIS = 1e-2  # squared tangent of the angle below which the power series is exact to rounding
_STEP = 0.5  # longest step of the search, of the image plane


def distort(
    directions: Float[Tensor, "*#batch 3"], coefficients: Float[Tensor, "*#batch c"]
) -> Float[Tensor, "*batch 2"]:
    """Directions to distorted points of the image plane at distance 1.

    Args:
        directions: (..., 3) of any length, OpenCV axes. The radial-tangential model is for those in front of the
            camera; far outside of the image its polynomial may fold them back into it.
        coefficients: (..., 5) for k1, k2, p1, p2, k3, or (..., 4) for the fisheye's k1, k2, k3, k4.

    Returns:
        (..., 2) x and y: multiply by the focal lengths and add the principal point.
    """
    if coefficients.shape[-1] == FISHEYE:
        return _fisheye(directions, coefficients)
    return _radial_tangential(directions[..., :2] / directions[..., 2:], coefficients)


def undistort(
    points: Float[Tensor, "*#batch 2"], coefficients: Float[Tensor, "*#batch c"]
) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]:
    """Distorted points of the image plane to directions, the inverse of `distort`.

    Args:
        points: (..., 2) pixels less the principal point, divided by the focal lengths.
        coefficients: as for `distort`.

    Returns:
        Directions (..., 3), and where the search converged on the branch that belongs to the image: an extreme
        polynomial has no inverse at all points. Differentiable to second order in both arguments.
    """
    if coefficients.shape[-1] == FISHEYE:
        return _inverse_fisheye(points, coefficients)
    return _inverse_radial_tangential(points, coefficients)


def _radial_tangential(plane: Tensor, coefficients: Tensor) -> Float[Tensor, "*batch 2"]:
    k1, k2, p1, p2, k3 = coefficients.unbind(-1)
    x, y = plane.unbind(-1)
    xx, xy, yy = x * x, x * y, y * y
    r2 = xx + yy
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return torch.stack(
        [x * radial + 2 * p1 * xy + p2 * (r2 + 2 * xx), y * radial + p1 * (r2 + 2 * yy) + 2 * p2 * xy], dim=-1
    )


def _newton_step(plane: Tensor, goal: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The step toward the goal, the residual's length, and the determinant of the derivative."""
    k1, k2, p1, p2, k3 = coefficients.unbind(-1)
    x, y = plane.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = k1 + r2 * (2 * k2 + r2 * 3 * k3)
    across = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    down = radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
    mixed = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    determinant = across * down - mixed * mixed
    residual = goal - _radial_tangential(plane, coefficients)
    a, b = residual.unbind(-1)
    safe = torch.where(determinant.abs() < 1e-6, 1e-6, determinant)
    step = torch.stack([down * a - mixed * b, across * b - mixed * a], dim=-1) / safe[..., None]
    return step, residual.detach().abs().amax(dim=-1), determinant.detach()


def _inverse_radial_tangential(points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    points, coefficients = (x.expand(*_batch(points, coefficients), x.shape[-1]) for x in (points, coefficients))
    goal, fixed = points.detach(), coefficients.detach()
    plane = goal
    with torch.no_grad():
        for _ in range(_ITERATIONS):
            step = _newton_step(plane, goal, fixed)[0]
            plane = plane + step * (_STEP / step.norm(dim=-1, keepdim=True).clamp_min(_STEP))
        _, residual, determinant = _newton_step(plane, goal, fixed)
        # The image's branch begins on the axis: along the ray to it, the radius must not have turned back.
        r2 = plane.square().sum(dim=-1)
        k1, k2, _, _, k3 = fixed.unbind(-1)
        share = _up_to(r2)
        rising = (1 + share * (3 * k1 + share * (5 * k2 + share * 7 * k3)) > 0).all(dim=0)
        valid = (residual < _TOLERANCE) & (determinant > 0) & rising
    for _ in range(_DIFFERENTIABLE):
        plane = plane + _newton_step(plane, points, coefficients)[0]
    return torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1), valid


def _up_to(values: Float[Tensor, "*batch"]) -> Float[Tensor, "17 *batch"]:
    """Each value's multiples by 0 to 1."""
    return torch.stack([values * (step / 16) for step in range(17)])


def _batch(points: Tensor, coefficients: Tensor) -> torch.Size:
    return torch.broadcast_shapes(points.shape[:-1], coefficients.shape[:-1])


def _polynomial(square: Tensor, coefficients: Tensor) -> Tensor:
    """Distorted angle over angle, from the squared angle."""
    k1, k2, k3, k4 = coefficients.unbind(-1)
    return 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))


def _fisheye(directions: Tensor, coefficients: Tensor) -> Float[Tensor, "*batch 2"]:
    side, z = directions[..., :2], directions[..., 2]
    square = side.square().sum(dim=-1)
    near = (square < _NEAR_AXIS * z * z) & (z > 0)
    # Both branches are evaluated, so each sees an argument at which it and its derivatives are finite.
    depth = torch.where(near, z, 1.0)
    tangent = torch.where(near, square, 0.0) / (depth * depth)
    series = 1 - tangent * (1 / 3 - tangent * (1 / 5 - tangent * (1 / 7 - tangent * (1 / 9 - tangent / 11))))
    radius = torch.where(near, 1.0, square).sqrt()
    ratio = torch.where(near, series / depth, torch.atan2(radius, z) / radius)  # angle over radius
    return side * (ratio * _polynomial(ratio * ratio * square, coefficients))[..., None]


def _inverse_fisheye(points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The squared angle q solves q p(q)² = |point|², which is smooth on the axis too."""
    points, coefficients = (x.expand(*_batch(points, coefficients), x.shape[-1]) for x in (points, coefficients))
    square = points.square().sum(dim=-1)

    def step(angle: Tensor, goal: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k1, k2, k3, k4 = numbers.unbind(-1)
        value = _polynomial(angle, numbers)
        slope = k1 + angle * (2 * k2 + angle * (3 * k3 + angle * 4 * k4))
        rise = value * (value + 2 * angle * slope)
        residual = goal - angle * value * value
        return residual / torch.where(rise.abs() < 1e-6, 1e-6, rise), residual.detach(), rise.detach()

    with torch.no_grad():
        goal, fixed = square.detach(), coefficients.detach()
        angle = goal.clamp(max=torch.pi**2)
        for _ in range(_ITERATIONS):
            angle = (angle + step(angle, goal, fixed)[0].clamp(-_STEP, _STEP)).clamp(0, torch.pi**2)
        _, residual, rise = step(angle, goal, fixed)
        share = _up_to(angle)
        k1, k2, k3, k4 = fixed.unbind(-1)
        rising = (1 + share * (3 * k1 + share * (5 * k2 + share * (7 * k3 + share * 9 * k4))) > 0).all(dim=0)
        valid = (residual.abs() < _TOLERANCE * (1 + goal.sqrt())) & (rise > 0) & rising
    for _ in range(_DIFFERENTIABLE):
        angle = angle + step(angle, square, coefficients)[0]
    near = angle < _NEAR_AXIS
    small, root = torch.where(near, angle, 0.0), torch.where(near, 1.0, angle).sqrt()
    sinc = torch.where(near, 1 - small * (1 / 6 - small * (1 / 120 - small / 5040)), root.sin() / root)
    cosine = torch.where(near, 1 - small * (1 / 2 - small * (1 / 24 - small * (1 / 720 - small / 40320))), root.cos())
    side = points * (sinc / _polynomial(angle, coefficients))[..., None]
    return torch.cat([side, cosine[..., None]], dim=-1), valid
