"""A rigged mesh of a capture's head, from its tracked meshes alone, and motions fitted to meshes. Our own choice."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.export.heads import frame_times
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion
from headfields.data.capture import Capture
from headfields.data.expression_basis import BASIS, expression_basis, motion_components, regress_expressions
from headfields.data.joint_fit import fit_joint_transforms
from headfields.files.arrays import load_arrays
from headfields.files.checked import check_names
from headfields.files.unpickler import to_array
from headfields.mesh.mesh import Mesh
from headfields.mesh.unwrapping import unwrap_template
from headfields.ops.rigid import fit_rigid, rigid_transform
from headfields.ops.skinning import linear_blend_skinning

__all__ = ["fit_motion", "head_poses", "rig_of_capture"]

_FRAMES = 300
"""Most frames that a basis is learned from; further ones are skipped evenly."""
_COMPONENTS = 24


def rig_of_capture(
    capture: Capture,
    components: int = _COMPONENTS,
    progress: Callable[[str], Any] | None = None,
) -> RiggedMesh:
    """The head of a capture as a rigged mesh with one joint, "head", which carries it.

    Targets are, first, the capture's expressions: from `blendshapes.npz`, or else by regression of its meshes on its
    coefficients. Then, as far as something is left that these don't explain (a jaw that turns by a joint, or all, in a
    capture without coefficients), principal components of it, called `motion_00` and so on, until 0.2 mm are left.

    Args:
        capture: the capture.
        components: most principal components.
        progress: called with a line on what was done.

    Returns:
        The rig, at rest with neutral expression; the mouth is open where the tracked mesh has it open.

    Raises:
        CaptureError: a file cannot be read.
        ValueError: there is no frame.
    """
    frames = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    if not len(frames):
        raise ValueError("rig_of_capture: the capture has no frame")
    frames = frames[torch.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).round().long().unique()]
    state = capture.state(frames)
    middle = state.vertices.median(dim=0).values
    vertices = _held(middle, state.vertices)
    codes, names = state.expression, list(_expression_names(capture))
    known, why = expression_basis(capture)
    if codes is None or not codes.shape[1]:
        neutral, basis = middle, middle.new_zeros(0, *middle.shape)
        said = "the capture has no expression coefficients"
    elif known is not None:
        basis, said = known, f"expressions of {BASIS}"
        neutral = (vertices - torch.einsum("te,evk->tvk", codes, basis)).mean(0)
    elif len(frames) >= 3:
        neutral, basis = regress_expressions(codes, vertices)
        said = f"expressions regressed from {len(frames)} frames ({why})"
    else:
        neutral, basis, said = middle, middle.new_zeros(codes.shape[1], *middle.shape), "too few frames for expressions"
    left = vertices - neutral
    if codes is not None and len(basis):
        left = left - torch.einsum("te,evk->tvk", codes, basis)
    more = motion_components(left, components)
    names += [f"expression_{i:03d}" for i in range(len(names), len(basis))]
    names = names[: len(basis)] + [f"motion_{i:02d}" for i in range(len(more))]
    template = capture.template
    count = len(template.faces) if template.face_count is None else template.face_count
    closing = capture.inner_mouth is None  # faces that only close the lips are left out, an inside of the mouth kept
    chart = unwrap_template(template)
    assert chart.uv_faces is not None
    faces = template.faces[:count] if closing else template.faces
    mesh = Mesh(neutral, faces, uv=chart.uv, uv_faces=chart.uv_faces[: len(faces)])
    if progress is not None:
        rest = float(left.square().sum(-1).mean().sqrt())
        progress(f"targets: {said}; {rest * 1e3:.2f} mm beside them, in {len(more)} components of motion")
    rig = RiggedMesh(
        mesh.with_normals(), torch.cat([basis, more]), tuple(names), ("head",), (-1,),
        (neutral.amin(0, keepdim=True) + neutral.amax(0, keepdim=True)) / 2, torch.ones(len(neutral), 1),
    )  # fmt: skip
    return rig.without_still_targets()[0]


def _expression_names(capture: Capture) -> tuple[str, ...]:
    path = capture.path / BASIS
    if not path.is_file():
        return ()
    names = tuple(str(name) for name in to_array(load_arrays(path).get("expression_names", ()), "names").ravel())
    check_names(names, capture.expression_width or 0, f"{path}: expression_names", "expressions")
    return names


def _held(middle: Tensor, vertices: Tensor) -> Float[Tensor, "t v 3"]:
    """Meshes without their rigid motion relative to one."""
    turn = rigid_transform(*fit_rigid(middle, vertices))
    return (vertices - turn[:, None, :3, 3]) @ turn[:, :3, :3]


def fit_motion(
    rig: RiggedMesh, vertices: Float[Tensor, "t v 3"], fps: float | int = 25, rounds: int = 3
) -> tuple[RigMotion, Float[Tensor, " t"]]:
    """The motion of a rigged mesh that fits given meshes best, in turn for joints and targets by least squares.

    Joints are fitted by `headfields.data.joint_fit.fit_joint_transforms`. A slight ridge keeps weights of targets small
    where they are not determined.

    Args:
        rig: the mesh.
        vertices: (T, V, 3) its vertices in each frame, meters, from `headfields.retargeting.Retargeter`, a tracker, ...
        fps: frames per second.
        rounds: how often joints and targets take turns.

    Returns:
        The motion, and the root mean square distance (T,) that it leaves in each frame, meters.

    Raises:
        ValueError: the meshes have another number of vertices.
    """
    if vertices.shape[1] != len(rig.mesh.vertices):
        raise ValueError(
            f"fit_motion: vertices has shape {tuple(vertices.shape)}; expected (T, {len(rig.mesh.vertices)}, 3)"
        )
    rest, weights, posed = rig.mesh.vertices.double(), rig.weights.double(), vertices.double()
    basis = rig.targets.double().flatten(1)
    gram = basis @ basis.T
    ridge = 1e-6 * gram.diagonal().mean() if len(basis) else gram.new_zeros(())
    solve = torch.linalg.inv(gram + (ridge + 1e-18) * torch.eye(len(basis)).to(gram))
    amounts, joints = posed.new_zeros(len(posed), len(basis)), posed.new_zeros(len(posed), len(rig.joints), 4, 4)
    for _ in range(rounds if len(basis) else 1):
        for frame in range(len(posed)):
            shaped = rest + torch.einsum("e,evk->vk", amounts[frame], rig.targets.double())
            joints[frame] = fit_joint_transforms(shaped, posed[frame, None], weights)[0]
            blend = torch.einsum("vj,jab->vab", weights, joints[frame])
            unposed = torch.linalg.solve(blend[:, :3, :3], (posed[frame] - blend[:, :3, 3])[..., None])[..., 0]
            amounts[frame] = solve @ (basis @ (unposed - rest).flatten())
    shaped = rest + torch.einsum("te,evk->tvk", amounts, rig.targets.double())
    error = (linear_blend_skinning(shaped, weights, joints) - posed).square().sum(-1).mean(-1).sqrt()
    return RigMotion(frame_times(len(posed), fps), amounts.float(), joints.float()), error.float()


def head_poses(capture: Capture, frames: list[int]) -> Float[Tensor, "t 4 4"]:
    """The rigid motion of a capture's head before a camera that stands where the first frame's does.

    Captures of one camera often keep the head still and move the camera; programs show the opposite.

    Args:
        capture: the capture.
        frames: T frames, of one camera of the recording.

    Returns:
        (T, 4, 4), the identity for the first frame.
    """
    views = capture.camera(frames).world_to_camera.double()
    return (torch.linalg.inv(views[:1]) @ views).float()
