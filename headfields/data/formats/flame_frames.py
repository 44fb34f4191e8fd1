"""Frames whose heads are FLAME parameters in place of meshes: what the readers of such layouts share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.alignment import AlignmentFrame, convention_evidence, misalignments, out_of_view, sample_frames
from headfields.data.camera_axes import CONVENTIONS, Convention, Decision, decide_convention
from headfields.data.errors import CaptureError
from headfields.data.recording import ConventionScores, DecodedHead, HeadArguments, Recording
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh
from headfields.ops.rotations import axis_angle
from headfields.records import HeadState

__all__ = [
    "CameraReading",
    "FlameFrames",
    "RigidMotion",
    "check_counts",
    "coefficients",
    "flame_recording",
    "row",
    "unseen_recording",
]

_JOINTS = 5
_LARGEST = 100.0  # standard deviations
_LEAD = 0.02  # by which the score of one reading of the cameras has to exceed the others'


@dataclass(frozen=True)
class CameraReading:
    """One way to read a layout's cameras.

    Attributes:
        name: in messages: "cy counts from the lower border".
        matrices: (F, 4, 4) as `decide_convention` takes them, meters.
        intrinsics: (F, 3, 3) pixels.
        image: frame → RGBA, where the reading pairs frames with other images than `FlameFrames` does.
    """

    name: str
    matrices: Float[np.ndarray, "f 4 4"]
    intrinsics: Float[np.ndarray, "f 3 3"]
    image: Callable[[int], np.ndarray] | None = None


class FlameFrames:
    """Poses the head of single frames; every error names the frame.

    Args:
        head: the FLAME model.
        where: the name of each frame in messages, with its file of parameters.
        parameters: frame → the arguments of the model, batches of one; `displacement` (1, V, 3), if it is among them,
            is added to the posed vertices.
        rest: those of the canonical head.
        image: frame → RGBA (H, W, 4) uint8.
        size: (height, width) of the images.
        eyelids: frame → (2,) weights of the lids' blendshapes; None: the layout has none.

    Raises:
        CaptureError: the model has not FLAME's joints.
    """

    def __init__(
        self,
        head: SkinnedHead,
        where: Sequence[str],
        parameters: Callable[[int], Mapping[str, Tensor]],
        rest: Mapping[str, Tensor],
        image: Callable[[int], np.ndarray],
        size: tuple[int, int],
        eyelids: Callable[[int], Tensor] | None = None,
    ) -> None:
        if len(head.parents) != _JOINTS:
            raise CaptureError(
                f"load_capture: head has {len(head.parents)} joints; the layout is FLAME's, which has {_JOINTS}"
            )
        self.model, self.where, self.size = head, where, size
        self._image, self.eyelids = image, eyelids
        self.arguments = HeadArguments(head, parameters, rest)
        self.cameras: tuple[np.ndarray, np.ndarray] | None = None
        posed = self._posed(rest)
        uv = None if head.uv is None else head.uv.float()
        self.canonical = Mesh(posed.vertices[0].float(), head.faces, uv=uv, uv_faces=head.uv_faces).to("cpu")
        assert posed.joint_transforms is not None
        self._from_canonical = torch.linalg.inv(posed.joint_transforms[0])

    def _posed(self, arguments: Mapping[str, Tensor]) -> HeadState:
        with torch.no_grad():
            values = {key: value.to(self.model.template_vertices) for key, value in arguments.items()}
            displacement = values.pop("displacement", None)
            state: HeadState = self.model(**values)
            return state if displacement is None else state.replace(vertices=state.vertices + displacement)

    def head(self, index: int) -> DecodedHead:
        """See `Recording.decode_head`."""
        state = self._posed(self.arguments.of_frame(index))
        vertices = state.vertices[0].float().cpu().numpy()
        self.check_view(index, vertices)
        assert state.expression is not None and state.pose is not None and state.joint_transforms is not None
        return DecodedHead(
            vertices,
            state.expression[0].float().cpu().numpy(),
            state.pose[0].float().cpu().numpy(),
            (state.joint_transforms[0] @ self._from_canonical).float().cpu().numpy(),
            None if self.eyelids is None else self.eyelids(index).float().numpy(),
        )

    def image(self, index: int) -> tuple[np.ndarray, None, None]:
        """RGBA of a frame; see `Recording.decode_image`."""
        return self._image(index), None, None

    def use_reading(self, world_to_camera: Float[np.ndarray, "f 4 4"], reading: CameraReading) -> None:
        """Takes cameras and images as the mattes say that they are; heads that a camera does not see are refused."""
        self.cameras = world_to_camera, reading.intrinsics
        self._image = self._image if reading.image is None else reading.image

    def check_view(self, index: int, vertices: Float[np.ndarray, "v 3"]) -> None:
        """Refuses a frame whose camera does not see its head; does nothing while the cameras are not known."""
        if self.cameras is None:
            return
        outside = out_of_view(vertices, self.cameras[0][index], self.cameras[1][index], self.size)
        if outside is not None:
            raise CaptureError(
                f"{self.where[index]}: of the head, {outside}; camera (transform_matrix, world_mat, focal length, "
                "principal point) and parameters are not of one frame: correct them or remove the frame"
            )


class RigidMotion:
    """Motions of a posed head about the origin, as arguments of the model, whose root turns about its own joint.

    Args:
        head: the FLAME model.
    """

    def __init__(self, head: SkinnedHead) -> None:
        row = head.joint_regressor[0].double().cpu()
        self._mean = row @ head.template_vertices.double().cpu()
        self._shape = torch.einsum("v,svc->sc", row, head.shape_basis.double().cpu())
        self._expression = torch.einsum("v,evc->ec", row, head.expression_basis.double().cpu())

    def after(
        self, arguments: Mapping[str, Tensor], rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"]
    ) -> dict[str, Tensor]:
        """The arguments under which the head is as under `arguments`, and then moved to R v + t.

        Args:
            arguments: `shape` and `expression` (1, C), and `pose` (1, 5, 3), whose root is not turned.
            rotation, translation: R and t, meters.
        """
        shape, expression = arguments["shape"][0].double(), arguments["expression"][0].double()
        joint = self._mean + shape @ self._shape[: len(shape)] + expression @ self._expression[: len(expression)]
        rotation = rotation.double()
        pose = arguments["pose"].double().clone()
        pose[0, 0] = axis_angle(rotation)
        return {**arguments, "pose": pose, "translation": (translation.double() + rotation @ joint - joint)[None]}


def flame_recording(
    folder: Path,
    frames: FlameFrames,
    names: list[str],
    splits: dict[str, list[int]],
    readings: Sequence[CameraReading],
    prefer: str,
    report: list[str],
    stated: bool = False,
    known: Convention = "auto",
) -> Recording:
    """The recording, its cameras read in the way in which the heads project onto the mattes.

    Args:
        folder: the capture's folder.
        frames: decodes them.
        names, splits, report: as in `Recording`.
        readings: ways to read the cameras; the first is the layout's own definition.
        prefer, stated, known: the layout's own convention, whether it needs no evidence, and the user's word, for
            `decide_convention`.

    Raises:
        CaptureError: no reading fits, or two fit alike.
    """
    faces = frames.model.faces.cpu().numpy()
    sample = sample_frames(readings[0].matrices)
    compared = []
    for index in sample:
        alpha, vertices = frames.image(index)[0][..., 3] > 127, frames.head(index).vertices
        compared.append(AlignmentFrame(names[index], vertices, np.eye(4), np.eye(3), alpha, None, None))
    reading, decision, conventions = _decide(
        folder, compared, sample, readings, faces, frames.size, (prefer, stated, known), report
    )
    camera_to_world = np.stack([decision.camera_to_world(matrix) for matrix in reading.matrices])
    world_to_camera = np.linalg.inv(camera_to_world)
    frames.use_reading(world_to_camera, reading)
    compared = [
        replace(frame, world_to_camera=world_to_camera[index], intrinsics=reading.intrinsics[index])
        for frame, index in zip(_with_images(compared, sample, reading), sample, strict=True)
    ]
    for frame, index in zip(compared, sample, strict=True):
        frames.check_view(index, frame.vertices)
    report += misalignments(compared, faces)
    decoded = {index: frame.vertices for frame, index in zip(compared, sample, strict=True)}
    recording = _recording(folder, frames, names, splits, camera_to_world, reading.intrinsics, report, decoded)
    return replace(recording, conventions=conventions)


def unseen_recording(
    folder: Path, frames: FlameFrames, names: list[str], reading: CameraReading, convention: str, report: list[str]
) -> Recording:
    """A recording for rendering alone: `frames` have no images, so the cameras are as `convention` says.

    All frames are of the split "test".
    """
    camera_to_world = np.stack([CONVENTIONS[convention](matrix) for matrix in reading.matrices])
    frames.use_reading(np.linalg.inv(camera_to_world), reading)
    rows = list(range(len(names)))
    splits = {"train": [], "test": rows, "val": [], "all": rows}
    return _recording(folder, frames, names, splits, camera_to_world, reading.intrinsics, report, {})


def _recording(
    folder: Path,
    frames: FlameFrames,
    names: list[str],
    splits: dict[str, list[int]],
    camera_to_world: Float[np.ndarray, "f 4 4"],
    intrinsics: Float[np.ndarray, "f 3 3"],
    report: list[str],
    decoded: dict[int, np.ndarray],
) -> Recording:
    report.append("the files do not record FLAME's version: the meshes are those of the model that was passed")
    joints = len(frames.model.parents)
    return Recording(
        path=folder,
        size=frames.size,
        frame_names=names,
        camera_to_world=camera_to_world,
        intrinsics=intrinsics,
        splits=splits,
        canonical=frames.canonical,
        decode_image=frames.image,
        decode_head=frames.head,
        decode_landmarks=_no_landmarks,
        has_label=False,
        has_depth=False,
        expression_width=frames.model.expression_count,
        pose_joints=joints,
        transform_joints=joints,
        has_eyelids=frames.eyelids is not None,
        report=report,
        decoded_vertices=decoded,
        head_arguments=frames.arguments,
    )


def _no_landmarks(frame: int) -> None:
    """These layouts have none."""


def _with_images(compared: list[AlignmentFrame], sample: list[int], reading: CameraReading) -> list[AlignmentFrame]:
    """The frames with the mattes of the reading's own images, if it has any."""
    if reading.image is None:
        return compared
    alphas = [reading.image(index)[..., 3] > 127 for index in sample]
    return [replace(frame, alpha=alpha) for frame, alpha in zip(compared, alphas, strict=True)]


