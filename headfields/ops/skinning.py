"""Skeletons and skinning: joint chains, blendshapes and linear blend skinning.

Everything here is matrix products in PyTorch, so it runs on any device and in any float dtype and is differentiable
to second order in every floating argument; a batch of 0 is legal. Under autocast it stays in full precision. The model
is that of SMPL (Loper et al. 2015, "SMPL: A Skinned Multi-Person Linear Model", equations 1-11), which FLAME (Li et al.
2017) shares.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape, promoted
from headfields.ops.rotations import rotation_matrices
from headfields.records.annotated import is_readable
from headfields.records.precision import full_precision

__all__ = [
    "blend_shapes",
    "joint_transforms",
    "linear_blend_skinning",
    "pose_features",
]


def pose_features(rotations: Float[Tensor, "*batch j 3 3"]) -> Float[Tensor, "*batch p"]:
    """The features in which pose correctives are linear: R_j - I of every joint but the root, row by row (SMPL, eq. 9).

    Args:
        rotations: (..., J, 3, 3) rotation of each joint relative to its parent, J >= 1.

    Returns:
        (..., 9 (J - 1)).

    Raises:
        TypeError: `rotations` is not a floating-point tensor.
        ValueError: its shape is not (..., J, 3, 3).

    Differentiable to any order (linear).
    """
    check_floating("pose_features", "rotations", rotations)
    check_shape("pose_features", "rotations", rotations, "... J 3 3")
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return (rotations[..., 1:, :, :] - identity).flatten(-3)


def blend_shapes(coefficients: Float[Tensor, "*batch c"], basis: Float[Tensor, "c v 3"]) -> Float[Tensor, "*batch v 3"]:
    """Sum of displacement fields, weighted by coefficients (SMPL, equation 8).

    Args:
        coefficients: (..., C).
        basis: (C, V, 3) a displacement for each direction and vertex, meters.

    Returns:
        (..., V, 3) displacements, meters.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit.

    Differentiable to any order (bilinear).
    """
    check_floating("blend_shapes", "coefficients", coefficients)
    check_floating("blend_shapes", "basis", basis)
    check_shape("blend_shapes", "basis", basis, "C V 3")
    check_same_device("blend_shapes", coefficients=coefficients, basis=basis)
    if coefficients.dim() < 1 or coefficients.shape[-1] != basis.shape[0]:
        raise ValueError(
            f"blend_shapes: coefficients has shape {tuple(coefficients.shape)}, but basis {tuple(basis.shape)} has "
            f"{basis.shape[0]} directions; pass as many coefficients (pad with zeros or slice the basis)"
        )
    coefficients, basis = promoted(coefficients, basis)
    with full_precision(basis):
        return (coefficients @ basis.flatten(1)).unflatten(-1, (basis.shape[1], 3))


def _levels(parents: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Joints by depth below the root, each with its parent's index in the level above."""
    depth: list[int] = []
    for joint, parent in enumerate(parents):
        if joint == 0:
            if parent != -1:
                raise ValueError(f"joint_transforms: parents[0] is {parent}; the first joint is the root and has -1")
            depth.append(0)
            continue
        if not 0 <= parent < joint:
            raise ValueError(
                f"joint_transforms: parents[{joint}] is {parent}; a parent comes before its child, so it must lie in "
                f"[0, {joint - 1}]; reorder the joints"
            )
        depth.append(depth[parent] + 1)
    levels: list[tuple[list[int], list[int]]] = []
    for level in range(max(depth, default=-1) + 1):
        joints = [joint for joint, d in enumerate(depth) if d == level]
        above = levels[-1][0] if levels else []
        levels.append((joints, [above.index(parents[joint]) if level else 0 for joint in joints]))
    return levels


def joint_transforms(
    pose: Float[Tensor, "..."],
    joints: Float[Tensor, "*skeletons j 3"],
    parents: Sequence[int],
) -> Float[Tensor, "*batch j 4 4"]:
    """Rest-to-posed rigid transforms of a tree of joints (SMPL, equations 3-4).

    Args:
        pose: (..., J, 3) axis-angle rotations relative to the parent, radians, or (..., J, 3, 3) rotation matrices. For
            a skeleton (3, 3) of three joints, (3, 3, 3) are the matrices of one pose; three poses take `joints[None]`.
        joints: (..., J, 3) joint positions at rest, meters. The leading axes broadcast with those of `pose`: one
            skeleton serves a batch of poses, and one pose several skeletons.
        parents: the J parents; -1 for the root, which is first; a parent comes before its children.

    Returns:
        (..., J, 4, 4): `T @ [x, 1]` is the posed position of a rest point x that moves rigidly with the joint; the
        identity at zero pose.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: shapes or parents do not fit; or, on the CPU, three matrices for a skeleton of three joints are no
            rotations.

    Differentiable to any order in `pose` and `joints`.

    >>> import torch, headfields as hf
    >>> joints = torch.tensor([[0.0, 0, 0], [0, 1, 0]])  # a root, and its child 1 m above
    >>> pose = torch.tensor([[0.0, 0, 0], [0, 0, torch.pi]])  # the child turns by half a turn about z
    >>> transforms = hf.ops.joint_transforms(pose, joints, parents=(-1, 0))
    >>> (transforms[1] @ torch.tensor([0.0, 2.0, 0.0, 1.0]))[:3].round().abs().tolist()  # from above to below the joint
    [0.0, 0.0, 0.0]
    """
    check_floating("joint_transforms", "pose", pose)
    check_floating("joint_transforms", "joints", joints)
    check_shape("joint_transforms", "joints", joints, "... J 3")
    check_same_device("joint_transforms", pose=pose, joints=joints)
    parents = tuple(parents)
    count = len(parents)
    matrices = _are_matrices(pose, joints, count)
    batch = _broadcast(pose.shape[: -3 if matrices else -2], joints.shape[:-2])
    if joints.shape[-2] != count or batch is None or pose.shape[-3 if matrices else -2] != count:
        raise ValueError(
            f"joint_transforms: pose {tuple(pose.shape)} and joints {tuple(joints.shape)} do not fit {count} parents; "
            f"expected (..., {count}, 3) or (..., {count}, 3, 3), and (..., {count}, 3), whose leading axes broadcast"
        )
    pose, joints = promoted(pose, joints)
    with full_precision(joints):
        rotations = pose if matrices else rotation_matrices(pose)
        return _joint_transforms(rotations.expand(*batch, count, 3, 3), joints.expand(*batch, count, 3), parents)


