"""A textured head mesh with morph targets and a skin, and its motion: what animation programs know of a head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.skinning import linear_blend_skinning
from headfields.records import Record

__all__ = ["INFLUENCES", "RigMotion", "RiggedMesh", "strongest_joints"]

INFLUENCES = 4
"""Joints that may move a vertex, as in glTF's first set and in game engines."""


@dataclass(frozen=True)
class RiggedMesh(Record):
    """A mesh at rest, displacements of its vertices by name, and joints that carry it.

    A vertex at target weights w and joint transforms T is Σ_j weights_j T_j (v + Σ_e w_e targets_e).

    Attributes:
        mesh: at rest, meters.
        targets: (E, V, 3) displacements at weight 1, meters.
        target_names: (E,) their names.
        joint_names: (J,) names of the joints, J ≥ 1.
        parents: (J,) the index of each joint's parent, which stands before it; -1 for a root.
        joints: (J, 3) their positions at rest, meters.
        weights: (V, J) skinning weights; rows sum to 1.
    """

    mesh: Mesh
    targets: Float[Tensor, "e v 3"]
    target_names: tuple[str, ...]
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    joints: Float[Tensor, "j 3"]
    weights: Float[Tensor, "v j"]

    def __post_init__(self) -> None:
        super().__post_init__()
        count, joints = len(self.mesh.vertices), len(self.joints)
        if len(self.target_names) != len(self.targets) or len(set(self.target_names)) != len(self.targets):
            raise ValueError(
                f"RiggedMesh: {len(self.target_names)} target_names for {len(self.targets)} targets; expected one "
                "each, all different"
            )
        if self.targets.shape[1] != count or self.weights.shape != (count, joints):
            raise ValueError(
                f"RiggedMesh: targets has shape {tuple(self.targets.shape)} and weights {tuple(self.weights.shape)}; "
                f"expected (E, {count}, 3) and ({count}, {joints}) for {count} vertices and {joints} joints"
            )
        if not joints or len(self.parents) != joints or len(self.joint_names) != joints:
            raise ValueError(
                f"RiggedMesh: {joints} joints with {len(self.parents)} parents and {len(self.joint_names)} names; "
                "expected one each, and at least one"
            )
        late = [joint for joint, parent in enumerate(self.parents) if not -1 <= parent < joint]
        if late:
            raise ValueError(
                f"RiggedMesh: joint {late[0]} has the parent {self.parents[late[0]]}; expected one before it"
            )

    def posed(self, motion: "RigMotion") -> Float[Tensor, "t v 3"]:
        """The vertices (T, V, 3) of each frame of a motion, meters. Differentiable.

        Raises:
            ValueError: the motion is of another number of targets or joints.
        """
        count = (motion.target_weights.shape[1], motion.joint_transforms.shape[1])
        if count != (len(self.targets), len(self.joints)):
            raise ValueError(
                f"RiggedMesh.posed: motion has {count[0]} targets and {count[1]} joints; the mesh {len(self.targets)} "
                f"and {len(self.joints)}"
            )
        rest = self.mesh.vertices + torch.einsum("te,evk->tvk", motion.target_weights, self.targets)
        return linear_blend_skinning(rest, self.weights, motion.joint_transforms)

    def with_targets(self, targets: Float[Tensor, "e v 3"], names: Sequence[str]) -> "RiggedMesh":
        """The mesh with other targets."""
        return self.replace(targets=targets, target_names=tuple(names))

    def without_still_targets(self, least: float = 1e-6) -> tuple["RiggedMesh", Int[Tensor, " e"]]:
        """The mesh without targets that move no vertex by `least` meters, and the indices of those that it keeps."""
        reach = self.targets.norm(dim=-1).flatten(1)
        reach = reach.amax(dim=1) if reach.shape[1] else reach.new_zeros(len(reach))
        kept = (reach >= least).nonzero()[:, 0]
        return self.with_targets(self.targets[kept], [self.target_names[i] for i in kept.tolist()]), kept

    def limited(self, influences: int = INFLUENCES) -> "RiggedMesh":
        """The mesh with at most `influences` joints for each vertex: the strongest, their weights made to sum to 1."""
        index, weights = strongest_joints(self.weights, influences)
        return self.replace(weights=torch.zeros_like(self.weights).scatter(1, index, weights))


@dataclass(frozen=True)
class RigMotion(Record):
    """T frames of a `RiggedMesh`.

    Attributes:
        times: (T,) seconds, increasing.
        target_weights: (T, E).
        joint_transforms: (T, J, 4, 4) rigid transforms from rest to posed, meters.
    """

    times: Float[Tensor, " t"]
    target_weights: Float[Tensor, "t e"]
    joint_transforms: Float[Tensor, "t j 4 4"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool((self.times.diff() <= 0).any()):
            raise ValueError("RigMotion: times are not increasing; sort the frames, and leave out double ones")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def fps(self) -> float:
        """Frames per second: the inverse of the mean step; 25 for fewer than two frames."""
        return 25.0 if len(self) < 2 else float((len(self) - 1) / (self.times[-1] - self.times[0]))

    def joint_places(self, rig: RiggedMesh) -> Float[Tensor, "t j 4 4"]:
        """The transform (T, J, 4, 4) of each joint relative to its parent, from its own frame: that of a node.

        A joint's own frame at rest is the world's, moved to the joint's position.
        """
        at = torch.eye(4).to(rig.joints).repeat(len(rig.joints), 1, 1)
        at[:, :3, 3] = rig.joints
        world = self.joint_transforms @ at
        parents = torch.tensor(rig.parents)
        above = world[:, parents.clamp_min(0)].clone()
        above[:, parents < 0] = torch.eye(4).to(world)
        rotation = above[..., :3, :3].transpose(-1, -2)  # the inverse of a rigid transform
        local = world.clone()
        local[..., :3, :3] = rotation @ world[..., :3, :3]
        local[..., :3, 3] = (rotation @ (world[..., :3, 3] - above[..., :3, 3])[..., None])[..., 0]
        return local


def strongest_joints(
    weights: Float[Tensor, "v j"], count: int = INFLUENCES
) -> tuple[Int[Tensor, "v n"], Float[Tensor, "v n"]]:
    """Indices and weights (V, n) of the strongest joints of each vertex, which then sum to 1.

    Args:
        weights: (V, J).
        count: most joints; n is this number, or J if that is less.

    Returns:
        In order of their weights. A vertex without any weight gets the first joint.
    """
    value, index = weights.topk(min(count, weights.shape[1]), dim=1)
    value = value.clamp_min(0)
    total = value.sum(1, keepdim=True)
    alone = torch.zeros_like(value)
    alone[:, :1] = 1
    return index, torch.where(total > 1e-12, value / total.clamp_min(1e-12), alone)
