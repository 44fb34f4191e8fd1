"""Rotations: matrices from axis-angle vectors, quaternions and six numbers, the inverse, and the Jacobian of SO(3).

Plain PyTorch: any device and float dtype; a batch of 0 is legal. Matrices of axis-angle vectors are one kernel in Warp
where no derivative may be taken.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape, require_shapes
from headfields.ops.dispatch import use_warp
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.registration import register_op
from headfields.ops.warp_launch import launch

RotationForm = Literal["axis_angle", "quaternion", "6d", "matrix"]

__all__ = [
    "RotationForm",
    "axis_angle",
    "left_jacobian",
    "rotation_angle",
    "rotation_from_6d",
    "rotation_from_euler",
    "rotation_from_log_quaternion",
    "rotation_from_quaternion",
    "rotation_matrices",
    "rotations_from",
]

_SERIES_BELOW = 0.25  # squared angle under which the series is used; 8 terms are then exact to float64 rounding


def rotation_matrices(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of axis-angle vectors (Rodrigues' formula), smooth everywhere, 0 included.

    Args:
        axis_angle: (..., 3) unit axis times angle, radians.

    Returns:
        (..., 3, 3) matrices that act on column vectors.

    Raises:
        TypeError: `axis_angle` is not a floating-point tensor.
        ValueError: its last axis is not 3.

    Differentiability: any order; near 0 a power series in the squared angle takes the place of the quotients.
    """
    check_floating("rotation_matrices", "axis_angle", axis_angle)
    check_shape("rotation_matrices", "axis_angle", axis_angle, "... 3")
    if not use_warp(axis_angle) or may_be_differentiated(axis_angle):
        return _of_axis_angle(axis_angle)
    matrices: Tensor = _matrices(axis_angle.reshape(-1, 3))
    return matrices.reshape(*axis_angle.shape, 3)


def _of_axis_angle(axis_angle: Tensor) -> Tensor:
    angle, near, small = _angle((axis_angle * axis_angle).sum(-1))
    a = torch.where(small, _series(near, 1), angle.sin() / angle)
    b = _versine(angle, near, small)
    x, y, z = axis_angle.unbind(-1)
    ax, ay, az = a * x, a * y, a * z
    bxy, bxz, byz = b * x * y, b * x * z, b * y * z
    xx, yy, zz = b * x * x, b * y * y, b * z * z
    entries = (1 - yy - zz, bxy - az, bxz + ay, bxy + az, 1 - xx - zz, byz - ax, bxz - ay, byz + ax, 1 - xx - yy)
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


@torch.library.custom_op("headfields::rotation_matrices", mutates_args=())
def _matrices(axis_angle: Tensor) -> Tensor:
    """Of (N, 3)."""
    fits = axis_angle.ndim == 2 and axis_angle.shape[1] == 3
    require_shapes("rotation_matrices", fits, axis_angle=axis_angle)
    if not use_warp(axis_angle):
        return _of_axis_angle(axis_angle)
    out = axis_angle.new_empty(len(axis_angle), 3, 3)
    launch("rotations.from_axis_angle", len(axis_angle), axis_angle.detach().contiguous(), out)
    return out


register_op(_matrices, lambda axis_angle: axis_angle.new_empty(len(axis_angle), 3, 3), _of_axis_angle, rows=(0,))


