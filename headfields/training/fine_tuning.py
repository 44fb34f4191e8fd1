"""Fine-tuning of what the tracker gave: the head's pose, its joints and its expression in each training frame, as
parameters of the training.

GaussianAvatars (Qian et al. 2024) trains FLAME's expression, joints and translation of each frame beside its Gaussians.
Here any avatar can: the corrections change the state and the rays or cameras that it is rendered from, and their
gradients come through the avatar. The true tracking is not known and not needed.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from headfields.data.expression_basis import expression_basis
from headfields.heads.skinned import SkinnedHead
from headfields.ops.rotations import rotation_matrices
from headfields.ops.skinning import blend_shapes
from headfields.records import Batch, Camera, HeadState, ImageBatch

__all__ = ["RELEASED_RATES", "TRACKING", "FineTunedCapture", "FineTuning", "TrackingCorrections", "beside"]

RELEASED_RATES: dict[str, Any] = {"expression": 1e-3, "joints": 1e-5, "turn": 1e-5, "shift": 1e-6}
"""Learning rates of GaussianAvatars' released code, arguments/__init__.py: `flame_expr_lr`; `flame_pose_lr` of the
joints and of the root, radians; `flame_trans_lr`, meters. Over 600,000 steps of one image, with Adam and constant."""

TRACKING = "tracking"
"""What a checkpoint's names of corrections begin with."""
_NEAR = 2e-3
"""Meters, mean distance: a head whose meshes are further from the tracked ones is another head, or has other codes."""
_CHECKED = 4
"""Frames in which that is checked."""


@dataclass(frozen=True)
class FineTuning:
    """What of the tracking is trained, at which rates; an argument of `Trainer`.

    The rigid motion of the head (`turn`, `shift`) needs nothing but the mesh. Expression and joints need to know how
    the mesh follows them: by the head model and its arguments, which captures of FLAME's parameters have (VHAP's
    layout, metrical-tracker's, Pixel3DMM's); by `head`, for captures of meshes with its coefficients and joints; by the
    linear basis in `blendshapes.npz` of the capture's folder, for the expression alone. Where none of these is there,
    they are refused, and `FineTuning(expression=None, joints=None)` trains the rigid motion alone.

    A frame's vertices are those tracked plus what the change of its parameters moves in the head's own forward pass, so
    that corrections of zero are the capture, exactly, whatever else its meshes have.

    Attributes:
        expression: learning rate of the coefficients; None: they stay as tracked.
        joints: of the joints' rotations, radians, the root's excepted, which `turn` is; None: as tracked.
        turn: of the head's rotation about its center, radians; None: as tracked.
        shift: of its translation, meters; None: as tracked.
        head: the head model of the capture's meshes, where the capture does not have it.
        start: first step in which corrections are trained; before, the avatar learns with the tracking as it is.

    The defaults are our own choice, for some thousand steps: `RELEASED_RATES` are those of GaussianAvatars' released
    code, for 600,000.
    """

    expression: float | None = 2e-3
    joints: float | None = 1e-3
    turn: float | None = 3e-4
    shift: float | None = 1e-4
    head: SkinnedHead | None = None
    start: int = 0

    def __post_init__(self) -> None:
        for name, rate in self.rates.items():
            if not 0 < rate < float("inf"):
                raise ValueError(f"FineTuning: {name} is {rate}; expected a positive rate, or None")
        if not self.rates:
            raise ValueError(
                "FineTuning: all rates are None; leave it out, or give one of expression, joints, turn, shift"
            )
        if self.start < 0:
            raise ValueError(f"FineTuning: start is {self.start}; expected a step, 0 or more")

    @property
    def rates(self) -> dict[str, float]:
        """The rates that are given, by name."""
        every = {"expression": self.expression, "joints": self.joints, "turn": self.turn, "shift": self.shift}
        return {name: rate for name, rate in every.items() if rate is not None}

    def of_mode(self, mode: str) -> "FineTuning | None":
        """As `headfields train --fine-tune` says: "none", "rigid" (`turn` and `shift` alone) or "all".

        Raises:
            ValueError: another word.
        """
        if mode not in ("none", "rigid", "all"):
            raise ValueError(f"train: fine_tune is {mode!r}; expected 'none', 'rigid' or 'all'")
        if mode == "none":
            return None
        return self if mode == "all" else dataclasses.replace(self, expression=None, joints=None)

    def recorded(self) -> dict[str, Any]:
        """What a run records of it."""
        return {**self.rates, "start": self.start, "head": None if self.head is None else type(self.head).__name__}

    def corrections(self, capture: Any) -> "TrackingCorrections":
        """The corrections of a capture's frames, zero.

        Raises:
            ValueError: the capture does not say how its mesh follows expression or joints.
        """
        return TrackingCorrections(capture, tuple(self.rates), self.head)


