"""What moves the mesh of a page: a head model itself, or the linear basis that fits given frames best."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.expression_basis import (
    expression_basis,
    expression_names,
    motion_components,
    regress_expressions,
)
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame.model import FLAME_JOINTS
from headfields.heads.skinned import SkinnedHead
from headfields.ops.rotations import rotation_matrices
from headfields.ops.skinning import blend_shapes, joint_transforms, linear_blend_skinning, pose_features
from headfields.records import HeadState
from headfields.records.head_rig import HeadRig

__all__ = ["MOTION", "capture_rig", "exact_rig", "fitted_rig", "rig_vertices", "with_motion"]

MOTION = "motion"
"""The code of what a fitted rig adds to expression and pose: principal components of the motion that they leave."""
_COMPONENTS = 24
_FRAMES = 300
"""Most frames that a capture's rig is fitted to; further ones are skipped evenly."""
_MOVING_CODES = ("eyelids",)
"""Codes of a state that move the mesh; others are latents of an avatar's look."""
_STILL = 1e-3
"""Radians: joints that turn by less in all frames are at rest."""


def exact_rig(head: SkinnedHead | BlendshapeHead, shape: Float[Tensor, "1 _"] | None = None) -> HeadRig:
    """The rig of a head model: the vertices of a state are the model's own.

    Args:
        head: the model.
        shape: (1, S) the head's shape (`identity` of a blendshape head); zero if None.

    Returns:
        The rig. Of a skinned head the joints of the head turn (`SkinnedHead.joints`); others, of a body, stay at rest.
    """
    own, count = tuple(head.expression_names), len(head.expression_basis)
    names = (*own, *(f"expression_{i:03d}" for i in range(len(own), count))) if own else ()
    if isinstance(head, BlendshapeHead):
        rig = HeadRig(head(identity=shape).vertices[0], head.expression_basis, expression_names=names)
        return rig.detach().to("cpu")
    rest = head.template_vertices
    if shape is not None:
        rest = rest + blend_shapes(shape, head.shape_basis[: shape.shape[1]])[0]
    count = len(head.parents)
    mean = head.full_pose(rest.new_zeros(1, count, 3))[0]
    turning = tuple(sorted({joint for name, joint in head.joints.items() if joint > 0}))
    rows = torch.cat([torch.arange(9 * (joint - 1), 9 * joint) for joint in turning]) if turning else torch.zeros(0)
    basis, still = head.pose_basis, pose_features(rotation_matrices(mean))
    others = torch.ones(len(basis), dtype=torch.bool)
    others[rows.long()] = False
    neutral = rest + blend_shapes((still * others)[None], basis)[0]
    names_of = {joint: name for name, joint in reversed(head.joints.items())}
    rig = HeadRig(
        neutral, head.expression_basis, correctives=basis[rows.long()], weights=head.weights,
        joints=head.joint_regressor @ rest,
        joint_shapes=torch.einsum("jv,evk->ejk", head.joint_regressor, head.expression_basis), mean_pose=mean,
        expression_names=names, joint_names=tuple(names_of.get(joint, f"joint_{joint}") for joint in range(count)),
        pose_joints=turning, parents=tuple(max(parent, -1) for parent in head.parents),
    )  # fmt: skip
    return rig.detach().to("cpu")


def fitted_rig(
    state: HeadState,
    basis: Float[Tensor, "e v 3"] | None = None,
    expression_names: Sequence[str] = (),
    joint_names: Sequence[str] = (),
    components: int = _COMPONENTS,
) -> tuple[HeadRig, HeadState]:
    """The linear rig that is nearest to the meshes of T frames, and the frames with what they need of it.

    Displacements by expression, codes and rotations of the joints (entries of R − I) come from a ridge regression;
    those by the expression from `basis` where it is known. What they leave goes into principal components, the values
    of the code "motion", until 0.2 mm are left. Our own choice.

    Args:
        state: T frames.
        basis: (E, V, 3) what the expression does, if that is known.
        expression_names, joint_names: names, or ().
        components: most principal components.

    Returns:
        The rig, whose `error` says how far it is from the meshes, and the state with the code "motion".

    Raises:
        ValueError: there is no frame.
    """
    if not len(state):
        raise ValueError("fitted_rig: state has no frame; pass at least one")
    state = state.detach().to("cpu")
    vertices = state.vertices.float()
    count, points = vertices.shape[:2]
    expression = vertices.new_zeros(count, 0) if state.expression is None else state.expression.float()
    width = expression.shape[1]
    codes = [name for name in _MOVING_CODES if name in state.codes]
    moved = vertices if basis is None else vertices - blend_shapes(expression, basis)
    inputs: list[Tensor] = [] if basis is not None else [expression]
    inputs += [state.codes[name].float() for name in codes]
    turning: tuple[int, ...] = ()
    if state.pose is not None and count >= 3:
        turning = tuple((state.pose.abs().amax((0, 2)) > _STILL).nonzero()[:, 0].tolist())
        turns = rotation_matrices(state.pose[:, list(turning)].float()) - torch.eye(3)
        inputs.append(turns.flatten(1))
    features = torch.cat(inputs, 1) if inputs else vertices.new_zeros(count, 0)
    if count >= 3 and features.shape[1]:
        neutral, shapes = regress_expressions(features, moved)
        left = moved - neutral - blend_shapes(features, shapes)
    else:
        neutral, shapes = moved.mean(0), vertices.new_zeros(features.shape[1], points, 3)
        left = moved - neutral
    more = motion_components(left, components)
    amounts = _amounts(left, more)
    left = left - blend_shapes(amounts, more)
    own = [0 if basis is not None else width, *(state.codes[name].shape[1] for name in codes), 9 * len(turning)]
    if not turning:
        own = own[:-1]
    parts = list(shapes.split(own)) if sum(own) else [shapes] * len(own)
    rig = HeadRig(
        neutral, parts[0] if basis is None else basis.float(),
        codes=dict(zip(codes, parts[1 : 1 + len(codes)], strict=True)) | ({MOTION: more} if len(more) else {}),
        correctives=parts[-1] if turning else None, pose_joints=turning,
        expression_names=tuple(expression_names) if len(expression_names) == width else (),
        code_names={MOTION: tuple(f"motion_{i:02d}" for i in range(len(more)))} if len(more) else {},
        joint_names=tuple(joint_names) or _usual_names(state), error=float(left.square().sum(-1).mean().sqrt()),
    )  # fmt: skip
    return rig, state.replace(codes={**state.codes, MOTION: amounts}) if len(more) else state


