"""Joint transforms fitted to posed meshes by skinning weights, for captures without a skeleton. Our own choice."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.records import HeadState

__all__ = ["JointFits", "fit_joint_transforms"]

_LEAST = 1e-3
"""Part of the vertices: a joint whose weights sum to less is not fitted."""


def fit_joint_transforms(
    canonical: Float[Tensor, "v 3"], posed: Float[Tensor, "b v 3"], weights: Float[Tensor, "v j"]
) -> Float[Tensor, "b j 4 4"]:
    """Rigid transforms of J joints that take a canonical mesh nearest to B posed ones, by skinning weights.

    The transform of a joint is the rigid fit of the vertices weighted by the squares of its skinning weights, so that
    vertices that it carries alone count most. Expression that looks like rigid motion of these vertices is fitted
    too. A joint that carries next to nothing gets the motion of the whole mesh.

    Args:
        canonical: (V, 3) meters; at least three vertices.
        posed: (B, V, 3) meters; B = 0 is legal.
        weights: (V, J) not negative; rows sum to 1.

    Returns:
        (B, J, 4, 4) canonical to posed, as `HeadState.joint_transforms` for this canonical mesh.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit.

    Differentiable in the meshes to second order, as `headfields.ops.fit_rigid`.

    >>> import torch
    >>> from headfields.data.joint_fit import fit_joint_transforms
    >>> canonical = torch.rand(20, 3)
    >>> fit_joint_transforms(canonical, canonical.repeat(4, 1, 1), torch.ones(20, 1)).shape
    torch.Size([4, 1, 4, 4])
    """
    op = "fit_joint_transforms"
    for name, value in (("canonical", canonical), ("posed", posed), ("weights", weights)):
        check_floating(op, name, value)
    check_shape(op, "canonical", canonical, "V 3")
    check_shape(op, "posed", posed, f"B {len(canonical)} 3")
    check_shape(op, "weights", weights, f"{len(canonical)} J")
    whole = rigid_transform(*fit_rigid(canonical, posed))
    carries = weights.sum(dim=0) > _LEAST * len(canonical)
    transforms = []
    for joint in range(weights.shape[1]):
        if not bool(carries[joint]):
            transforms.append(whole)
            continue
        moved = weights[:, joint] > 1e-4
        if int(moved.sum()) < 3:
            transforms.append(whole)
            continue
        share = weights[moved, joint].square().expand(len(posed), -1)
        transforms.append(rigid_transform(*fit_rigid(canonical[moved], posed[:, moved], share)))
    return torch.stack(transforms, dim=1) if transforms else whole[:, None][:, :0]


class JointFits:
    """Joint transforms of a capture's frames, each fitted once and kept.

    Args:
        weights: (V, J) skinning weights of the capture's template.
    """

    def __init__(self, weights: Float[Tensor, "v j"]) -> None:
        self.weights = weights
        self._known: dict[int, Tensor] = {}

    def added(self, state: HeadState, canonical: Float[Tensor, "v 3"]) -> HeadState:
        """The state with joint transforms from the canonical mesh.

        Raises:
            ValueError: the weights belong to another mesh.
        """
        assert state.frame_id is not None
        if self.weights.ndim != 2 or len(self.weights) != len(canonical):
            raise ValueError(
                f"load_capture: skinning has shape {tuple(self.weights.shape)}; expected ({len(canonical)}, J), a row "
                "for each vertex of the capture's template"
            )
        frames = state.frame_id.tolist()
        new = [row for row, frame in enumerate(frames) if frame not in self._known]
        for row, fitted in zip(new, fit_joint_transforms(canonical, state.vertices[new], self.weights), strict=True):
            self._known[frames[row]] = fitted
        known = [self._known[frame] for frame in frames]
        joints = torch.stack(known) if known else canonical.new_zeros(0, self.weights.shape[1], 4, 4)
        return state.replace(joint_transforms=joints)
