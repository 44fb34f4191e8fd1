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
    shapes: tuple[str, ...] = ()
    """Names of the head's expression coefficients, all of them; those without a name are `expression_000`, ..."""

    def move(
        self, state: HeadState, expression: Float[Tensor, " e"], turns: Mapping[str, Float[Tensor, "3"]]
    ) -> HeadState:
        """The state of one frame moved by coefficients and turns, as a `FaceDriver` does it.

        Args:
            state: one frame.
            expression: (E,) is added to the coefficients, in the order of `shapes`.
            turns: axis-angle in radians that is added to those of "neck", "jaw", "left_eye" and "right_eye"; what the
                head cannot turn stays.

        Raises:
            TypeError: it is moved by its controls alone.
        """
        raise TypeError(f"{type(self).__name__} has no coefficients and joints of a head that a face could move")

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
        return self.move(state, torch.zeros(0), {"neck": _turn(values, "neck")})

    def move(
        self, state: HeadState, expression: Float[Tensor, " e"], turns: Mapping[str, Float[Tensor, "3"]]
    ) -> HeadState:
        turn = turns.get("neck")
        if turn is None or not bool(turn.any()):
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
        self.shapes = _with_numbers(head.expression_names, len(head.expression_basis))
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
        expression = torch.zeros(len(self.head.expression_basis))
        for name, column in self._expressions.items():
            expression[column] = values.get(name, 0.0)
        return self.move(state, expression, _turns(values))

    @torch.no_grad()
    def move(
        self, state: HeadState, expression: Float[Tensor, " e"], turns: Mapping[str, Float[Tensor, "3"]]
    ) -> HeadState:
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
        after = before + expression.to(before)
        if isinstance(head, BlendshapeHead):
            moved, rest = head(expression=after), head(expression=before)
        else:
            count = len(head.parents)
            pose = before.new_zeros(1, count, 3)
            if state.pose is not None and state.pose.shape[1] == count:
                pose = state.pose
            turned, joint_of = pose.clone(), head.joints
            for joint, turn in turns.items():
                if joint in joint_of:
                    turned[0, joint_of[joint]] += turn.to(pose)
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
        return result if self._rigid is None else self._rigid.move(result, expression, turns)


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
            self.shapes = _with_numbers(names if len(names) == count else (), count)
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

    def apply(self, state: HeadState, values: Mapping[str, float | int]) -> HeadState:
        expression = torch.zeros(0 if self._fit is None else len(self._fit.basis))
        for name, column in self._columns.items():
            expression[column] = values.get(name, 0.0)
        return self.move(state, expression, _turns(values))

    @torch.no_grad()
    def move(
        self, state: HeadState, expression: Float[Tensor, " e"], turns: Mapping[str, Float[Tensor, "3"]]
    ) -> HeadState:
        vertices, before = state.vertices, state.expression
        after = before
        if self._fit is not None and before is not None and bool(expression.any()):
            low, high = (torch.atleast_2d(bound).to(before) for bound in (self._fit.low, self._fit.high))
            # A frame beyond the range of the training frames stays where it is.
            moved = (before + expression.to(before)).clamp(torch.minimum(low, before), torch.maximum(high, before))
            after = torch.where(expression.to(before) != 0, moved, before)
            vertices = vertices + torch.einsum("be,evk->bvk", after - before, self._fit.basis.to(vertices))
        for ball, off_center in zip(self._eyeballs, self._off_center, strict=True):
            gaze = turns.get("left_eye" if float(ball.center[0]) > 0 else "right_eye")  # x is to the head's left
            if gaze is not None and bool(gaze.any()):
                rotation = rotation_matrices(gaze).to(vertices)
                posed = vertices[:, ball.vertices]
                center = posed.mean(1, keepdim=True) + off_center.to(posed)
                vertices = vertices.index_copy(1, ball.vertices, (posed - center) @ rotation.T + center)
        return self._rigid.move(state.replace(vertices=vertices, expression=after), expression, turns)


def _turn(values: Mapping[str, float | int], joint: str) -> Float[Tensor, "3"]:
    """The axis-angle of a joint's sliders, radians."""
    turn = torch.zeros(3)
    for axis, number in _AXES.items():
        turn[number] = math.radians(values.get(f"{joint} {axis}", 0.0))
    return turn


def _turns(values: Mapping[str, float | int]) -> dict[str, Float[Tensor, "3"]]:
    """The turns of all joints' sliders; the eyes look the same way."""
    gaze = _turn(values, "gaze")
    return {"neck": _turn(values, "neck"), "jaw": _turn(values, "jaw"), "left_eye": gaze, "right_eye": gaze}


def _with_numbers(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The names, as many as there are, and `expression_000` with the coefficient's number for the others."""
    return (*names, *(f"expression_{i:03d}" for i in range(len(names), count)))


def _largest(reach: Float[Tensor, " e"]) -> list[int]:
    """The indices of the `MOST_EXPRESSIONS` largest values, in their own order."""
    return sorted(reach.argsort(descending=True)[:MOST_EXPRESSIONS].tolist())
