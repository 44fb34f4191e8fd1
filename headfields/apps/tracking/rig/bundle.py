"""Several frames of one recording together: poses of their own, and shape, focal length and landmarks' offsets that all
share.

The frames' normal equations are those of the tracker's energy; the shared parameters are solved for by the Schur
complement of each frame's own, as in bundle adjustment (Triggs et al. 2000, section 6).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.energy import Energy, MotionPrior, PoseEnergy, prior_scales
from headfields.apps.tracking.rig.observation import Level, RigObservation
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.records import Camera

__all__ = ["Bundle", "BundleSolver"]

_LONGEST = 0.2
"""Longest step of the logarithm of the focal length: depth follows it, and is linearized."""
_MOST_DAMPING = 10.0
"""Damping, relative to the diagonal, at which no shorter step is tried."""


@dataclass(frozen=True)
class Bundle:
    """Parameters of the keyframes.

    Attributes:
        poses: of each, with the shared coefficients before the expression.
        focal: focal length, pixels.
        offsets: (L, 3) meters, from the body's landmarks at rest to where the detector puts them; L = 0 where they are
            not fitted.
    """

    poses: tuple[BodyPose, ...]
    focal: float
    offsets: Float[Tensor, "l 3"]


class BundleSolver:
    """Levenberg and Marquardt's method on all keyframes together.

    Args:
        body: its first `identities` coefficients are shared; it has scales.
        observations: the keyframes; their last level counts.
        options: scales of the terms.
        identities: number of shared coefficients.
        offset_scales: (L,) standard deviations of the landmarks' offsets, meters; None: they are not fitted.

    Attributes:
        body: a copy, with the prior of the shared coefficients counted once for all frames.
    """

    def __init__(
        self,
        body: TrackedBody,
        observations: Sequence[RigObservation],
        options: RigTrackingOptions,
        identities: int,
        offset_scales: Float[Tensor, " l"] | None = None,
    ) -> None:
        self.body = body = copy.copy(body)
        self.observations, self.options, self.count = observations, options, identities
        rows = body.width - len(body.expressions)
        self.shared = list(range(rows, rows + identities))
        self.own = [k for k in range(body.width) if k not in set(self.shared)]
        scales = torch.zeros(0) if offset_scales is None else offset_scales
        self.shared += range(body.width + 1, body.width + 1 + 3 * len(scales))
        self._offset_scales = scales[:, None].expand(-1, 3)
        # every frame has the prior of the shared coefficients once; in the sum it counts once
        assert body.scales is not None
        body.scales = body.scales.clone()
        body.scales[:identities] *= math.sqrt(len(observations))

    def started(self, focal: float) -> Bundle | None:
        """The mean head, placed by the landmarks of each frame."""
        poses = []
        points = self.body.landmarks_at_rest()
        for observation in self.observations:
            try:
                pose, _ = landmark_pose(points, observation.landmarks, _with_focal(observation.camera, focal))
            except (ValueError, RuntimeError):
                return None
            if not bool(pose.isfinite().all()) or float(pose[2, 3]) <= 0:
                return None
            poses.append(self.body.at_rest(pose))
        return Bundle(tuple(poses), focal, torch.zeros_like(self._offset_scales))

    def levels(self, focal: float) -> list[Level]:
        """The frames' reduced images with this focal length; those of other cameras have their own, which is known."""
        out = []
        for observation in self.observations:
            level = observation.levels[-1]
            ratio = level.camera.size[1] / observation.camera.size[1]
            out.append(level.replace(camera=_with_focal(level.camera, focal * ratio)))
        return out

    def pictures(self, bundle: Bundle) -> tuple[list[BodyPose], list[Level]]:
        """The poses, once for every camera, and the cameras' reduced images."""
        poses, levels = [], []
        for observation, pose, level in zip(self.observations, bundle.poses, self.levels(bundle.focal), strict=True):
            each = [level, *(own for _, own in observation.others_at(-1))]
            poses += [pose] * len(each)
            levels += each
        return poses, levels

    def identity(self, bundle: Bundle) -> Float[Tensor, " s"]:
        """The shared coefficients."""
        return bundle.poses[0].expression[: self.count].clone()

    def minimized(
        self, bundle: Bundle, surface: RigSurface | None, light: Float[Tensor, "9 3"] | None, steps: int, lens: bool,
        stop: Callable[[], bool],
    ) -> tuple[float, Bundle]:  # fmt: skip
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

    def focal_error(self, bundle: Bundle) -> float:
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

    def _energies(self, bundle: Bundle, surface: RigSurface | None, light: Tensor | None) -> list[Energy]:
        levels, offsets = self.levels(bundle.focal), bundle.offsets if len(bundle.offsets) else None
        return [
            PoseEnergy(
                self.body, surface, observation, level, light, MotionPrior(), self.options, True, offsets,
                observation.others_at(-1),
            )(pose)
            for observation, level, pose in zip(self.observations, levels, bundle.poses, strict=True)
        ]  # fmt: skip

    def _total(self, bundle: Bundle, energies: Sequence[Energy]) -> float:
        """The energy of all frames and of what they share."""
        prior = float((bundle.offsets / self._offset_scales).square().sum())
        return sum(energy.value for energy in energies) + prior

    def _reduced(
        self, bundle: Bundle, energies: Sequence[Energy], damping: float, lens: bool
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

    def _moved(self, bundle: Bundle, energies: Sequence[Energy], damping: float, lens: bool) -> Bundle | None:
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
        return Bundle(tuple(poses), focal, bundle.offsets + moves.to(bundle.offsets))


def _with_focal(camera: Camera, focal: float) -> Camera:
    lens = camera.intrinsics.reshape(3, 3).clone()
    lens[1, 1] *= focal / lens[0, 0]
    lens[0, 0] = focal
    return Camera(camera.world_to_camera, lens, camera.size)