def _decide(
    folder: Path,
    compared: list[AlignmentFrame],
    sample: list[int],
    readings: Sequence[CameraReading],
    faces: np.ndarray,
    size: tuple[int, int],
    prefer: tuple[str, bool, Convention],
    report: list[str],
) -> tuple[CameraReading, Decision, list[ConventionScores]]:
    decisions: dict[str, Decision] = {}
    errors: list[CaptureError] = []
    for reading in readings:
        evidence = [
            convention_evidence(replace(frame, intrinsics=reading.intrinsics[index]), reading.matrices[index])
            for frame, index in zip(_with_images(compared, sample, reading), sample, strict=True)
        ]
        try:
            decisions[reading.name] = decide_convention(evidence, faces, size, *prefer)
        except CaptureError as error:
            errors.append(error)
    if not decisions:
        raise CaptureError(f"{folder}: {errors[0]}") from None
    scores = {name: decision.scores[decision.name] for name, decision in decisions.items()}
    ranked = sorted(scores, key=lambda name: -scores[name])
    best = ranked[0]
    if len(ranked) > 1 and scores[best] - scores[ranked[1]] < _LEAD:
        both = " and ".join(f"{name!r} (score {scores[name]:.3f})" for name in ranked[:2])
        images = readings[0].image is not None
        raise CaptureError(
            f"{folder}: the {'images of the frames' if images else 'cameras'} are ambiguous between {both}; the heads "
            "fit the mattes alike. Add frames with mattes in which the whole head is seen"
            + (", or remove the images that were not tracked" if images else "")
        )
    decision = decisions[best]
    conventions = [ConventionScores("camera convention", decision.scores, decision.name, decision.used)]
    if len(readings) > 1:
        tried = {reading.name: scores.get(reading.name, math.nan) for reading in readings}
        conventions.append(ConventionScores("cameras" if readings[0].image is None else "images", tried, best))
    report += [each.line() for each in conventions]
    if prefer[1] and prefer[2] == "auto" and decision.name != prefer[0]:
        report.append(f"warning: the cameras fit as {decision.name}, and the layout's own convention is {prefer[0]}")
    return next(reading for reading in readings if reading.name == best), decision, conventions