def _are_matrices(pose: Tensor, joints: Tensor, count: int) -> bool:
    """Whether a pose is of matrices (..., J, 3, 3), and not of axis-angles (..., J, 3)."""
    axes, shape = pose.dim(), tuple(pose.shape)
    if axes < 2 or shape[-1] != 3:
        raise ValueError(
            f"joint_transforms: pose has shape {shape}; expected (..., {count}, 3) axis-angles or (..., {count}, 3, 3) "
            "matrices"
        )
    if axes < 3 or shape[-2] != 3 or shape[-3] != count:
        return False
    if count != 3:
        return True
    if axes <= joints.dim():  # (..., 3, 3, 3) is either: with no more axes than the skeleton's it is axis-angles
        return False
    if is_readable(pose):
        off = (pose.mT @ pose - torch.eye(3, dtype=pose.dtype)).detach().abs()
        if bool((off > 0.1).any()):
            raise ValueError(
                f"joint_transforms: pose {shape} for joints {tuple(joints.shape)} is read as rotation matrices, and it "
                "holds none; for a batch of axis-angles pass joints[None]"
            )
    return True


def _broadcast(first: torch.Size, second: torch.Size) -> torch.Size | None:
    if first == second:  # `broadcast_shapes` takes as long as a small operation
        return first
    try:
        return torch.broadcast_shapes(first, second)
    except RuntimeError:
        return None


def _joint_transforms(rotations: Tensor, joints: Tensor, parents: Sequence[int]) -> Tensor:
    batch, count = joints.shape[:-2], len(parents)
    if count == 0:
        return joints.new_empty((*batch, 0, 4, 4))
    order: list[int] = []
    turned: list[Tensor] = []
    placed: list[Tensor] = []
    for depth, (members, above) in enumerate(_levels(parents)):
        local, rest = rotations[..., members, :, :], joints[..., members, :]
        if depth == 0:
            turned.append(local)
            placed.append(rest)
        else:
            turn = turned[-1][..., above, :, :]
            offset = rest - joints[..., [parents[joint] for joint in members], :]
            turned.append(turn @ local)
            placed.append(placed[-1][..., above, :] + (turn @ offset[..., None])[..., 0])
        order.extend(members)
    back = sorted(range(count), key=order.__getitem__)
    turn, place = torch.cat(turned, -3)[..., back, :, :], torch.cat(placed, -2)[..., back, :]
    shift = place - (turn @ joints[..., None])[..., 0]
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=joints.dtype, device=joints.device).expand(*batch, count, 1, 4)
    return torch.cat([torch.cat([turn, shift[..., None]], -1), bottom], -2)


def linear_blend_skinning(
    vertices: Float[Tensor, "*vertex_batch v 3"],
    weights: Float[Tensor, "v j"],
    transforms: Float[Tensor, "*batch j 4 4"],
) -> Float[Tensor, "*batch v 3"]:
    """Moves each vertex by the weighted mean of the transforms of its joints (SMPL, equation 2).

    Args:
        vertices: (..., V, 3) rest positions, meters; the batch axes broadcast against those of `transforms`, so one
            (V, 3) mesh broadcasts against a batch of transforms.
        weights: (V, J) skinning weights; rows sum to 1.
        transforms: (..., J, 4, 4) rest-to-posed transforms, as from `joint_transforms`.

    Returns:
        (..., V, 3) posed positions, meters.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit.

    Differentiable to any order in every argument (multilinear).

    >>> import torch, headfields as hf
    >>> mesh, weights = torch.zeros(5, 3), torch.full((5, 2), 0.5)
    >>> transforms = torch.eye(4).repeat(8, 2, 1, 1)  # a batch of 8 poses of two joints
    >>> hf.ops.linear_blend_skinning(mesh, weights, transforms).shape
    torch.Size([8, 5, 3])
    """
    op = "linear_blend_skinning"
    for name, tensor in (("vertices", vertices), ("weights", weights), ("transforms", transforms)):
        check_floating(op, name, tensor)
    check_shape(op, "vertices", vertices, "... V 3")
    check_shape(op, "weights", weights, "V J")
    check_shape(op, "transforms", transforms, "... J 4 4")
    check_same_device(op, vertices=vertices, weights=weights, transforms=transforms)
    if weights.shape != (vertices.shape[-2], transforms.shape[-3]):
        raise ValueError(
            f"{op}: weights has shape {tuple(weights.shape)}; expected ({vertices.shape[-2]}, {transforms.shape[-3]}), "
            f"one row per vertex of vertices {tuple(vertices.shape)} and one column per joint of "
            f"transforms {tuple(transforms.shape)}"
        )
    vertices, weights, transforms = promoted(vertices, weights, transforms)
    with full_precision(vertices):
        blended = (weights @ transforms[..., :3, :].flatten(-2)).unflatten(-1, (3, 4))
        return (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]
