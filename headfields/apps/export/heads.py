"""Rigged meshes of head models (FLAME, SMPL-X, rigged scans, blendshape heads), and motions in their parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame.model import FLAME_JOINTS
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.records import HeadState

__all__ = ["frame_times", "motion_of_head", "rig_of_head"]

_HAND = tuple(f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3))
SMPLX_JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "jaw", "left_eye", "right_eye",
    *(f"left_{name}" for name in _HAND), *(f"right_{name}" for name in _HAND),
)  # fmt: skip
"""Names of SMPL-X's 55 joints, in order (smplx 0.1.28, `joint_names.py`)."""


def rig_of_head(
    head: SkinnedHead | BlendshapeHead,
    texture: Float[Tensor, "h w 3"] | None = None,
    shape: Float[Tensor, "1 _"] | None = None,
) -> RiggedMesh:
    """A head model with its neutral mesh, expressions as targets, and joints.

    Pose correctives, which follow the joints' rotations, have no counterpart in glTF and USD and are left out.

    Args:
        head: the model. A `RiggedTemplate` brings its texture.
        texture: (H, W, 3) for the model's texture coordinates, in place of its own.
        shape: (1, S) the head's shape (`identity` of a blendshape head); zero if None.

    Returns:
        All expressions, in order; unnamed ones are called `expression_000`, and so on. A blendshape head has one joint.
    """
    count = len(head.expression_basis)
    names = [*head.expression_names, *(f"expression_{i:03d}" for i in range(len(head.expression_names), count))]
    if isinstance(head, BlendshapeHead):
        rest = head(identity=shape).vertices[0]
        joint_names: tuple[str, ...] = ("head",)
        parents: tuple[int, ...] = (-1,)
        joints, weights = rest.mean(0, keepdim=True), rest.new_ones(len(rest), 1)
        uv = uv_faces = None
    else:
        rest = _unposed(head, shape)
        joints, weights, parents = head.joint_regressor @ rest, head.weights, head.parents
        joint_names = FLAME_JOINTS if len(parents) == 5 else SMPLX_JOINTS
        if len(joint_names) != len(parents):
            joint_names = tuple(f"joint_{i}" for i in range(len(parents)))
        uv, uv_faces = head.uv, head.uv_faces
        texture = getattr(head, "texture", None) if texture is None else texture
    mesh = Mesh(rest, head.faces, uv=uv, uv_faces=uv_faces, texture=None if uv is None else texture)
    parents = tuple(max(parent, -1) for parent in parents)
    rig = RiggedMesh(mesh.with_normals(), head.expression_basis, tuple(names), joint_names, parents, joints, weights)
    return rig.detach().to("cpu")


def _unposed(head: SkinnedHead, shape: Tensor | None) -> Float[Tensor, "v 3"]:
    rest = head.template_vertices
    return rest if shape is None else rest + torch.einsum("e,evk->vk", shape[0], head.shape_basis[: shape.shape[1]])


def frame_times(count: int, fps: float | int) -> Float[Tensor, " t"]:
    """Times (T,) of `count` frames, seconds.

    Raises:
        ValueError: fps is not positive.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"frame_times: fps is {fps}; expected a positive number of frames per second")
    return torch.arange(count, dtype=torch.float64).div(fps).float()


def motion_of_head(
    head: SkinnedHead | BlendshapeHead,
    state: HeadState,
    fps: float | int = 25,
    shape: Float[Tensor, "1 _"] | None = None,
) -> tuple[RigMotion, Float[Tensor, " t"]]:
    """The motion of frames that have a head's own expression coefficients and pose.

    The joints' transforms are the head's at these parameters, carried by the rigid motion that fits it to the state's
    vertices best (a tracker's placement of the head).

    Args:
        head: the model that the frames were tracked with.
        state: T frames with `expression`, and with `pose` if the head has joints.
        fps: frames per second.
        shape: as in `rig_of_head`.

    Returns:
        The motion for `rig_of_head(head)`, and for each frame the root mean square distance (T,) between the head and
        the state's vertices, meters: large if the frames are another head's.

    Raises:
        ValueError: the state lacks what is needed, or is of another number of vertices or coefficients.
    """
    op = "motion_of_head"
    expression = state.need(op, "expression")
    count, vertices = len(head.expression_basis), len(head.template_vertices)
    if expression.shape[1] != count or state.vertices.shape[1] < vertices:
        raise ValueError(
            f"{op}: state has {expression.shape[1]} expressions and {state.vertices.shape[1]} vertices; the head "
            f"{count} and {vertices}: they are of another head (a Retargeter carries the motion over)"
        )
    with torch.no_grad():
        if isinstance(head, BlendshapeHead):
            posed = head(identity=shape, expression=expression)
            joints = torch.eye(4).to(expression).repeat(len(state), 1, 1, 1)
        else:
            posed = head(shape=shape, expression=expression, pose=state.need(op, "pose"))
            assert posed.joint_transforms is not None
            joints = posed.joint_transforms
        target = state.vertices[:, :vertices]  # a capture's template may close the mouth behind them
        turns = [fit_rigid(one, other[None]) for one, other in zip(posed.vertices, target, strict=True)]
        carried = torch.cat([rigid_transform(*turn) for turn in turns]) if turns else joints[:, 0]
        left = posed.vertices @ carried[:, :3, :3].transpose(1, 2) + carried[:, None, :3, 3] - target
        error = left.square().sum(-1).mean(-1).sqrt()
        motion = RigMotion(frame_times(len(state), fps), expression, carried[:, None] @ joints)
    return motion.to("cpu"), error.cpu()
