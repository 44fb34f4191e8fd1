"""Identity and focal length from several frames together: one bundle of Gauss-Newton systems.

Each keyframe has its own pose, jaw, eyes and expression, all share identity and focal length. The frames' normal
equations are those of the rig tracker's energy; the shared parameters are solved for by the Schur complement of each
frame's own, as in bundle adjustment (Triggs et al. 2000, section 6).
"""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.untracked import UntrackedRecording
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.ops.rotations import axis_angle
from headfields.records import Camera
from headfields.tracking.failures import FrameFailure
from headfields.tracking.head.options import HeadTrackingOptions
from headfields.tracking.head.rig import HeadModel
from headfields.tracking.landmark_pose import landmark_pose
from headfields.tracking.rig.albedo import estimated_albedo
from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.energy import Energy, MotionPrior, PoseEnergy, prior_scales
from headfields.tracking.rig.light import LightSums
from headfields.tracking.rig.observation import Level, RigObservation, rig_observation
from headfields.tracking.rig.options import RigTrackingOptions
from headfields.tracking.rig.surface import RigSurface

__all__ = ["HeadIdentity", "fit_identity"]

_KEY = "headfields.head_identity"
_STARTS = (0.8, 2.4)
"""Focal lengths that the fit starts from, as factors of the default: the energy is flat, and steps may be slow."""
_LEAST_TURN = math.radians(12.0)
"""Rotation between two keyframes below which they are one view: the shape in depth would be all the prior's."""
_LONGEST = 0.2
"""Longest step of the logarithm of the focal length: depth follows it, and is linearized."""
_MOST_DAMPING = 10.0
"""Damping, relative to the diagonal, at which no shorter step is tried."""
_POSE = ("world_to_camera", "turns", "expression")
_OFFSETS = torch.tensor([0.006] * 17 + [0.002] * 51)
"""Standard deviation of a landmark's offset from the head's own, meters: detectors and heads place a point each in
their own way, along the jaw, where nothing marks it, most of all. Our own choice."""
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
        focal_error: standard error of its logarithm; NaN where it was known.
        focal_source: "given", "fitted" or "default".
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
                          {_KEY: json.dumps(header)})  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "HeadIdentity":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds something else.
        """
        with reading(path, "the identity of a head"):
            tensors, header = read_safetensors(path, _KEY)
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


@dataclass(frozen=True)
class _Bundle:
    """Parameters of the keyframes: poses with identity before the expression, focal length, offsets of landmarks."""

    poses: tuple[BodyPose, ...]
    focal: float
    offsets: Float[Tensor, "68 3"]


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
    if len(order) < _FEWEST:
        report.append(f"identity is fitted to {len(order)} frames only; more views of the head make it better")
    solver = _Solver(body, [observations[frame] for frame in order], small, count)
    best: tuple[float, _Bundle] | None = None
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
        error, source = solver.focal_error(bundle), "fitted"
        turn = _largest_turn(bundle.poses)
        if not (error <= options.focal_error and turn >= _LEAST_TURN):
            source = "default"
            report.append(
                f"the frames do not determine the focal length (the head turns by {math.degrees(turn):.0f} degrees, "
                f"and the standard error would be {100 * min(error, 9.99):.0f} %); the default of {default:.0f} "
                "pixels is taken. Pass --focal if you know it: the shape in depth depends on it"
            )
            again = solver.started(default)
            bundle = bundle if again is None else again
            bundle = solver.minimized(bundle, None, None, options.landmark_steps, False, stop)[1]
    # The landmarks of all frames say more of the focal length than the pictures of a few, which trade it for shape.
    solver = _Solver(body, [observations[frame] for frame in keys], small, count)
    bundle = replace(bundle, poses=tuple(bundle.poses[order.index(frame)] for frame in keys))
    colors, light = torch.full((len(body.rig.template_vertices), 3), 0.6), LightSums.empty()
    for turn in range(options.rounds):
        show(f"albedo, light and shape, round {turn + 1} of {options.rounds}")
        bare = RigSurface(body.rig, None, model.outlined)
        if turn == 0:  # outlines before colors: an albedo of misplaced frames is blurred
            bundle = solver.minimized(bundle, bare, None, options.steps, False, stop)[1]
        levels = solver.levels(bundle.focal)
        colors, light = estimated_albedo(body, bare, bundle.poses, levels)
        surface = RigSurface(body.rig, colors, model.outlined)
        bundle = solver.minimized(bundle, surface, light.coefficients(), options.steps, False, stop)[1]
        if stop():
            return None
    bare = RigSurface(body.rig, None, model.outlined)
    colors, light = estimated_albedo(body, bare, bundle.poses, solver.levels(bundle.focal))
    identity = solver.identity(bundle)
    poses = {
        frame: replace(pose, expression=pose.expression[count:].clone())
        for frame, pose in zip(keys, bundle.poses, strict=True)
    }
    if source == "fitted":
        report.append(f"focal length: {bundle.focal:.1f} pixels, standard error {100 * error:.0f} %")
    return HeadIdentity(identity, colors, light, bundle.focal, error, source, poses, tuple(report), bundle.offsets)


def _default_focal(recording: UntrackedRecording) -> float:
    focal = recording.default_focal
    return 1.2 * max(recording.size) if focal is None else focal


def _keyframes(
    body: TrackedBody, recording: UntrackedRecording, options: RigTrackingOptions, free_labels: Sequence[int],
    count: int, frames: Sequence[int] | None, show: Callable[[str], None], stop: Callable[[], bool],
) -> dict[int, RigObservation] | None:  # fmt: skip
    """The frames with a face that differ most in rotation and in the shape of the face."""
    features: dict[int, Tensor] = {}
    at_rest = body.at_rest(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
    corners, weights = body.landmarks(at_rest)
    points = (weights[..., None] * body.rig.template_vertices[corners]).sum(1)
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


class _Solver:
    """Levenberg and Marquardt's method on all keyframes together."""

    def __init__(
        self, body: TrackedBody, observations: Sequence[RigObservation], options: RigTrackingOptions, identities: int
    ) -> None:
        self.body = body = copy.copy(body)
        self.observations, self.options, self.count = observations, options, identities
        rows = body.width - len(body.expressions)
        self.shared = list(range(rows, rows + identities))
        self.own = [k for k in range(body.width) if k not in set(self.shared)]
        self.shared += range(body.width + 1, body.width + 1 + 3 * len(_OFFSETS))
        self._offset_scales = _OFFSETS[:, None].expand(-1, 3)
        # every frame has the prior of the shared coefficients once; in the sum it counts once
        assert body.scales is not None
        body.scales = body.scales.clone()
        body.scales[:identities] *= math.sqrt(len(observations))

    def started(self, focal: float) -> _Bundle | None:
        """The mean head, placed by the landmarks of each frame."""
        poses = []
        at_rest = self.body.at_rest(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
        corners, weights = self.body.landmarks(at_rest)
        points = (weights[..., None] * self.body.rig.template_vertices[corners]).sum(1)
        for observation in self.observations:
            try:
                pose, _ = landmark_pose(points, observation.landmarks, _with_focal(observation.camera, focal))
            except (ValueError, RuntimeError):
                return None
            if not bool(pose.isfinite().all()) or float(pose[2, 3]) <= 0:
                return None
            poses.append(self.body.at_rest(pose))
        return _Bundle(tuple(poses), focal, torch.zeros(len(_OFFSETS), 3))

    def levels(self, focal: float) -> list[Level]:
        """The frames' reduced images with this focal length."""
        out = []
        for observation in self.observations:
            level = observation.levels[-1]
            ratio = level.camera.size[1] / observation.camera.size[1]
            out.append(level.replace(camera=_with_focal(level.camera, focal * ratio)))
        return out

    def identity(self, bundle: _Bundle) -> Float[Tensor, " s"]:
        """The shared coefficients."""
        return bundle.poses[0].expression[: self.count].clone()

    def minimized(
        self, bundle: _Bundle, surface: RigSurface | None, light: Float[Tensor, "9 3"] | None, steps: int, lens: bool,
        stop: Callable[[], bool],
    ) -> tuple[float, _Bundle]:  # fmt: skip
        """At most `steps` steps; a step that would raise the energy is damped."""
        damping = 1e-3
        energies = self._energies(bundle, surface, light)
        value = self._total(bundle, energies)
        for _ in range(steps):
            better = None
            while damping < _MOST_DAMPING:
                if stop():
                    return value, bundle
                moved = self._moved(bundle, energies, damping, lens)
                if moved is not None:
                    new = self._energies(moved, surface, light)
                    total = self._total(moved, new)
                    if math.isfinite(total) and total < value:
                        better, damping = (moved, new, total), max(damping / 5, 1e-6)
                        break
                damping *= 8
            if better is None:
                break
            gain = value - better[2]
            bundle, energies, value = better
            if gain < 1e-4 * value:
                break
        return value, bundle

    def focal_error(self, bundle: _Bundle) -> float:
        """Standard error of the logarithm of the focal length.

        Landmarks count with the variance of their own residuals, priors with that they state.
        """
        energies = self._energies(bundle, None, None)
        matrix, _, solved = self._reduced(bundle, energies, 0.0, True)
        column = torch.linalg.pinv(matrix, hermitian=True)[:, -1]
        known = sum(len(observation.landmarks) for observation in self.observations)
        freedom = max(2 * known - sum(len(self.own) for _ in energies) * 0.5, 1.0)
        variance = sum(energy.parts.get("landmarks", 0.0) for energy in energies) / freedom
        precision = torch.zeros(self.body.width, dtype=torch.float64)
        precision[6:] = (1 / prior_scales(self.body, self.options.scales).square()).double()
        shared = precision[self.shared[: self.count]] * len(energies)
        priors = float((shared * column[: self.count].square()).sum())
        priors += float((column[self.count : -1] / self._offset_scales.flatten()).square().sum())
        priors += sum(float((precision[self.own] * (by_shared @ column).square()).sum()) for _, by_shared in solved)
        return math.sqrt(max(variance * (float(column[-1]) - priors) + priors, 0.0))

    def _energies(self, bundle: _Bundle, surface: RigSurface | None, light: Tensor | None) -> list[Energy]:
        levels = self.levels(bundle.focal)
        return [
            PoseEnergy(
                self.body, surface, observation, level, light, MotionPrior(), self.options, True, bundle.offsets
            )(pose)
            for observation, level, pose in zip(self.observations, levels, bundle.poses, strict=True)
        ]

    def _total(self, bundle: _Bundle, energies: Sequence[Energy]) -> float:
        """The energy of all frames and of what they share."""
        prior = float((bundle.offsets / self._offset_scales).square().sum())
        return sum(energy.value for energy in energies) + prior

    def _reduced(
        self, bundle: _Bundle, energies: Sequence[Energy], damping: float, lens: bool
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Matrix and vector of the shared parameters, and each frame's own solution: constant and by the shared."""
        shared = [*self.shared, self.body.width] if lens else self.shared
        matrix = torch.zeros(len(shared), len(shared), dtype=torch.float64)
        vector = torch.zeros(len(shared), dtype=torch.float64)
        solved = []
        for energy in energies:
            h, b = energy.matrix, energy.vector
            own = h[self.own][:, self.own]
            own = own + torch.diag(damping * own.diagonal() + 1e-9)
            cross = h[self.own][:, shared]
            both = torch.linalg.solve(own, torch.cat([b[self.own][:, None], cross], 1))
            solved.append((both[:, 0], both[:, 1:]))
            matrix += h[shared][:, shared] - cross.T @ both[:, 1:]
            vector += b[shared] - cross.T @ both[:, 0]
        offsets = slice(self.count, self.count + bundle.offsets.numel())
        precision = (1 / self._offset_scales.square()).flatten().double()
        matrix[offsets, offsets] += torch.diag(precision)
        vector[offsets] += precision * bundle.offsets.flatten()
        return matrix, vector, solved

    def _moved(self, bundle: _Bundle, energies: Sequence[Energy], damping: float, lens: bool) -> _Bundle | None:
        try:
            matrix, vector, solved = self._reduced(bundle, energies, damping, lens)
            damped = matrix + torch.diag(damping * matrix.diagonal().abs() + 1e-9)
            step = torch.linalg.solve(damped, -vector)
            if lens and abs(float(step[-1])) > _LONGEST:  # the other parameters follow the shortened step
                shorter = math.copysign(_LONGEST, float(step[-1]))
                rest = torch.linalg.solve(damped[:-1, :-1], -vector[:-1] - damped[:-1, -1] * shorter)
                step = torch.cat([rest, rest.new_tensor([shorter])])
        except RuntimeError:  # singular
            return None
        if not bool(step.isfinite().all()):
            return None
        poses = []
        for pose, energy, (constant, by_shared) in zip(bundle.poses, energies, solved, strict=True):
            own = -constant - by_shared @ step
            if not bool(own.isfinite().all()):
                return None
            full = torch.zeros(self.body.width, dtype=torch.float64)
            full[self.own], full[self.shared[: self.count]] = own, step[: self.count]
            poses.append(pose.moved(full.float(), energy.center))
        focal = bundle.focal * math.exp(float(step[-1])) if lens else bundle.focal
        moves = step[self.count : self.count + bundle.offsets.numel()].view(-1, 3)
        return _Bundle(tuple(poses), focal, bundle.offsets + moves.to(bundle.offsets))


def _largest_turn(poses: Sequence[BodyPose]) -> float:
    """The largest angle between two of the poses, radians."""
    turns = torch.stack([pose.world_to_camera[:3, :3] for pose in poses])
    cosine = (torch.einsum("aij,bij->ab", turns, turns) - 1) / 2
    return float(torch.arccos(cosine.clamp(-1, 1)).max())


def _with_focal(camera: Camera, focal: float) -> Camera:
    lens = camera.intrinsics.reshape(3, 3).clone()
    lens[0, 0] = lens[1, 1] = focal
    return Camera(camera.world_to_camera, lens, camera.size)
