"""Joint transforms from meshes alone: what a capture's frames need for skinning, where no skeleton was recorded."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.records import HeadState

_LEAST = 1e-3
"""Of the vertices' number: a joint that carries less in all is not fitted."""


def fit_joint_transforms(
    canonical: Float[Tensor, "v 3"], posed: Float[Tensor, "b v 3"], weights: Float[Tensor, "v j"]
) -> Float[Tensor, "b j 4 4"]:
    """Rigid transforms of J joints that take a canonical mesh nearest to B posed ones, by skinning weights.

    Each joint's is the rigid motion that fits the vertices best by the squares of its weights, so that those which it
    carries alone say most. Expressions that move these vertices are taken for motion as far as they look like it. A
    joint that carries next to nothing gets the motion of the whole mesh. All of it is our own choice.

    Args:
        canonical: (V, 3) meters; at least three vertices.
        posed: (B, V, 3) meters; B = 0 is legal.
        weights: (V, J) not negative, each vertex's summing to 1.

    Returns:
        (B, J, 4, 4) canonical to posed, as `HeadState.joint_transforms` for this canonical mesh.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit.

    Differentiable in the meshes to second order, as `headfields.ops.fit_rigid`.
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
    """Joint transforms of a capture's frames, each fitted once: they are small, and kept for good.

    Args:
        weights: (V, J) skinning weights of the capture's template.
    """

    def __init__(self, weights: Float[Tensor, "v j"]) -> None:
        self.weights = weights
        self._known: dict[int, Tensor] = {}

    def added(self, state: HeadState, canonical: Float[Tensor, "v 3"]) -> HeadState:
        """The frames' state with joint transforms from the canonical mesh.

        Raises:
            ValueError: the weights are of another mesh.
        """
        assert state.frame_id is not None
        if self.weights.ndim != 2 or len(self.weights) != len(canonical):
            raise ValueError(
                f"load_capture: skinning has shape {tuple(self.weights.shape)}; expected ({len(canonical)}, J), a row "
                "for each vertex of the capture's template"
            )
        frames = state.frame_id.tolist()
        new = [row for row, frame in enumerate(frames) if frame not in self._known]
        for row, found in zip(new, fit_joint_transforms(canonical, state.vertices[new], self.weights), strict=True):
            self._known[frames[row]] = found
        kept = [self._known[frame] for frame in frames]
        joints = torch.stack(kept) if kept else canonical.new_zeros(0, self.weights.shape[1], 4, 4)
        return state.replace(joint_transforms=joints)
