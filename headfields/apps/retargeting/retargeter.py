"""Retargeting: a target head driven by a source head (surface, eyeballs, lids, expression coefficients, head pose)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.apps.retargeting.binding import Binding, bind
from headfields.apps.retargeting.deformation_transfer import DeformationTransfer, Method
from headfields.apps.retargeting.expression_fit import ExpressionFit
from headfields.apps.retargeting.head_surface import Eyeball, HeadSurface
from headfields.apps.retargeting.lid_follower import LidFollower
from headfields.apps.retargeting.lids import find_lids
from headfields.apps.retargeting.sources import expressions_of_capture, surface_of_capture
from headfields.data.joint_fit import fit_joint_transforms
from headfields.ops.rigid import fit_rigid
from headfields.records import Camera, HeadState

if TYPE_CHECKING:
    from headfields.data.capture import Capture

__all__ = ["Retargeter", "rest_camera"]

_LID_REACH = 1.6  # eyeball radii: skin this near must not pass into the eyeball
_LID_GAP = 1.03  # least distance of lids from the eyeball's center in radii, or their distance at rest if that is less

_SUNK = 0.95  # eyeball radii: lids at rest may lie so deep in a coarse eyeball


@dataclass(frozen=True)
class _EyePair:
    """A target eyeball, the source eyeball that it follows (or None), and the least distance of nearby skin."""

    target: Eyeball
    source: Eyeball | None
    skin: Int[Tensor, " n"]
    least: Float[Tensor, " n"]


class Retargeter(nn.Module):
    """Maps states of a source head to states of a target head that makes the same motion.

    `DeformationTransfer` carries over each frame's deformation from the neutral mesh, so the source's head shape stays
    behind. `bind` finds the correspondence. The target's eyeballs rotate about their own centers as the nearest source
    eyeballs do; its lids reach the source's openness (`LidFollower`) and stay outside the eyeballs. Heads of one
    topology are transferred vertex by vertex, eyeballs and lids included.

    Args:
        source, target: the two heads (`surface_of_capture`, `surface_of_head`).
        expressions: fits the target's own expression coefficients to the retargeted mesh; None: states have no
            expression.
        method: method of `DeformationTransfer`.
        position_weight: weight of positions in `DeformationTransfer`.
        binding: the correspondence of the heads; None: `bind` finds it.
        pose: whether the target has the source's joints, so that states keep the rotations of their joints.
        joints: fits the target's joint transforms (B, J, 4, 4) to its retargeted meshes (B, W, 3), e.g.
            `headfields.data.joint_fit.fit_joint_transforms` with skinning weights; None: states have none.

    Raises:
        ValueError: see `bind`.

    Attributes:
        transfer: the deformation transfer, in the target's space.
        lids: one `LidFollower` an eye; empty for heads of one topology.
        binding: the correspondence of the heads.

    Buffers move with `.to(device)`; the linear system stays on the CPU.

    Source: deformation transfer by Sumner and Popović (2004); the rest is our own choice.
    """

    def __init__(
        self,
        source: HeadSurface,
        target: HeadSurface,
        expressions: ExpressionFit | None = None,
        method: Method = "least_squares",
        position_weight: float = 2.0,
        binding: Binding | None = None,
        pose: bool = False,
        joints: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.expressions = expressions
        self.pose, self.joints = pose, joints
        self.binding = bind(source, target) if binding is None else binding
        align = self.binding.align
        placed = align.apply(source.neutral.double())
        warp: Callable[[Tensor], Tensor] | None = self.binding.warp
        self.transfer = DeformationTransfer(
            placed, source.faces, target.neutral.double(), target.faces, self.binding.correspondence, method,
            position_weight, warp,
        )  # fmt: skip
        apart = self.binding.registered is not None  # heads of two topologies
        self._eyes = self._pair_eyes() if apart else []
        followers, self._behind = self._pair_lids() if apart else ([], [])
        self.lids = nn.ModuleList(followers)

    def extra_repr(self) -> str:
        return f"{len(self.source.neutral)} -> {len(self.target.neutral)} vertices, {len(self._eyes)} eyeballs"

    @classmethod
    def from_captures(cls, driver: "Capture", own: "Capture", method: Method = "least_squares") -> "Retargeter":
        """Retargets the motion of the capture `driver` to the head of `own`, which an avatar was trained on.

        Rotations of joints are kept if both captures record as many (FLAME's 5, SMPL-X's 55), because they are relative
        to the parents. Joint transforms are fitted to the retargeted meshes by `own.skinning`, if it has weights.

        Raises:
            CaptureError: a mesh, expression or landmark file cannot be read.
            ValueError: see `bind`.
        """
        source, target = surface_of_capture(driver), surface_of_capture(own)
        recorded = [capture.state([0]).pose for capture in (driver, own)]
        joint_counts = [None if pose is None else pose.shape[1] for pose in recorded]
        keeps_pose = joint_counts[0] is not None and joint_counts[0] == joint_counts[1]
        joints: Callable[[Tensor], Tensor] | None = None
        if own.skinning is not None:
            joints = partial(fit_joint_transforms, own.template.canonical_vertices, weights=own.skinning)
        return cls(source, target, expressions_of_capture(own, target), method, pose=keeps_pose, joints=joints)

    def forward(self, state: HeadState) -> HeadState:
        """B frames of the target head from B frames of the source head.

        Args:
            state: the source's; its vertices (B, V, 3) are read, and with `pose` its pose. B = 0 is legal.

        Returns:
            HeadState with vertices (B, W, 3) and, with `expressions`, `pose` and `joints`, expression (B, E), pose
            (B, J, 3) and joint transforms (B, J, 4, 4). Differentiable in the vertices.

        Raises:
            ValueError: the state is not of the source's topology.
        """
        posed = state.vertices
        if posed.shape[1] != len(self.source.neutral):
            raise ValueError(
                f"Retargeter: state.vertices has shape {tuple(posed.shape)}; the source head has "
                f"{len(self.source.neutral)} vertices (the state must be of the driving head)"
            )
        placed = self.binding.align.apply(posed.double())
        moved = self.transfer(placed)
        if len(posed):
            moved = self._follow(moved, placed)
        moved = moved.to(posed.dtype)
        expression = None if self.expressions is None else self.expressions(moved)
        return HeadState(
            vertices=moved,
            expression=expression,
            pose=state.pose if self.pose else None,
            joint_transforms=None if self.joints is None else self.joints(moved),
        )

    def camera(self, driving: Camera, driving_rest: Camera, own_rest: Camera) -> Camera:
        """Cameras that give the target's head the motion of the source's head relative to its rest pose.

        Captures keep the head still and its pose in the camera. The alignment of the heads maps the source's motion
        into the target's frame, and scales translations with the head.

        Args:
            driving: cameras of B source frames.
            driving_rest, own_rest: one camera each, at rest (`rest_camera`); the image is that of `own_rest`.

        Returns:
            B cameras.
        """
        driven = driving.world_to_camera.reshape(-1, 4, 4).double()
        rest = driving_rest.world_to_camera.reshape(4, 4).double()
        motion = torch.linalg.inv(rest) @ driven  # of the head, in its frame
        align = torch.eye(4, dtype=torch.float64, device=driven.device)
        align[:3, :3] = (self.binding.align.scale * self.binding.align.rotation).to(align)
        align[:3, 3] = self.binding.align.translation.to(align)
        own = own_rest.world_to_camera.reshape(4, 4).double().to(driven.device)
        pose = own @ align @ motion @ torch.linalg.inv(align)
        intrinsics = own_rest.intrinsics.reshape(1, 3, 3).expand(len(driven), 3, 3)
        lens = own_rest.lens_rows(len(driven))
        return Camera(pose.to(driving.world_to_camera), intrinsics.contiguous(), own_rest.size, lens)

    def _pair_eyes(self) -> list[_EyePair]:
        skin = self.target.faces[self.target.skin].flatten().unique()
        scale = float(self.binding.align.scale)
        centers = [self.binding.align.apply(ball.center.double()) for ball in self.source.eyeballs]
        out = []
        for ball in self.target.eyeballs:
            partner, best = None, 2.5 * ball.radius
            for candidate, center in zip(self.source.eyeballs, centers, strict=True):
                apart = float((center - ball.center).norm()) + abs(candidate.radius * scale - ball.radius)
                if apart < best:
                    partner, best = candidate, apart
            distance = (self.target.neutral[skin] - ball.center).norm(dim=1)
            near = (distance < _LID_REACH * ball.radius) & (distance > ball.radius)
            least = distance.clamp_max(_LID_GAP * ball.radius)
            if self.target.closed is not None:  # the head's own shut lids may pass into a coarse eyeball
                least = torch.minimum(least, (self.target.closed[skin] - ball.center).norm(dim=1))
            elif partner is not None and self.source.closed is not None:  # as deep as the source's
                least = least.clamp_max(_depth_of_lids(self.source, partner) * ball.radius)
            out.append(_EyePair(ball, partner, skin[near], least[near]))
        return out

    def _pair_lids(self) -> tuple[list[LidFollower], list[int]]:
        """A follower for each of the target's eyes, and the index in `_eyes` of the eyeball behind it."""
        followers, behind = [], []
        sources = find_lids(self.source, self.binding.align)
        for lids in find_lids(self.target):
            apart = [float((each.eye.center - lids.eye.center).norm()) for each in sources]
            if not apart or min(apart) > 2.5 * lids.eye.radius:
                continue
            source = sources[apart.index(min(apart))]
            if self.target.closed is None:  # the source's distance when shut, as a share of its own at rest
                lids = replace(lids, closed=source.closed / source.rest * lids.rest)
            followers.append(LidFollower(source, lids, self.target, self.expressions))
            centers = torch.stack([eye.target.center for eye in self._eyes]).to(lids.eye.center)
            behind.append(int((centers - lids.eye.center).norm(dim=1).argmin()))
        return followers, behind

    def _motion(self, placed: Tensor, eye: _EyePair) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and center (B, 3) of a target eyeball, moved as the source's is."""
        center = eye.target.center.to(placed)
        if eye.source is None:
            still = torch.eye(3, dtype=placed.dtype, device=placed.device)
            return still.expand(len(placed), 3, 3), center.expand(len(placed), 3)
        rotation, offset = fit_rigid(self.transfer.source_neutral[eye.source.vertices], placed[:, eye.source.vertices])
        pivot = self.binding.align.apply(eye.source.center.to(placed))
        return rotation, center + (rotation @ pivot + offset - pivot)

    def _follow(self, moved: Tensor, placed: Tensor) -> Tensor:
        """Rotates the eyeballs, matches the lids' openness, and pushes skin out of the eyeballs."""
        centers = []
        rest = self.target.neutral.to(moved)
        for eye in self._eyes:
            rotation, center = self._motion(placed, eye)
            ball = eye.target.vertices.to(moved.device)
            turned = (rest[ball] - eye.target.center.to(moved)) @ rotation.transpose(1, 2) + center[:, None]
            moved = moved.index_copy(1, ball, turned)
            centers.append(center)
        for number, lids in zip(self._behind, self.lids, strict=True):
            moved = lids(placed, moved, centers[number])
        for eye, center in zip(self._eyes, centers, strict=True):
            skin, least = eye.skin.to(moved.device), eye.least.to(moved)
            offset = moved[:, skin] - center[:, None]
            distance = offset.norm(dim=-1, keepdim=True).clamp_min(1e-9)
            moved = moved.index_copy(1, skin, center[:, None] + offset * (least[:, None] / distance).clamp_min(1.0))
        return moved


