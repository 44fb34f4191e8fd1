"""The rigid motion that lays point sets over others, for many frames at once."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape
from headfields.ops.skinning import rotation_matrices


def rigid_motion(
    source: Float[Tensor, "*batch n 3"], target: Float[Tensor, "*#batch n 3"]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Rotations and translations x → R x + t that bring `source` nearest to `target`, in the sense of least squares.

    Args:
        source: (..., N, 3), N ≥ 3, not all on a line.
        target: (..., N, 3) the partners of the points, or (N, 3) for all.

    Returns:
        rotations (..., 3, 3) of determinant +1, which act on column vectors, and translations (..., 3).

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, there are fewer than three points, or devices differ.

    Differentiability: second order in both. The rotation comes from a singular value decomposition (Umeyama 1991),
    whose derivative fails where two singular values meet, though that of the rotation does not. So it is taken as a
    constant and followed by two steps of Newton's method, which leave it where it is and have its derivatives.
    """
    op = "rigid_motion"
    for name, points in (("source", source), ("target", target)):
        check_floating(op, name, points)
        check_shape(op, name, points, "... N 3")
    check_same_device(op, source=source, target=target)
    if source.shape[-2] != target.shape[-2] or source.shape[-2] < 3:
        raise ValueError(
            f"{op}: source has shape {tuple(source.shape)} and target {tuple(target.shape)}; give three pairs or more"
        )
    centre, goal = source.mean(dim=-2, keepdim=True), target.mean(dim=-2, keepdim=True)
    moment = (target - goal).transpose(-1, -2) @ (source - centre)
    moment = moment / moment.detach().abs().amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(moment.dtype).tiny)
    with torch.no_grad():
        u, _, vh = torch.linalg.svd(moment)
        flip = torch.ones_like(moment[..., 0])
        flip[..., 2] = torch.linalg.det(u @ vh).sign()
        rotation = (u * flip[..., None, :]) @ vh
    identity = torch.eye(3, dtype=moment.dtype, device=moment.device)
    for _ in range(2):
        turned = rotation.transpose(-1, -2) @ moment  # symmetric, once the rotation is right
        symmetric = 0.5 * (turned + turned.transpose(-1, -2))
        skew = turned - turned.transpose(-1, -2)
        axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
        trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        step = torch.linalg.solve_ex(trace[..., None, None] * identity - symmetric, axis[..., None])[0][..., 0]
        rotation = rotation @ rotation_matrices(step)
    translation = (goal - centre @ rotation.transpose(-1, -2))[..., 0, :]
    return rotation, translation