def rotations_from(values: Float[Tensor, "..."], form: RotationForm, rows: bool = False) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices from any form, as for `joint_transforms(rotations_from(values, form), joints, parents)`.

    Args:
        values: (..., 3) for `"axis_angle"`, radians; (..., 4) for `"quaternion"`, (w, x, y, z) of any length; (..., 6)
            for `"6d"`; (..., 3, 3) for `"matrix"`, which is returned as it is.
        form: representation of the values.
        rows: whether `"6d"` holds rows, see `rotation_from_6d`.

    Returns:
        (..., 3, 3) matrices that act on column vectors.

    Raises:
        TypeError: `values` is not a floating-point tensor.
        ValueError: form is none of these, or the last axes do not fit it.

    Differentiability: any order, identity included; not where a quaternion or one of the two vectors vanishes.

    >>> import torch, headfields as hf
    >>> quarter = torch.tensor([0.0, 0.0, torch.pi / 2])  # about z: x to y
    >>> (hf.ops.rotations.rotations_from(quarter, "axis_angle") @ torch.tensor([1.0, 0.0, 0.0])).round().abs().tolist()
    [0.0, 1.0, 0.0]
    >>> hf.ops.rotations.rotations_from(torch.tensor([1.0, 0.0, 0.0, 1.0]), "quaternion")[:, 0].tolist()  # w first
    [0.0, 1.0, 0.0]
    """
    if form == "axis_angle":
        return rotation_matrices(values)
    if form == "quaternion":
        return rotation_from_quaternion(values)
    if form == "6d":
        return rotation_from_6d(values, rows)
    if form != "matrix":
        raise ValueError(f"rotations_from: form is {form!r}; expected 'axis_angle', 'quaternion', '6d' or 'matrix'")
    check_floating("rotations_from", "values", values)
    check_shape("rotations_from", "values", values, "... 3 3")
    return values


def rotation_from_quaternion(values: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices from quaternions (w, x, y, z) of any length but zero.

    q and −q are the same rotation. Products are divided by the squared length, so no square root is taken.

    Args:
        values: (..., 4), the real part first.

    Returns:
        (..., 3, 3) matrices that act on column vectors.

    Raises:
        TypeError: `values` is not a floating-point tensor.
        ValueError: its last axis is not 4.

    Differentiability: any order, except at zero, where the matrix is the identity, without a gradient.
    """
    check_floating("rotation_from_quaternion", "values", values)
    check_shape("rotation_from_quaternion", "values", values, "... 4")
    squared = values.square().sum(-1)
    zero = squared <= 0
    double = torch.where(zero, 0.0, 2 / torch.where(zero, 1.0, squared))
    w, x, y, z = values.unbind(-1)
    wx, wy, wz = double * w * x, double * w * y, double * w * z
    xx, yy, zz = double * x * x, double * y * y, double * z * z
    xy, xz, yz = double * x * y, double * x * z, double * y * z
    entries = (1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy)
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_rotation(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions (w, x, y, z) of rotation matrices; w is not negative where it is the largest entry.

    Shepperd's method: the largest of the four entries is computed by a square root, the others by division by it.

    Args:
        rotations: (..., 3, 3) rotation matrices that act on column vectors.

    Returns:
        (..., 4).

    Raises:
        TypeError: `rotations` is not a floating-point tensor.
        ValueError: its last axes are not (3, 3).

    Differentiability: any order, except across a change of the largest entry, where the sign may jump.

    Source: Shepperd 1978, "Quaternion from rotation matrix".
    """
    check_floating("quaternion_from_rotation", "rotations", rotations)
    check_shape("quaternion_from_rotation", "rotations", rotations, "... 3 3")
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotations.unbind(-2))
    w, x, y, z = 1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz  # 4 w², 4 x², 4 y², 4 z²
    a, b, c, d, e, f = zy - yz, xz - zx, yx - xy, xy + yx, xz + zx, yz + zy  # 4 wx, wy, wz, xy, xz, yz
    rows = [torch.stack(row, dim=-1) for row in ((w, a, b, c), (a, x, d, e), (b, d, y, f), (c, e, f, z))]  # 4 q qᵀ
    row, largest = rows[3], z
    for other, square in ((rows[2], y), (rows[1], x), (rows[0], w)):  # an argmax over four takes longer than the rest
        larger = square.detach() >= largest.detach()
        row, largest = torch.where(larger[..., None], other, row), torch.where(larger, square, largest)
    return row / (2 * largest.clamp_min(1e-12).sqrt())[..., None]


def quaternion_product(
    first: Float[Tensor, "*#batch 4"], second: Float[Tensor, "*#batch 4"]
) -> Float[Tensor, "*batch 4"]:
    """The quaternion (w, x, y, z) of the rotation `second` followed by `first`; leading axes broadcast.

    Differentiable to any order.
    """
    a, b, c, d = first.unbind(-1)
    w, x, y, z = second.unbind(-1)
    return torch.stack(
        [a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y, a * y - b * z + c * w + d * x,
         a * z + b * y - c * x + d * w], dim=-1,
    )  # fmt: skip


def rotation_from_6d(values: Float[Tensor, "*batch 6"], rows: bool) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices from six numbers: two vectors, made orthonormal by Gram and Schmidt (Zhou et al. 2019, "On the
    Continuity of Rotation Representations in Neural Networks", section 4).

    Args:
        values: (..., 6), the first vector and then the second; neither zero nor parallel to the other.
        rows: whether the two are the matrix's first rows (as PyTorch3D and metrical-tracker write them) or its first
            columns (as the paper has them). The wrong choice gives the inverse rotation.

    Returns:
        (..., 3, 3) matrices that act on column vectors.

    Raises:
        TypeError: `values` is not a floating-point tensor.
        ValueError: its last axis is not 6.

    Differentiability: any order, except where a vector vanishes.
    """
    check_floating("rotation_from_6d", "values", values)
    check_shape("rotation_from_6d", "values", values, "... 6")
    first = torch.nn.functional.normalize(values[..., :3], dim=-1)
    second = values[..., 3:] - (first * values[..., 3:]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -2 if rows else -1)


def rotation_from_log_quaternion(values: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of unit quaternions exp(0, v) = (cos |v|, sin |v| v / |v|) given by v: by 2 |v| about v.

    Half the angle of an axis-angle vector, hence `rotation_matrices(2 v)`. Networks of deformation fields output
    rotations in this form (MonoAvatar, supplement; Nerfies).

    Args:
        values: (..., 3), radians of half the angle.

    Returns:
        (..., 3, 3) matrices that act on column vectors.

    Raises:
        TypeError: `values` is not a floating-point tensor.
        ValueError: its last axis is not 3.

    Differentiability: any order, 0 included.
    """
    check_floating("rotation_from_log_quaternion", "values", values)
    check_shape("rotation_from_log_quaternion", "values", values, "... 3")
    return rotation_matrices(2 * values)


def left_jacobian(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The left Jacobian J of SO(3): a rotation R with axis-angle vector v changes by dR = [J dv]ₓ R.

    J = I + (1 - cos θ) / θ² [v]ₓ + (θ - sin θ) / θ³ [v]ₓ² with θ = |v| (Solà et al. 2018, "A micro Lie theory for state
    estimation in robotics", equation 145).

    Args:
        axis_angle: (..., 3) unit axis times angle, radians.

    Returns:
        (..., 3, 3).

    Raises:
        TypeError: `axis_angle` is not a floating-point tensor.
        ValueError: its last axis is not 3.

    Differentiability: any order, 0 included.
    """
    check_floating("left_jacobian", "axis_angle", axis_angle)
    check_shape("left_jacobian", "axis_angle", axis_angle, "... 3")
    square = (axis_angle * axis_angle).sum(-1)
    angle, near, small = _angle(square)
    b = _versine(angle, near, small)
    c = torch.where(small, _series(near, 3), (angle - angle.sin()) / angle**3)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    squared = axis_angle[..., :, None] * axis_angle[..., None, :] - square[..., None, None] * identity
    return identity + b[..., None, None] * cross + c[..., None, None] * squared


def axis_angle(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Axis-angle vectors of rotation matrices: the inverse of `rotation_matrices`, exact near 0 and near pi.

    Args:
        rotations: (..., 3, 3) rotation matrices that act on column vectors.

    Returns:
        (..., 3) unit axis times angle in [0, pi], radians.

    Raises:
        TypeError: `rotations` is not a floating-point tensor.
        ValueError: its last axes are not (3, 3).

    Differentiability: any order below pi, 0 included; at pi the axis may jump to its opposite.

    Method: the unit quaternion, then the angle by atan2.

    >>> import torch, headfields as hf
    >>> turns = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    >>> hf.ops.rotations.axis_angle(hf.ops.rotation_matrices(turns)).allclose(turns)
    True
    """
    check_floating("axis_angle", "rotations", rotations)
    check_shape("axis_angle", "rotations", rotations, "... 3 3")
    quaternion = torch.nn.functional.normalize(quaternion_from_rotation(rotations), dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, vector = quaternion[..., 0], quaternion[..., 1:]
    square = (vector * vector).sum(-1)
    # angle / sin(angle / 2): near 0 its series in the squared sine, which has derivatives there
    small = square < 1e-2
    sine = torch.where(small, torch.ones_like(square), square).sqrt()
    far = 2 * torch.atan2(sine, w) / sine
    near = torch.where(small, square, torch.zeros_like(square))
    series = torch.zeros_like(square)
    for k in range(9, -1, -1):  # 2 asin(s) / s = 2 sum_k (2k)! / (4^k k!^2 (2k + 1)) s^2k
        series = series * near + _ARCSINE[k]
    return vector * torch.where(small, series, far)[..., None]


def rotation_angle(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """The angles (...), radians in [0, pi], by which rotation matrices (..., 3, 3) turn, exact near 0 and near pi.

    Of the rotation between two, `rotation_angle(a.mT @ b)`. Differentiable as `axis_angle`, and not at 0.
    """
    return torch.linalg.vector_norm(axis_angle(rotations), dim=-1)


def rotation_from_euler(angles: Float[Tensor, "*batch 3"], axes: str) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of Euler angles about moving axes: R = R₁ R₂ R₃, the last about its axis first.

    Args:
        angles: (..., 3), radians, in the order of `axes`.
        axes: three of "x", "y" and "z", as "xyz".

    Returns:
        (..., 3, 3) matrices that act on column vectors.

    Raises:
        TypeError: `angles` is not a floating-point tensor.
        ValueError: its last axis is not 3, or `axes` are others.

    Differentiability: any order.
    """
    check_floating("rotation_from_euler", "angles", angles)
    check_shape("rotation_from_euler", "angles", angles, "... 3")
    if len(axes) != 3 or not set(axes) <= set("xyz"):
        raise ValueError(f"rotation_from_euler: axes is {axes!r}; expected three of x, y and z, as 'xyz'")
    unit = torch.eye(3, dtype=angles.dtype, device=angles.device)[["xyz".index(axis) for axis in axes]]
    first, second, third = rotation_matrices(angles[..., None] * unit).unbind(-3)
    return first @ second @ third


def _angle(square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of squared angles: the angle, 1 where it is small; the square, 0 where not; and where it is small.

    Both branches of a `where` are evaluated, so each needs an argument at which it and its derivatives are finite.
    """
    small = square < _SERIES_BELOW
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    return angle, torch.where(small, square, torch.zeros_like(square)), small


def _versine(angle: Tensor, near: Tensor, small: Tensor) -> Tensor:
    """(1 − cos θ) / θ² of `_angle`."""
    half = (0.5 * angle).sin() / angle
    return torch.where(small, _series(near, 2), 2 * half * half)


def _series(square: Tensor, first: int) -> Tensor:
    """sum_k (-square)^k / (first + 2k)!: sin(x)/x, (1 - cos x)/x^2 and (x - sin x)/x^3 for first = 1, 2 and 3."""
    total = torch.zeros_like(square)
    coefficients, factor = [], (1.0, 0.5, 1 / 6)[first - 1]
    for k in range(8):
        coefficients.append(factor)
        factor /= -(first + 2 * k + 1) * (first + 2 * k + 2)
    for coefficient in reversed(coefficients):
        total = total * square + coefficient
    return total


def _arcsine() -> list[float]:
    out, binomial = [], 1.0
    for k in range(10):
        out.append(2 * binomial / (2 * k + 1))
        binomial *= (2 * k + 1) / (2 * k + 2)
    return out


_ARCSINE = _arcsine()
