"""What the sliders of the viewer move: expressions, jaw, neck and gaze of a head, as offsets on a state."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.retargeting.expression_fit import ExpressionFit
from headfields.apps.retargeting.head_surface import Eyeball
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.skinned import SkinnedHead
from headfields.ops.rotations import rotation_matrices
from headfields.records import HeadState

__all__ = ["Articulation", "BasisArticulation", "Control", "HeadArticulation", "Rigid"]

JAW, GAZE, TURN = 25.0, 30.0, 45.0
"""Largest rotations of the sliders, degrees."""
_AXES = {"pitch": 0, "yaw": 1, "roll": 2}
MOST_EXPRESSIONS = 60
"""Sliders for expressions; of more coefficients, those that move the mesh most."""


@dataclass(frozen=True)
class Control:
    """A slider: an offset on one number that a head is moved by; 0 leaves the frame as it is.

    Attributes:
        name: unique among the controls of a head.
        group: its folder in the panel.
        low, high: ends of the slider; low <= 0 <= high.
        unit: of the numbers, for the label.
    """

    name: str
    group: str
    low: float | int
    high: float | int
    unit: str = ""


class Articulation(ABC):
    """Turns the values of controls into a change of a head's state.

    Attributes:
        controls: the controls, in the order of the panel.
    """

    controls: tuple[Control, ...] = ()

    @abstractmethod
    def apply(self, state: HeadState, values: Mapping[str, float | int]) -> HeadState:
        """The state of one frame moved by the controls.

        Args:
            state: one frame.
            values: offsets by the names of controls; those that are missing are 0. The state itself if all are.
        """


class Rigid(Articulation):
    """The whole head turned about a pivot, for meshes without joints: it turns the vertices and the joint transforms.

    Args:
        pivot: (3,) meters.
    """

    def __init__(self, pivot: Float[Tensor, "3"]) -> None:
        self.pivot = pivot
        self.controls = tuple(Control(f"neck {axis}", "neck", -TURN, TURN, "°") for axis in _AXES)

    @classmethod
    def below(cls, vertices: Float[Tensor, "v 3"]) -> "Rigid":
        """About the middle of the lowest tenth of a mesh, where a neck would be."""
        low, high = vertices.amin(0), vertices.amax(0)
        lowest = vertices[vertices[:, 1] <= low[1] + 0.1 * (high[1] - low[1])]
        return cls(lowest.mean(0))

    def apply(self, state: HeadState, values: Mapping[str, float | int]) -> HeadState:
        turn = _turn(values, "neck")
        if not bool(turn.any()):
            return state
        motion = torch.eye(4)
        motion[:3, :3] = rotation_matrices(turn)
        motion[:3, 3] = self.pivot - motion[:3, :3] @ self.pivot
        motion = motion.to(state.vertices)
        vertices = state.vertices @ motion[:3, :3].T + motion[:3, 3]
        joints = None if state.joint_transforms is None else motion @ state.joint_transforms
        return state.replace(vertices=vertices, joint_transforms=joints)


class HeadArticulation(Articulation):
    """A head model's expressions and joints: what it adds to the vertices, coefficients, joints of a frame.

    The offset is the difference between two evaluations of the model, so a state of the model itself becomes exactly
    the model at the new parameters, and a frame of a tracker that knew the person's shape keeps that shape.

    Args:
        head: a head of the states' topology.

    Raises:
        ValueError: `apply` gets a state of another topology.
    """

    def __init__(self, head: SkinnedHead | BlendshapeHead) -> None:
        self.head = head
        names = head.expression_names or tuple(f"expression {i + 1}" for i in range(len(head.expression_basis)))
        named = [*names, *(f"expression {i + 1}" for i in range(len(names), len(head.expression_basis)))]
        reach = head.expression_basis.norm(dim=-1).flatten(1).amax(1) if len(named) else torch.zeros(0)
        # Directions that do nothing (a scan with closed lids cannot close them) need no slider.
        self._expressions = {named[i]: i for i in _largest(reach) if float(reach[i]) > 1e-6}
        low, high = (0.0, 1.0) if head.expression_names else (-3.0, 3.0)
        controls = [Control(name, "expressions", low - high, high) for name in self._expressions]
        self._rigid: Rigid | None = None
        if isinstance(head, SkinnedHead):
            controls += [Control(f"jaw {axis}", "jaw", -JAW, JAW, "°") for axis in _AXES]
            controls += [Control(f"neck {axis}", "neck", -TURN, TURN, "°") for axis in _AXES]
            controls += [Control(f"gaze {axis}", "gaze", -GAZE, GAZE, "°") for axis in ("pitch", "yaw")]
        else:
            self._rigid = Rigid.below(head.template_vertices)
            controls += self._rigid.controls
        self.controls = tuple(controls)

    @torch.no_grad()
    def apply(self, state: HeadState, values: Mapping[str, float | int]) -> HeadState:
        if not any(values.get(control.name) for control in self.controls):
            return state
        head = self.head
        if state.vertices.shape[1] != len(head.template_vertices):
            raise ValueError(
                f"HeadArticulation: the state has {state.vertices.shape[1]} vertices and the head "
                f"{len(head.template_vertices)}; pass the head model that the frames were tracked with"
            )
        before = torch.zeros(1, len(head.expression_basis)).to(state.vertices)
        if state.expression is not None:
            width = min(state.expression.shape[1], before.shape[1])
            before[:, :width] = state.expression[:, :width]
        after = before.clone()
        for name, column in self._expressions.items():
            after[0, column] += values.get(name, 0.0)
        if isinstance(head, BlendshapeHead):
            moved, rest = head(expression=after), head(expression=before)
        else:
            count = len(head.parents)
            pose = before.new_zeros(1, count, 3)
            if state.pose is not None and state.pose.shape[1] == count:
                pose = state.pose
            turned = pose.clone()
            turned[0, head.jaw_joint] += _turn(values, "jaw").to(pose)
            turned[0, head.neck_joint] += _turn(values, "neck").to(pose)
            turned[0, list(head.eye_joints)] += _turn(values, "gaze").to(pose)
            moved, rest = head(expression=after, pose=turned), head(expression=before, pose=pose)
        joints = state.joint_transforms
        if joints is not None and moved.joint_transforms is not None and rest.joint_transforms is not None:
            joints = moved.joint_transforms @ torch.linalg.inv(rest.joint_transforms) @ joints
        result = state.replace(
            vertices=state.vertices + moved.vertices - rest.vertices,
            expression=None if state.expression is None else after[:, : state.expression.shape[1]],
            pose=moved.pose if state.pose is not None else None,
            joint_transforms=joints,
        )
        return result if self._rigid is None else self._rigid.apply(result, values)


class BasisArticulation(Articulation):
    """The expressions of a captured head by a basis fitted to its meshes, its eyeballs about their centers, its neck.

    For captures without a head model. A coefficient stays within the range of the training frames, because an avatar's
    networks have seen no others.

    Args:
        expressions: the fitted basis and its bounds, from `headfields.apps.retargeting.sources.expressions_of_capture`;
            None for a capture without coefficients.
        eyeballs: parts of the mesh that turn about their centers.
        names: names of the coefficients; numbered if there are none.
        vertices: (V, 3) a mesh at rest, for the pivot of the neck.
    """

    def __init__(
        self,
        expressions: ExpressionFit | None,
        eyeballs: Sequence[Eyeball],
        vertices: Float[Tensor, "v 3"],
        names: Sequence[str] = (),
    ) -> None:
        self._fit, self._eyeballs, self._rigid = expressions, tuple(eyeballs), Rigid.below(vertices)
        self._off_center = [ball.center - vertices[ball.vertices].mean(0) for ball in self._eyeballs]
        self._columns: dict[str, int] = {}
        controls: list[Control] = []
        if expressions is not None:
            count = len(expressions.basis)
            named = list(names) if len(names) == count else [f"expression {i + 1}" for i in range(count)]
            span = expressions.high - expressions.low
            reach = expressions.basis.norm(dim=-1).amax(1) * span
            self._columns = {named[i]: i for i in _largest(reach) if float(reach[i]) > 1e-6}
            controls += [
                Control(name, "expressions", -round(float(span[i]), 3), round(float(span[i]), 3))
                for name, i in self._columns.items()
            ]
        if self._eyeballs:
            controls += [Control(f"gaze {axis}", "gaze", -GAZE, GAZE, "°") for axis in ("pitch", "yaw")]
        self.controls = (*controls, *self._rigid.controls)

    @torch.no_grad()
    def apply(self, state: HeadState, values: Mapping[str, float | int]) -> HeadState:
        vertices, expression = state.vertices, state.expression
        if self._fit is not None and expression is not None and any(values.get(name) for name in self._columns):
            after = expression.clone()
            for name, column in self._columns.items():
                if values.get(name):
                    low, high = float(self._fit.low[column]), float(self._fit.high[column])
                    before = float(expression[0, column])
                    # A frame beyond the range of the training frames stays where it is.
                    after[0, column] = min(max(before + values[name], min(low, before)), max(high, before))
            basis = self._fit.basis.to(vertices)
            vertices = vertices + torch.einsum("be,evk->bvk", after - expression, basis)
            expression = after
        gaze = _turn(values, "gaze")
        if bool(gaze.any()) and self._eyeballs:
            rotation = rotation_matrices(gaze).to(vertices)
            vertices = vertices.clone()
            for ball, off_center in zip(self._eyeballs, self._off_center, strict=True):
                posed = vertices[:, ball.vertices]
                center = posed.mean(1, keepdim=True) + off_center.to(posed)
                vertices[:, ball.vertices] = (posed - center) @ rotation.T + center
        return self._rigid.apply(state.replace(vertices=vertices, expression=expression), values)


def _turn(values: Mapping[str, float | int], joint: str) -> Float[Tensor, "3"]:
    """The axis-angle of a joint's sliders, radians."""
    turn = torch.zeros(3)
    for axis, number in _AXES.items():
        turn[number] = math.radians(values.get(f"{joint} {axis}", 0.0))
    return turn


def _largest(reach: Float[Tensor, " e"]) -> list[int]:
    """The indices of the `MOST_EXPRESSIONS` largest values, in their own order."""
    return sorted(reach.argsort(descending=True)[:MOST_EXPRESSIONS].tolist())
