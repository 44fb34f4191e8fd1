"""A rigged template reduced to the joints and expressions that are tracked, and the Jacobian of its surface points."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.ops.rotations import axis_angle, left_jacobian, rotation_matrices
from headfields.records import HeadState, Record
from headfields.records.opengl_axes import flip_y_z

__all__ = ["BODY_JOINTS", "BodyPose", "PosedBody", "TrackedBody", "cross_matrices"]

BODY_JOINTS = ("torso", "neck", "head", "jaw")
_SHARE = 0.01
"""Fraction of all skinning weights that a joint must move, and must leave alone, to be distinguished from the motion of
the whole body."""
_STILL = 1e-6
"""Meters; an expression that moves all vertices by less is not tracked."""


@dataclass(frozen=True)
class BodyPose(Record):
    """The parameters of one frame.

    Attributes:
        world_to_camera: (4, 4) from the frame of the rest mesh to camera space.
        turns: (A, 3) rotations of the tracked joints, axis-angle in radians.
        expression: (E,) tracked coefficients.
    """

    world_to_camera: Float[Tensor, "4 4"]
    turns: Float[Tensor, "a 3"]
    expression: Float[Tensor, " e"]

    def moved(self, step: Float[Tensor, " p"], center: Float[Tensor, "3"]) -> "BodyPose":
        """The pose after a step of the P = `TrackedBody.width` parameters of `TrackedBody.jacobian`.

        Args:
            step: (P,) rotation about the center and translation in camera space, then joints, then expression.
            center: (3,) in camera space.
        """
        step = step.to(self.world_to_camera)
        rotation = rotation_matrices(step[:3])
        pose = self.world_to_camera.clone()
        pose[:3, :3] = rotation @ pose[:3, :3]
        pose[:3, 3] = rotation @ (self.world_to_camera[:3, 3] - center) + center + step[3:6]
        joints = self.turns.numel()
        return replace(
            self, world_to_camera=pose, turns=self.turns + step[6 : 6 + joints].view(-1, 3),
            expression=self.expression + step[6 + joints :],
        )  # fmt: skip


@dataclass(frozen=True)
class PosedBody(Record):
    """A body in a pose.

    Attributes:
        vertices: (V, 3) in the frame of the rest mesh.
        local: (V, 3) in camera space.
        rotations: (A + 1, 3, 3) rest to posed; the first of the fixed part, then of the tracked joints.
        shifts: (A + 1, 3) of x → R x + t.
        joints: (A, 3) positions of the tracked joints.
        rest: (V, 3) before skinning.
    """

    vertices: Float[Tensor, "v 3"]
    local: Float[Tensor, "v 3"]
    rotations: Float[Tensor, "b 3 3"]
    shifts: Float[Tensor, "b 3"]
    joints: Float[Tensor, "a 3"]
    rest: Float[Tensor, "v 3"]


class TrackedBody:
    """A rig reduced to tracked joints and expressions; equal to the rig in every such pose.

    Tracked joints are `joints`, except those that move all or nothing of the template: they cannot be distinguished
    from the motion of the whole body. Tracked expressions are those with names, or the first ones.

    Args:
        rig: the rigged template.
        expressions: maximum number.
        joints: names of the joints, parents first.
        scales: (E,) standard deviation of each tracked coefficient from 0; that of the options if None.
        blendshapes: (E,) which coefficients are weights of blendshapes, from 0 to 1; none if None.

    Attributes:
        names, index: names of the tracked joints and their indices in the rig.
        expressions: indices of the tracked expressions in the rig.
        landmark_offsets: (68, 3) meters, from the rig's landmarks at rest to where a detector puts them; None for none.
    """

    landmark_offsets: Float[Tensor, "68 3"] | None = None

    def __init__(
        self, rig: RiggedTemplate, expressions: int = 50, joints: Sequence[str] = BODY_JOINTS,
        scales: Float[Tensor, " e"] | None = None, blendshapes: Bool[Tensor, " e"] | None = None,
    ) -> None:  # fmt: skip
        self.rig, self.scales, self.blendshapes = rig, scales, blendshapes
        count = len(rig.expression_names) or rig.expression_count
        moves = rig.expression_basis.norm(dim=2).amax(dim=1) > _STILL if rig.expression_count else torch.zeros(0)
        self.expressions = [k for k in range(count) if bool(moves[k])][:expressions]
        total, subtree = float(rig.weights.sum()), _subtrees(rig.parents)
        carried = {name: float(rig.weights[:, subtree[j]].sum()) / total for name, j in rig.joints.items()}
        self.names = [name for name in joints if rig.joints.get(name, 0) and _SHARE * 0.2 < carried[name] < 1 - _SHARE]
        self.index = [rig.joints[name] for name in self.names]
        nearest: list[int] = []  # for each joint the row of the tracked joint that moves it; row 0 is fixed
        for joint, parent in enumerate(rig.parents):
            own = self.index.index(joint) + 1 if joint in self.index else 0
            nearest.append(own or (nearest[parent] if parent >= 0 else 0))
        self.parents = [nearest[rig.parents[joint]] for joint in self.index]
        rows = torch.tensor(nearest)
        rest = rig.template_vertices
        self.weights = rest.new_zeros(len(rest), len(self.index) + 1).index_add(1, rows.to(rest.device), rig.weights)
        self.basis = rig.expression_basis[self.expressions].contiguous()  # (E, V, 3)
        regressor = rig.joint_regressor[self.index]
        self.joint_rest = regressor @ rest
        self.joint_basis = torch.einsum("av,evc->eac", regressor, self.basis)
        columns = [9 * (joint - 1) + k for joint in self.index for k in range(9)]
        self.correctives = rig.pose_basis[columns].flatten(1)  # (9 A, 3 V)
        self._below = [
            [k + 1 for k in range(len(self.index)) if _is_below(k + 1, a + 1, self.parents)]
            for a in range(len(self.index))
        ]

    @property
    def width(self) -> int:
        """P, the number of parameters: 6 of the whole body, 3 per joint, 1 per expression."""
        return 6 + 3 * len(self.index) + len(self.expressions)

    def at_rest(self, world_to_camera: Float[Tensor, "4 4"]) -> BodyPose:
        """The rest pose in front of a camera."""
        zero = self.joint_rest.new_zeros
        return BodyPose(world_to_camera, zero(len(self.index), 3), zero(len(self.expressions)))

    def posed(self, pose: BodyPose) -> PosedBody:
        """The body in a pose."""
        rest = self.rig.template_vertices
        joints = self.joint_rest
        if self.expressions:
            rest = rest + torch.tensordot(pose.expression, self.basis, 1)
            joints = joints + torch.tensordot(pose.expression, self.joint_basis, 1)
        local = rotation_matrices(pose.turns)
        if self.index:
            bend = (local - torch.eye(3).to(local)).flatten()
            rest = rest + (bend @ self.correctives).view(-1, 3)
        rotations, shifts, positions = [torch.eye(3).to(rest)], [rest.new_zeros(3)], []
        for a, parent in enumerate(self.parents):
            position = rotations[parent] @ joints[a] + shifts[parent]
            rotation = rotations[parent] @ local[a]
            rotations.append(rotation)
            shifts.append(position - rotation @ joints[a])
            positions.append(position)
        all_rotations, all_shifts = torch.stack(rotations), torch.stack(shifts)
        vertices = self._blend(all_rotations, rest) + self.weights @ all_shifts
        in_camera = vertices @ pose.world_to_camera[:3, :3].T + pose.world_to_camera[:3, 3]
        all_positions = torch.stack(positions) if positions else rest.new_zeros(0, 3)
        return PosedBody(vertices, in_camera, all_rotations, all_shifts, all_positions, rest)

    def _blend(self, rotations: Float[Tensor, "b 3 3"], rest: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
        each = torch.einsum("bij,vj->bvi", rotations, rest)
        return (self.weights.T[..., None] * each).sum(0)

    @property
    def landmark_count(self) -> int:
        """Number of landmarks that a frame's are compared with: 68, or 0 if the rig has others."""
        fixed = 0 if self.rig.landmark_faces is None else len(self.rig.landmark_faces)
        total = fixed + (0 if self.rig.contour is None else self.rig.contour.faces.shape[1])
        return total if total == 68 else 0

    def landmarks_at_rest(self) -> Float[Tensor, "l 3"]:
        """(L, 3) the landmarks of the body at rest, as seen from the front, meters."""
        facing = self.at_rest(flip_y_z(torch.eye(4).to(self.rig.template_vertices)))
        corners, weights = self.landmarks(facing)
        return (weights[..., None] * self.rig.template_vertices[corners]).sum(1)

    def landmarks(self, pose: BodyPose) -> tuple[Int[Tensor, "l 3"], Float[Tensor, "l 3"]]:
        """Vertices (L, 3) and barycentric coordinates (L, 3) of the landmarks; the contour's depend on the pose."""
        rig = self.rig
        assert rig.landmark_faces is not None and rig.landmark_barycentric is not None
        faces, weights = rig.landmark_faces, rig.landmark_barycentric
        if rig.contour is not None:
            row = rig.contour.rows(flip_y_z(pose.world_to_camera[:3, :3], -2)[None])[0]
            faces = torch.cat([rig.contour.faces[row], faces])
            weights = torch.cat([rig.contour.barycentric[row], weights])
        return rig.faces[faces], weights.to(rig.template_vertices)

    def landmark_points(self, pose: BodyPose) -> Float[Tensor, "l 3"]:
        """The landmarks (L, 3) in camera space, where a detector puts them."""
        corners, weights = self.landmarks(pose)
        posed = self.posed(pose)
        points = (weights[..., None] * posed.local[corners]).sum(1)
        if self.landmark_offsets is None:
            return points
        frames = self.landmark_frames(pose, posed, corners, weights)
        return points + (frames @ self.landmark_offsets[..., None])[..., 0]

    def landmark_frames(
        self, pose: BodyPose, body: PosedBody, corners: Int[Tensor, "l 3"], weights: Float[Tensor, "l 3"]
    ) -> Float[Tensor, "l 3 3"]:
        """Rotations (L, 3, 3), blended by skinning weights, from rest to camera space at surface points."""
        share = (weights[..., None] * self.weights[corners]).sum(1)
        return torch.einsum("lb,bij->lij", share, pose.world_to_camera[:3, :3] @ body.rotations)

    def jacobian(
        self, pose: BodyPose, body: PosedBody, corners: Int[Tensor, "n 3"], weights: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n 3 p"], Float[Tensor, "3"]]:
        """The Jacobian (N, 3, P) of surface points in camera space, and the center (3,) of the step's rotation.

        The derivatives of pose correctives and of joint positions by expressions are small and left out.

        Args:
            pose, body: pose and body at which the Jacobian is evaluated.
            corners, weights: (N, 3) vertex indices and barycentric coordinates of the points.
        """
        view = pose.world_to_camera[:3, :3]
        center = body.local.mean(dim=0)
        used, inverse = corners.unique(return_inverse=True)
        local = body.local[used]
        parts = [-cross_matrices(local - center), torch.eye(3).to(local).expand(len(used), 3, 3)]
        each = torch.einsum("bij,vj->bvi", body.rotations, body.rest[used]) + body.shifts[:, None]
        share = self.weights[used]
        for a, parent in enumerate(self.parents):
            rows = self._below[a]
            lever = (
                torch.einsum("vb,bvi->vi", share[:, rows], each[rows])
                - share[:, rows].sum(1, keepdim=True) * (body.joints[a])
            )
            by_rotation = view @ body.rotations[parent] @ left_jacobian(pose.turns[a])
            parts.append(-cross_matrices(lever @ view.T) @ by_rotation)
        if self.expressions:
            blended = torch.einsum("vb,bij->vij", share, view @ body.rotations)
            parts.append(torch.einsum("vij,evj->vie", blended, self.basis[:, used]))
        columns = torch.cat(parts, dim=2)
        return (weights[..., None, None] * columns[inverse]).sum(1), center

    def turn_of(self, pose: BodyPose, names: Sequence[str]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3 q"]]:
        """The turn of a chain of joints, axis-angle in radians, and how it moves with the Q = 3 A numbers of `turns`.

        Args:
            pose: the pose.
            names: joints of the chain, parents first; those that are not tracked do not turn.

        Returns:
            The turn, and [∂]: a change dv of `turns` rotates what is below the chain by ∂ dv, in the frame above it.
        """
        rotation, columns = torch.eye(3).to(pose.turns), pose.turns.new_zeros(3, len(self.index), 3)
        for row in (self.names.index(name) for name in names if name in self.names):
            columns[:, row] = rotation @ left_jacobian(pose.turns[row])
            rotation = rotation @ rotation_matrices(pose.turns[row])
        return axis_angle(rotation), columns.flatten(1)

    def state(self, poses: list[BodyPose]) -> HeadState:
        """The state of the whole rig in B poses."""
        count = len(poses)
        rest = self.rig.template_vertices
        turns = torch.stack([pose.turns for pose in poses]) if poses else rest.new_zeros(0, len(self.index), 3)
        named = {name: turns[:, a] for a, name in enumerate(self.names)}
        full = self.rig.pose(**named) if named else rest.new_zeros(count, len(self.rig.parents), 3)
        return self.rig(expression=self.coefficients(poses), pose=full)

    def coefficients(self, poses: list[BodyPose]) -> Float[Tensor, "b e"]:
        """All expression coefficients of the rig (B, E)."""
        out = self.rig.template_vertices.new_zeros(len(poses), self.rig.expression_count)
        for row, pose in enumerate(poses):
            out[row, self.expressions] = pose.expression
        return out


def cross_matrices(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """The matrices [v]ₓ with [v]ₓ w = v × w.

    >>> import torch
    >>> from headfields.apps.tracking.rig.body import cross_matrices
    >>> (cross_matrices(torch.tensor([[1.0, 0.0, 0.0]])) @ torch.tensor([0.0, 1.0, 0.0])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _subtrees(parents: tuple[int, ...]) -> list[list[int]]:
    out: list[list[int]] = [[j] for j in range(len(parents))]
    for joint in range(len(parents) - 1, 0, -1):
        out[parents[joint]] += out[joint]
    return out


def _is_below(row: int, other: int, parents: list[int]) -> bool:
    while row:
        if row == other:
            return True
        row = parents[row - 1]
    return False