def _depth_of_lids(head: HeadSurface, ball: Eyeball) -> float:
    """Distance of the skin from an eyeball's center with the eyes shut, where it is least, in radii."""
    assert head.closed is not None
    skin = head.faces[head.skin].flatten().unique()
    distance = (head.neutral[skin] - ball.center).norm(dim=1)
    near = skin[(distance < _LID_REACH * ball.radius) & (distance > _SUNK * ball.radius)]
    depth = (head.closed[near] - ball.center).norm(dim=1).div(ball.radius)
    return float(depth.amin()) if len(near) else _LID_GAP


def rest_camera(camera: Camera) -> Camera:
    """One camera with the mean pose of a batch, and the intrinsics of the camera nearest to it.

    Raises:
        ValueError: the batch is empty.
    """
    pose = camera.world_to_camera.reshape(-1, 4, 4).double()
    if not len(pose):
        raise ValueError("rest_camera: camera holds no poses; pass one or more")
    u, _, vh = torch.linalg.svd(pose[:, :3, :3].mean(0))
    sign = torch.ones(3, dtype=u.dtype, device=u.device)
    sign[2] = torch.linalg.det(u @ vh).sign()
    mean = torch.eye(4, dtype=u.dtype, device=u.device)
    mean[:3, :3] = (u * sign) @ vh
    mean[:3, 3] = pose[:, :3, 3].mean(0)
    nearest = int((pose - mean).flatten(1).norm(dim=1).argmin())
    intrinsics = camera.intrinsics.reshape(-1, 3, 3)
    lenses = camera.lens_rows(len(pose))
    lens = None if lenses is None else lenses[[nearest]]
    return Camera(mean[None].to(camera.world_to_camera), intrinsics[[nearest % len(intrinsics)]], camera.size, lens)