class TrackingCorrections(nn.Module):
    """Corrections of the F frames of a capture: parameters `expression` (F, E), `joints` (F, J − 1, 3), `turn`
    and `shift` (F, 3), as far as they are trained. A frame that training does not draw keeps zero: as tracked.

    Called, it corrects the frames of a step, with gradients to the parameters. The head is turned and shifted in its
    own frame by moving rays or cameras against it, so that samplers and bounds, which follow the tracked mesh, stay
    valid.

    Args:
        capture: its frames.
        names: what is corrected.
        head: as for `FineTuning`.

    Raises:
        ValueError: as `FineTuning.corrections`.
    """

    def __init__(self, capture: Any, names: Sequence[str], head: SkinnedHead | None = None) -> None:
        super().__init__()
        self._capture = capture
        count, state = len(capture), capture.state([0] if len(capture) else [])
        self._vertices_of = _vertices_of(capture, state, names, head)
        for name in names:
            shape: tuple[int, ...] = (3,)
            if name == "expression":
                shape = (state.need("FineTuning", "expression").shape[1],)
            elif name == "joints":
                shape = (state.need("FineTuning", "pose").shape[1] - 1, 3)  # the root's is `turn`
            self.register_parameter(name, nn.Parameter(torch.zeros(count, *shape)))

    def groups(self, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Groups of the optimizer, `tracking_expression` and so on, without decay."""
        return [
            {"name": f"tracking_{name}", "params": [getattr(self, name)], "lr": rate, "weight_decay": 0.0}
            for name, rate in rates.items()
        ]

    def from_step(self, start: int) -> Callable[[Batch, HeadState, Tensor, int], tuple[Batch, HeadState]]:
        """What the trainer calls in each step: batches and states are as tracked before step `start`."""

        def corrected(batch: Batch, state: HeadState, frames: Tensor, step: int) -> tuple[Batch, HeadState]:
            return self(batch, state, frames) if step >= start else (batch, state)

        return corrected

    def forward(self, batch: Batch, state: HeadState, frames: Int64[Tensor, " b"]) -> tuple[Batch, HeadState]:
        """A step's batch and state as corrected.

        Args:
            batch: rays or images of B frames.
            state: the B frames as tracked.
            frames: (B,) their indices.
        """
        moved = self.state(state, frames)
        turn, shift = self._rigid(frames, state.vertices.device)
        if turn is None and shift is None:
            return batch, moved
        rotation, translation = self._motion(state.vertices, turn, shift)
        if isinstance(batch, ImageBatch):
            return batch.replace(camera=_camera_of(batch.camera, rotation, translation)), moved
        rays, row = batch.rays, batch.rays.frame
        back = rotation.mT[row]
        origins = (back @ (rays.origins - translation[row])[..., None])[..., 0]
        directions = (back @ rays.directions[..., None])[..., 0]
        return batch.replace(rays=rays.replace(origins=origins, directions=directions)), moved

    def state(self, state: HeadState, frames: Int64[Tensor, " b"]) -> HeadState:
        """The B frames with their corrected expression and joints, and the vertices that follow."""
        changes: dict[str, Tensor] = {}
        for name, field in (("expression", "expression"), ("joints", "pose")):
            own = getattr(self, name, None)
            if own is not None:
                rows = own[frames.to(own.device)].to(state.vertices)
                changes[field] = torch.nn.functional.pad(rows, (0, 0, 1, 0)) if name == "joints" else rows
        if not changes or not len(state):
            return state
        vertices, transforms = self._vertices_of(state, frames, changes)
        fields: dict[str, Tensor] = {name: getattr(state, name) + change for name, change in changes.items()}
        if transforms is not None and state.joint_transforms is not None:
            fields["joint_transforms"] = transforms
        return state.replace(vertices=vertices, **fields)

    def camera(self, camera: Camera, state: HeadState, frames: Int64[Tensor, " b"]) -> Camera:
        """The B cameras of B frames from which the head is seen as corrected; `state` is as tracked."""
        turn, shift = self._rigid(frames, state.vertices.device)
        if turn is None and shift is None:
            return camera
        return _camera_of(camera, *self._motion(state.vertices, turn, shift))

    def _rigid(self, frames: Tensor, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        own = (getattr(self, "turn", None), getattr(self, "shift", None))
        turn, shift = (None if each is None else each[frames.to(each.device)].to(device) for each in own)
        return turn, shift

    @staticmethod
    def _motion(vertices: Float[Tensor, "b v 3"], turn: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and translation (B, 3) of points: x → R (x − c) + c + t, with c the mesh's center."""
        center = vertices.detach().mean(1)
        zero = torch.zeros_like(center)
        rotation = rotation_matrices(zero if turn is None else turn.to(vertices))
        shift = zero if shift is None else shift.to(vertices)
        return rotation, center - (rotation @ center[..., None])[..., 0] + shift


def beside(avatar: nn.Module, corrections: TrackingCorrections) -> nn.Module:
    """The avatar's parts under their own names, and the corrections as "tracking": one module for what goes over
    parameters by name, as optimizers and checkpoints do. It shares the avatar's tables of parts, so it sees every part
    and parameter that takes the place of another."""
    both = nn.Module()
    both._parameters, both._buffers = avatar._parameters, avatar._buffers
    both._non_persistent_buffers_set = avatar._non_persistent_buffers_set
    both._modules = {**avatar._modules, TRACKING: corrections}
    return both


class FineTunedCapture:
    """A capture whose states and cameras are those that a training has corrected: to look at its training frames with
    `headfields.training.evaluate` or `picture`. Frames that were not trained are as tracked.

    Args:
        capture: the capture.
        corrections: of its frames.
    """

    def __init__(self, capture: Any, corrections: TrackingCorrections) -> None:
        self.capture, self.corrections = capture, corrections
        self.name, self.size, self.splits = capture.name, capture.size, capture.splits
        self.image, self.label, self.template = capture.image, capture.label, capture.template

    def __len__(self) -> int:
        return len(self.capture)

    @torch.no_grad()
    def state(self, frames: Any) -> HeadState:
        """As `Capture.state`, corrected."""
        state = self.capture.state(frames)
        assert state.frame_id is not None
        return self.corrections.state(state, state.frame_id)

    @torch.no_grad()
    def camera(self, frames: Any) -> Camera:
        """As `Capture.camera`, from which the head is seen as corrected."""
        state = self.capture.state(frames)
        assert state.frame_id is not None
        return self.corrections.camera(self.capture.camera(frames), state, state.frame_id)


Moves = Callable[[HeadState, Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor | None]]
"""From B frames as tracked, their indices, and changes of `expression` and `pose`, to vertices and joint transforms."""


def _camera_of(camera: Camera, rotation: Float[Tensor, "b 3 3"], translation: Float[Tensor, "b 3"]) -> Camera:
    """Cameras before which a head stands as it would if it were moved."""
    view = camera.world_to_camera
    turned = view[..., :3, :3] @ rotation
    moved = (view[..., :3, :3] @ translation[..., None]) + view[..., :3, 3:]
    return camera.replace(world_to_camera=torch.cat([torch.cat([turned, moved], dim=-1), view[..., 3:, :]], dim=-2))


def _vertices_of(capture: Any, state: HeadState, names: Sequence[str], head: SkinnedHead | None) -> Moves:
    """How the capture's mesh follows expression and joints, if they are corrected.

    Raises:
        ValueError: it does not say.
    """
    wanted = [name for name in ("expression", "joints") if name in names]
    if not wanted:
        return lambda state, frames, changes: (state.vertices, None)
    what = " and ".join(wanted)
    for name, field in (("expression", "expression"), ("joints", "pose")):
        if name in wanted and getattr(state, field) is None:
            raise ValueError(
                f"FineTuning: {name} is to be trained, and capture {capture.name!r} has no {field}; pass {name}=None"
            )
    recording = getattr(capture, "recording", None)
    known = getattr(recording, "head_arguments", None)
    if head is None and known is not None:
        return _ByHead(capture, known.head, lambda frame: dict(known.of_frame(frame)))
    if head is not None:
        own = _ByHead(capture, head, None)
        own.check()
        return own
    basis, reason = expression_basis(capture) if wanted == ["expression"] else (None, "")
    if basis is not None:
        linear = basis
        return lambda state, frames, changes: (
            state.vertices + blend_shapes(changes["expression"], linear.to(state.vertices)), None
        )  # fmt: skip
    hint = f" ({reason})" if reason else ""
    raise ValueError(
        f"FineTuning: capture {capture.name!r} has meshes and no head model that says how they follow {what}{hint}; "
        "pass head=, the model that they are of, or expression=None, joints=None (--fine-tune rigid), which trains the "
        "rigid motion alone"
    )


class _ByHead:
    """Vertices as tracked, plus the difference of two forward passes of the head.

    Args:
        capture: whose states are changed.
        head: the model.
        arguments: frame → its arguments; None: expression and pose of the state.
    """

    def __init__(self, capture: Any, head: SkinnedHead, arguments: Callable[[int], dict[str, Tensor]] | None) -> None:
        self._capture, self._head, self._arguments = capture, head, arguments
        self._known: dict[int, dict[str, Tensor]] = {}

    def check(self) -> None:
        """Raises ValueError unless the head gives the capture's meshes, but for a rigid motion."""
        rows = torch.linspace(0, len(self._capture) - 1, _CHECKED).round().long().unique()
        state = self._capture.state(rows)
        count = len(self._head.template_vertices)
        tracked = self._capture.tracked(rows) if hasattr(self._capture, "tracked") else state.vertices
        if tracked.shape[1] != count:
            raise ValueError(
                f"FineTuning: head has {count} vertices, and meshes of capture {self._capture.name!r} have "
                f"{tracked.shape[1]}; pass the model that they are of"
            )
        with torch.no_grad():
            own = self._head(**self._of(state, rows)).vertices.to(tracked)
        away = float((own - tracked).norm(dim=-1).mean())
        if not away <= _NEAR:
            raise ValueError(
                f"FineTuning: head gives meshes that are {1000 * away:.1f} mm from those of capture "
                f"{self._capture.name!r}, whose expression and pose it was given; pass the person's own model (its "
                "shape as the template), or expression=None, joints=None, which trains the head's rigid motion alone"
            )

    def __call__(self, state: HeadState, frames: Tensor, changes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        vertices = state.vertices
        if self._head.template_vertices.device != vertices.device:
            self._head = self._head.to(vertices.device)
        arguments = self._of(state, frames)
        moved = dict(arguments)
        for name, change in changes.items():
            known = arguments[name]
            padding = change.new_zeros(len(change), known.shape[1] - change.shape[1]) if name == "expression" else None
            moved[name] = known + (change if padding is None else torch.cat([change, padding], dim=1)).to(known)
        with torch.no_grad():
            before: HeadState = self._head(**arguments)
        after: HeadState = self._head(**moved)
        difference = (after.vertices - before.vertices).to(vertices)
        assert after.joint_transforms is not None and before.joint_transforms is not None
        change = (after.joint_transforms @ torch.linalg.inv(before.joint_transforms)).to(vertices)
        if getattr(self._capture, "head_frame", None) is not None:
            pose = self._capture.head_pose(frames).to(vertices)  # head frame to the frame on disk
            difference = difference @ pose[:, :3, :3]
            change = torch.linalg.inv(pose)[:, None] @ change @ pose[:, None]
        inner = getattr(self._capture, "inner_mouth", None)
        if inner is not None:  # linear, so that it extends differences too
            difference = inner.to(difference.device).extend(difference)
        transforms = None if state.joint_transforms is None else change @ state.joint_transforms
        return vertices + difference, transforms

    def _of(self, state: HeadState, frames: Tensor) -> dict[str, Tensor]:
        """The arguments of the head as tracked, without displacements after its forward pass, which cancel."""
        like = self._head.template_vertices
        if self._arguments is None:
            fields = {"expression": state.expression, "pose": state.pose}
            return {name: value.to(like) for name, value in fields.items() if value is not None}
        for frame in frames.tolist():
            if frame not in self._known:
                of_frame = {name: value.to(like) for name, value in self._arguments(frame).items()}
                of_frame.pop("displacement", None)
                self._known[frame] = of_frame
        rows = [self._known[frame] for frame in frames.tolist()]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
