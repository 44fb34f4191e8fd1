"""Identity and focal length from several frames together: one bundle of Gauss-Newton systems.

Each keyframe has its own pose, jaw, eyes and expression, all share identity and focal length
(`headfields.apps.tracking.rig.bundle`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.file_formats import HEAD_IDENTITY
from headfields.apps.tracking.head.options import HeadTrackingOptions
from headfields.apps.tracking.head.rig import HeadModel
from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.rig.albedo import estimated_albedo
from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.bundle import Bundle, BundleSolver
from headfields.apps.tracking.rig.light import LightSums
from headfields.apps.tracking.rig.observation import RigObservation, rig_observation
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.data.untracked import UntrackedRecording
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.ops.rotations import axis_angle, rotation_angle

__all__ = ["HeadIdentity", "fit_identity"]

_STARTS = (0.8, 2.4)
"""Focal lengths that the fit starts from, as factors of the default: the energy is flat, and steps may be slow."""
_LEAST_TURN = math.radians(12.0)
"""Rotation between two keyframes below which they are one view: the shape in depth would be all the prior's."""
_POSE = ("world_to_camera", "turns", "expression")
_OFFSETS = torch.tensor([0.006] * 17 + [0.002] * 51)
"""Standard deviation of a landmark's offset from the head's own, meters: detectors and heads place a point each in
their own way, along the jaw, where nothing marks it, most of all. Our own choice."""
_MODEL_ERROR = {True: 0.12, False: 0.25}
"""Standard deviation of the logarithm of the focal length from what a head gets wrong of a person, by whether its
identities are statistics of people. Our own, of fits to captures of known focal length, which were 7 to 20 % and 26 to
40 % too short."""
_WIDEST = 1.0
"""Standard error of which more says nothing."""
_FEWEST = 3
"""Frames with landmarks that identity is fitted to, at least; with fewer it stays the mean's, nearly."""


