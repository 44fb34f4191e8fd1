"""Affine maps of points, (3, 4): inverted, applied, and blended over joints (skinning of free points)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_index, check_integer, check_same_device, check_shape
from headfields.ops.dispatch import checks_indices
from headfields.records.inverse import inverse_3x3
from headfields.records.precision import full_precision

__all__ = ["affine_inverse", "apply_affine", "skin_points"]

_SINGULAR = 1e-6  # least |determinant|, relative to the cube of the matrix's size


def affine_inverse(maps: Float[Tensor, "*batch 3 4"]) -> tuple[Float[Tensor, "*batch 3 4"], Bool[Tensor, "*batch"]]:
    """The inverses of affine maps x → A x + b, in closed form (a blend of rotations is not a rotation).

    Args:
        maps: (..., 3, 4): [A | b].

    Returns:
        (..., 3, 4) the inverses [A⁻¹ | −A⁻¹ b], and (...) whether there is one. Where A is singular (its determinant is
        under 1e-6 of the cube of its size) or not finite, the result is the identity, without a gradient.

    Raises:
        TypeError: `maps` is not floating point.
        ValueError: its last axes are not (3, 4).

    Differentiability: any order, where there is an inverse.
    """
    check_floating("affine_inverse", "maps", maps)
    check_shape("affine_inverse", "maps", maps, "... 3 4")
    with torch.no_grad():
        # By a power of two, which rounds nothing: the determinant of 1e15 I is beyond float32.
        largest = maps[..., :3].abs().amax(dim=(-1, -2))
        finite = maps.isfinite().all(dim=-1).all(dim=-1) & (largest >= torch.finfo(maps.dtype).tiny)
        largest = torch.where(finite, largest, 1.0)
        scale = (largest / (2 * torch.frexp(largest).mantissa))[..., None, None]  # `ldexp` is not exact
        linear = maps[..., :3] / scale
        size = linear.square().sum(dim=(-1, -2)) / 3
        usable = torch.linalg.cross(linear[..., 0, :], linear[..., 1, :]).mul(linear[..., 2, :]).sum(-1).abs()
        usable = (usable > _SINGULAR * size**1.5) & finite
        identity = torch.eye(3, 4, dtype=maps.dtype, device=maps.device)
        scale = torch.where(usable[..., None, None], scale, 1.0)
    safe = torch.where(usable[..., None, None], maps, identity)
    inverse = inverse_3x3(safe[..., :3] / scale) / scale
    shift = -(inverse * safe[..., None, :, 3]).sum(-1)
    return torch.cat([inverse, shift[..., None]], dim=-1), usable


def apply_affine(maps: Float[Tensor, "*batch 3 4"], points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """A x + b of maps [A | b] (..., 3, 4) and points x (..., 3). Differentiable to any order."""
    return (maps[..., :3] * points[..., None, :]).sum(-1) + maps[..., 3]


def skin_points(
    points: Float[Tensor, "m 3"],
    weights: Float[Tensor, "m j"],
    transforms: Float[Tensor, "b j 4 4"],
    frame: Int[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 4"]]:
    """Forward linear blend skinning of free points, each with weights of its own (SMPL, equation 2).

    Args:
        points: (M, 3) at rest, meters; M = 0 is legal.
        weights: (M, J) rows that sum to 1.
        transforms: (B, J, 4, 4) rest-to-posed transforms, as from `joint_transforms`.
        frame: (M,) the row of `transforms` of each point; 0 if None.

    Returns:
        The posed points (M, 3), meters, and the blended maps (M, 3, 4) that took them there.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: shapes do not fit, or devices differ.
        IndexError: `frame` is out of range (checked on the CPU only).

    Differentiability: multilinear, any order, in all but `frame`.

    >>> import torch, headfields as hf
    >>> joints = torch.eye(4).repeat(1, 2, 1, 1)  # one frame, two joints
    >>> joints[0, 1, :3, 3] = torch.tensor([0.0, 0.0, 2.0])  # the second moves by 2 m
    >>> posed, maps = hf.ops.affine.skin_points(torch.zeros(1, 3), torch.tensor([[0.25, 0.75]]), joints)
    >>> posed.tolist(), maps.shape
    ([[0.0, 0.0, 1.5]], torch.Size([1, 3, 4]))
    """
    op = "skin_points"
    for name, tensor in (("points", points), ("weights", weights), ("transforms", transforms)):
        check_floating(op, name, tensor)
    check_shape(op, "points", points, "M 3")
    check_shape(op, "transforms", transforms, "B J 4 4")
    if frame is not None:
        check_integer(op, "frame", frame)
    check_same_device(op, points=points, weights=weights, transforms=transforms, frame=frame)
    if weights.shape != (len(points), transforms.shape[1]):
        raise ValueError(
            f"{op}: weights has shape {tuple(weights.shape)}; expected ({len(points)}, {transforms.shape[1]}), a row "
            "for each point and a column for each joint"
        )
    rows = transforms[:, :, :3].flatten(2)  # (B, J, 12)
    if frame is None:
        if len(transforms) != 1 and len(points):
            raise ValueError(f"{op}: frame is None with {len(transforms)} rows of transforms; pass each point's row")
        frame = torch.zeros(len(points), dtype=torch.long, device=points.device)
        rows = rows.sum(dim=0, keepdim=True)
    check_shape(op, "frame", frame, f"{len(points)}")
    with full_precision(points):
        blended = blend_rows(weights, rows, frame)
    maps = blended.unflatten(-1, (3, 4))
    return apply_affine(maps, points), maps


def blend_rows(
    weights: Float[Tensor, "m k"], rows: Float[Tensor, "b k c"], frame: Int[Tensor, " m"]
) -> Float[Tensor, "m c"]:
    """Σ_k weights[m, k] rows[frame[m], k], one product of matrices for each frame rather than a gathered (M, K, C)."""
    if len(rows) <= 1:
        check_index("skin_points", "frame", frame, len(rows))
        return weights @ rows.sum(dim=0)
    if len(frame) and checks_indices(frame.device) and (int(frame.min()) < 0 or int(frame.max()) >= len(rows)):
        low, high = int(frame.min()), int(frame.max())
        raise IndexError(f"skin_points: frame holds {low} to {high}; there are rows 0 to {len(rows) - 1} of transforms")
    out = weights.new_zeros(len(weights), rows.shape[-1])
    order = [(frame == index).nonzero()[:, 0] for index in range(len(rows))]
    parts = [weights.index_select(0, indices) @ rows[index] for index, indices in enumerate(order)]
    return out.index_copy(0, torch.cat(order), torch.cat(parts))