def capture_rig(capture: Any) -> HeadRig:
    """The linear rig of a capture's head, fitted to its training frames; see `fitted_rig`.

    Displacements by the expression are those of `blendshapes.npz` where the capture has that file.

    Args:
        capture: a `headfields.data.Capture`.

    Raises:
        CaptureError: a file cannot be read.
        ValueError: there is no frame, or they are of several people.
    """
    frames = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    frames = torch.as_tensor(frames)
    frames = frames[torch.linspace(0, max(len(frames) - 1, 0), min(len(frames), _FRAMES)).round().long().unique()]
    state = capture.state(frames)
    if state.identity is not None and len(state.identity.unique()) > 1:
        raise ValueError("capture_rig: the capture has several people; a rig is of one")
    names = expression_names(capture) if hasattr(capture, "expression_width") else ()
    return fitted_rig(state, expression_basis(capture)[0], names)[0]


def _usual_names(state: HeadState) -> tuple[str, ...]:
    """FLAME's names for as many joints as it has."""
    return FLAME_JOINTS if state.pose is not None and state.pose.shape[1] == len(FLAME_JOINTS) else ()


def with_motion(rig: HeadRig, state: HeadState) -> HeadState:
    """The state with the code "motion" that brings a fitted rig nearest to its vertices."""
    if MOTION not in rig.codes or MOTION in state.codes:
        return state
    none = state.replace(codes={**state.codes, MOTION: state.vertices.new_zeros(len(state), len(rig.codes[MOTION]))})
    amounts = _amounts(state.vertices - rig_vertices(rig, none), rig.codes[MOTION])
    return state.replace(codes={**state.codes, MOTION: amounts})


def _amounts(left: Float[Tensor, "t v 3"], components: Float[Tensor, "k v 3"]) -> Float[Tensor, "t k"]:
    """How much of each component is nearest to what is left."""
    flat = components.double().flatten(1)
    return torch.linalg.lstsq(flat.T, left.double().flatten(1).T).solution.T.to(left) if len(flat) else left[:, 0, :0]


def rig_vertices(rig: HeadRig, state: Any) -> Float[Tensor, "b v 3"]:
    """The vertices (B, V, 3) of a rig at a state's parameters, meters: the definition of what the page does.

    Args:
        rig: the rig.
        state: B frames, whose own vertices are not read; fields and codes that are missing count as zero.
    """
    count = len(state)
    vertices = rig.neutral.expand(count, -1, -1)
    turns = None
    if state.expression is not None and len(rig.expression):
        vertices = vertices + blend_shapes(state.expression[:, : len(rig.expression)], rig.expression)
    for name, shapes in rig.codes.items():
        if name in state.codes:
            vertices = vertices + blend_shapes(state.codes[name], shapes)
    pose = state.pose
    if pose is None and rig.weights is not None:
        pose = rig.neutral.new_zeros(count, len(rig.parents), 3)
    if pose is not None:
        turns = rotation_matrices(pose if rig.mean_pose is None else pose + rig.mean_pose)
    if turns is not None and rig.correctives is not None:
        features = (turns[:, list(rig.pose_joints)] - torch.eye(3, dtype=turns.dtype)).flatten(1)
        vertices = vertices + blend_shapes(features, rig.correctives)
    if rig.weights is not None and rig.joints is not None:
        assert turns is not None
        joints = rig.joints.expand(count, -1, -1)
        if rig.joint_shapes is not None and state.expression is not None:
            joints = joints + blend_shapes(state.expression, rig.joint_shapes)
        vertices = linear_blend_skinning(vertices, rig.weights, joint_transforms(turns, joints, rig.parents))
    return vertices