@dataclass(frozen=True)
class HeadIdentity:
    """What all frames of a recording share.

    Attributes:
        coefficients: (S,) of `HeadModel.identity`.
        colors: (V, 3) albedo of the vertices.
        light: normal equations of the light, over the keyframes.
        focal: focal length, pixels of the recording.
        focal_error: standard error of its logarithm, by noise, priors and what the head gets wrong; NaN where it was
            known.
        focal_source: "given"; "fitted"; "uncertain", fitted with an error above `HeadTrackingOptions.focal_error`; or
            "default", where the frames do not determine it.
        poses: of the keyframes, with expressions of the personal rig.
        report: lines on what was decided.
        landmark_offsets: (68, 3) meters, from the head's landmarks at rest to where the detector puts them.
    """

    coefficients: Float[Tensor, " s"]
    colors: Float[Tensor, "v 3"]
    light: LightSums
    focal: float
    focal_error: float
    focal_source: str
    poses: Mapping[int, BodyPose] = field(default_factory=dict)
    report: Sequence[str] = ()
    landmark_offsets: Float[Tensor, "68 3"] | None = None

    @property
    def focal_interval(self) -> tuple[float, float]:
        """Two standard errors below and above the focal length, pixels: about 95 %. Both ends are the focal length
        itself where it was given."""
        reach = 1.0 if math.isnan(self.focal_error) else math.exp(2 * min(self.focal_error, _WIDEST))
        return self.focal / reach, self.focal * reach

    def save(self, path: Path) -> None:
        """Writes it as safetensors, atomically."""
        tensors = {"coefficients": self.coefficients, "colors": self.colors, "light.matrix": self.light.matrix,
                   "light.vector": self.light.vector, "light.count": self.light.count}  # fmt: skip
        if self.landmark_offsets is not None:
            tensors["landmark_offsets"] = self.landmark_offsets
        for frame, pose in self.poses.items():
            tensors |= {f"{frame}.world_to_camera": pose.world_to_camera, f"{frame}.turns": pose.turns,
                        f"{frame}.expression": pose.expression}  # fmt: skip
        header = {"focal": self.focal, "focal_error": None if math.isnan(self.focal_error) else self.focal_error,
                  "focal_source": self.focal_source, "frames": list(self.poses),
                  "report": list(self.report)}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {name: value.contiguous().clone() for name, value in tensors.items()},
                          {HEAD_IDENTITY: header})  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "HeadIdentity":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds something else.
        """
        with reading(path, "the identity of a head"):
            tensors, header = read_safetensors(path, HEAD_IDENTITY)
            poses = {
                int(frame): BodyPose(
                    *(tensors[f"{frame}.{name}"] for name in ("world_to_camera", "turns", "expression"))
                )
                for frame in header["frames"]
            }
            light = LightSums(tensors["light.matrix"], tensors["light.vector"], tensors["light.count"])
            error = math.nan if header["focal_error"] is None else float(header["focal_error"])
            return cls(
                tensors["coefficients"], tensors["colors"], light, float(header["focal"]), error,
                str(header["focal_source"]), poses, tuple(header["report"]), tensors.get("landmark_offsets"),
            )  # fmt: skip


def fit_identity(
    model: HeadModel,
    recording: UntrackedRecording,
    options: HeadTrackingOptions | None = None,
    free_labels: Sequence[int] = (),
    frames: Sequence[int] | None = None,
    show: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> HeadIdentity | None:
    """Identity, albedo, light and focal length of a recording.

    Landmarks first, of more frames than the keyframes, from several focal lengths; then, in rounds with the focal
    length held, albedo and light from the images of the keyframes, and all parameters to their landmarks, outlines and
    colors together. A landmark's offset from the head's own point is a parameter too: heads and detectors place the
    points each in their own way, and without it a jaw that is marked some millimeters off looks like another focal
    length. Keyframes are the frames with a face whose rotations and shapes of the mouth differ most. Where the frames
    do not determine the focal length (all frontal, say), the recording's default is taken, and the report says so.

    Args:
        model: the head.
        recording: with mattes; its intrinsics are kept if it has any.
        options: sizes and steps.
        free_labels: labels of what the head lacks.
        frames: frames to choose from; all if None.
        show: called with what is done.
        stop: asked between steps whether to stop.

    Returns:
        The identity; None if stopped.

    Raises:
        FrameFailure: no frame has a face.
    """
    options = HeadTrackingOptions() if options is None else options
    given = recording.intrinsics is not None
    start = recording if given else recording.with_focal(_default_focal(recording))
    report: list[str] = []
    count = len(model.identity)
    body = model.body(None, options.frame.expressions, float(options.frame.scales.expression))
    small = replace(options.frame, levels=(options.side,), steps=(options.steps,))
    most = max(options.keyframes, options.landmark_frames)
    observations = _keyframes(body, start, small, free_labels, most, frames, show, stop)
    if observations is None:
        return None
    keys = sorted(list(observations)[: options.keyframes])  # those that differ most come first
    order = sorted(observations)
    if len(order) < _FEWEST and not recording.others:
        report.append(f"identity is fitted to {len(order)} frames only; more views of the head make it better")
    solver = BundleSolver(body, [observations[frame] for frame in order], small, count, _OFFSETS)
    best: tuple[float, Bundle] | None = None
    default = float(start.camera([order[0]]).intrinsics[0, 0, 0])
    for factor in (1.0,) if given else _STARTS:
        show(f"landmarks of {len(order)} frames")
        bundle = solver.started(default * factor)
        if bundle is None:
            continue
        value, bundle = solver.minimized(bundle, None, None, options.landmark_steps, not given, stop)
        if stop():
            return None
        if best is None or value < best[0]:
            best = (value, bundle)
    if best is None:
        raise FrameFailure("landmarks", "no pose fits the landmarks of any keyframe")
    bundle, error, source = best[1], math.nan, "given"
    if not given:
        noise = solver.focal_error(bundle)
        error = math.hypot(noise, _MODEL_ERROR[model.statistical])
        source = "fitted" if error <= options.focal_error else "uncertain"
        turn = _largest_turn(bundle.poses)
        if not (noise <= options.focal_error and turn >= _LEAST_TURN):
            source = "default"
            report.append(
                f"the frames do not determine the focal length (the head turns by {math.degrees(turn):.0f} degrees, "
                f"and the standard error would be {100 * min(error, _WIDEST):.0f} %); the default of {default:.0f} "
                "pixels is taken. Pass --focal if you know it: the shape in depth depends on it"
            )
            again = solver.started(default)
            bundle = bundle if again is None else again
            bundle = solver.minimized(bundle, None, None, options.landmark_steps, False, stop)[1]
    # The landmarks of all frames say more of the focal length than the pictures of a few, which trade it for shape.
    solver = BundleSolver(body, [observations[frame] for frame in keys], small, count, _OFFSETS)
    bundle = replace(bundle, poses=tuple(bundle.poses[order.index(frame)] for frame in keys))
    colors, light = torch.full((len(body.rig.template_vertices), 3), 0.6), LightSums.empty()
    for turn in range(options.rounds):
        show(f"albedo, light and shape, round {turn + 1} of {options.rounds}")
        bare = RigSurface(body.rig, None, model.outlined)
        if turn == 0:  # outlines before colors: an albedo of misplaced frames is blurred
            bundle = solver.minimized(bundle, bare, None, options.steps, False, stop)[1]
        colors, light = estimated_albedo(body, bare, *solver.pictures(bundle))
        surface = RigSurface(body.rig, colors, model.outlined)
        bundle = solver.minimized(bundle, surface, light.coefficients(), options.steps, False, stop)[1]
        if stop():
            return None
    bare = RigSurface(body.rig, None, model.outlined)
    colors, light = estimated_albedo(body, bare, *solver.pictures(bundle))
    identity = solver.identity(bundle)
    poses = {
        frame: replace(pose, expression=pose.expression[count:].clone())
        for frame, pose in zip(keys, bundle.poses, strict=True)
    }
    fitted = HeadIdentity(identity, colors, light, bundle.focal, error, source, poses, (), bundle.offsets)
    if source in ("fitted", "uncertain"):
        report.append(_focal_line(fitted, model.statistical))
    return replace(fitted, report=tuple(report))


def _focal_line(identity: HeadIdentity, statistical: bool) -> str:
    """What is said of a focal length that was fitted."""
    low, high = identity.focal_interval
    line = f"focal length: {identity.focal:.0f} pixels, {low:.0f} to {high:.0f} within two standard errors"
    if identity.focal_source == "fitted":
        return line
    cause = "" if statistical else "; this head's identities are no statistics of people, and make it too short"
    return f"warning: {line}{cause}. It is hardly determined: pass --focal if you know it, for depth follows it"


def _default_focal(recording: UntrackedRecording) -> float:
    focal = recording.default_focal
    return 1.2 * max(recording.size) if focal is None else focal


def _keyframes(
    body: TrackedBody, recording: UntrackedRecording, options: RigTrackingOptions, free_labels: Sequence[int],
    count: int, frames: Sequence[int] | None, show: Callable[[str], None], stop: Callable[[], bool],
) -> dict[int, RigObservation] | None:  # fmt: skip
    """The frames with a face that differ most in rotation and in the shape of the face."""
    features: dict[int, Tensor] = {}
    points = body.landmarks_at_rest()
    for frame in range(len(recording)) if frames is None else frames:
        if frame in recording.failed:
            continue
        marks = recording.landmarks(frame)
        if marks is None or int(marks.isfinite().all(1).sum()) < 34:
            continue
        try:
            pose, error = landmark_pose(points, marks, recording.camera([frame]))
        except (ValueError, RuntimeError):
            continue
        if not bool(pose.isfinite().all()) or not bool(error < 0.1 * max(recording.size)):
            continue
        pixels = recording.camera([frame]).replace(world_to_camera=pose[None]).project(points[None])[0].reshape(-1, 2)
        spread = (points - points.mean(0)).norm(dim=1).mean()
        size = (pixels - pixels.mean(0)).norm(dim=1).mean()
        local = (marks - pixels)[17:] / size  # what the pose does not explain: expression
        features[frame] = torch.cat([2.0 * axis_angle(pose[:3, :3]), pose[:3, 3] / spread * 0.02,
                                     torch.nan_to_num(local).flatten()])  # fmt: skip
    chosen: list[int] = []
    observed: dict[int, RigObservation] = {}
    if not features:
        raise FrameFailure("landmarks", "no frame has enough landmarks to start from")
    names = list(features)
    table = torch.stack([features[name] for name in names])
    distance = (table - table.median(0).values).norm(dim=1)
    row = int(distance.argmin())  # an ordinary frame, then the farthest from those chosen
    tried = torch.zeros(len(names), dtype=torch.bool)
    nearest = torch.full((len(names),), torch.inf)
    while len(chosen) < count and not bool(tried.all()):
        if stop():
            return None
        tried[row] = True
        try:
            observed[names[row]] = rig_observation(recording, names[row], options, free_labels)
            chosen.append(names[row])
            nearest = torch.minimum(nearest, (table - table[row]).norm(dim=1))
        except FrameFailure:
            pass
        row = int(torch.where(tried, -1.0, nearest).argmax())
    if not observed:
        raise FrameFailure("mask", "no frame with landmarks has a matte")
    return observed


def _largest_turn(poses: Sequence[BodyPose]) -> float:
    """The largest angle between two of the poses, radians."""
    turns = torch.stack([pose.world_to_camera[:3, :3] for pose in poses])
    return float(rotation_angle(turns[:, None] @ turns.mT).max())