def coefficients(values: Float[Tensor, " c"], most: int, what: str) -> Float[Tensor, "1 _"]:
    """(1, C) coefficients of a model with `most` directions; those beyond must be zero.

    Raises:
        CaptureError: they are not, or one is huge; `what` names the file and the field.
    """
    if values[most:].any():
        raise CaptureError(
            f"{what} has {len(values)} coefficients, and the head has {most} such directions; pass the full FLAME "
            "model (300 shape and 100 expression components)"
        )
    if (values.abs() > _LARGEST).any():
        raise CaptureError(
            f"{what} has a coefficient of {float(values.abs().max()):.3g}; expected standard deviations, a few at most"
        )
    return values[None, :most]


def check_counts(frames: Sequence[Mapping[str, Tensor]], where: Sequence[str]) -> None:
    """Refuses frames with another number of coefficients than the first.

    Raises:
        CaptureError: names the frame.
    """
    for arguments, name in zip(frames, where, strict=True):
        for key in ("shape", "expression"):
            count, usual = arguments[key].shape[1], frames[0][key].shape[1]
            if count != usual:
                raise CaptureError(
                    f"{name}: {key} has {count} coefficients, but {where[0]} has {usual}; expected as many: remove the "
                    "file"
                )


def row(values: np.ndarray, width: int | None, what: str) -> Float[Tensor, " c"]:
    """One row of finite numbers, float64; (C,) or (1, C).

    Raises:
        CaptureError: another shape, or values that are not finite numbers; `what` names the file and the field.
    """
    flat = values[0] if values.ndim == 2 and len(values) == 1 else values
    if flat.ndim != 1 or (width is not None and len(flat) != width):
        expected = f"(1, {'C' if width is None else width})"
        raise CaptureError(f"{what} has shape {values.shape}; expected {expected}, the values of one frame")
    if values.dtype.kind not in "fiu" or not np.isfinite(flat).all():
        raise CaptureError(f"{what} holds values that are not finite numbers; export it again")
    return torch.from_numpy(flat.astype(np.float64))
