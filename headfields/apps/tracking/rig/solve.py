"""The pose of one frame by Levenberg and Marquardt's method, coarse to fine; and the poses it starts from."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.energy import Energy, MotionPrior, PoseEnergy
from headfields.apps.tracking.rig.observation import RigObservation
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.records.opengl_axes import flip_y_z

__all__ = ["extrapolated_pose", "landmark_start", "minimize", "solve_frame"]

_LEAST_GAIN = 1e-3
"""Minimization ends when a step lowers the energy by less than this fraction."""


def minimize(pose_energy: PoseEnergy, pose: BodyPose, steps: int, damping: float = 1e-3) -> tuple[BodyPose, Energy]:
    """At most `steps` steps on one level; a step that would raise the energy is damped.

    Raises:
        FrameFailure: "diverged", the energy is not finite.
    """
    energy = pose_energy(pose)
    for _ in range(steps if math.isfinite(energy.value) else 0):
        diagonal = energy.matrix.diagonal().clamp_min(1e-9)
        better = None
        for _ in range(3):
            system = energy.matrix + torch.diag(damping * diagonal)
            step = torch.linalg.solve_ex(system, -energy.vector)[0].float()
            if not bool(step.isfinite().all()):
                break
            new_pose = pose.moved(step, energy.center)
            new_energy = pose_energy(new_pose)
            if new_energy.value < energy.value:  # no step to an energy that is not finite
                better, damping = (new_pose, new_energy), max(damping / 5, 1e-5)
                break
            damping *= 8
        if better is None:
            break
        gain = energy.value - better[1].value
        pose, energy = better
        if gain < _LEAST_GAIN * energy.value:
            break
    if not (energy.value < float("inf") and bool(pose.world_to_camera.isfinite().all())):
        raise FrameFailure("diverged", f"the energy is {energy.value}")
    return pose, energy


def solve_frame(
    body: TrackedBody, surface: RigSurface, observation: RigObservation, starts: Sequence[BodyPose],
    light: Float[Tensor, "9 3"] | None, expected: MotionPrior, options: RigTrackingOptions, first: bool = False,
) -> tuple[BodyPose, Energy]:  # fmt: skip
    """The pose of a frame, from the best of several starts.

    Args:
        body, surface: the template.
        observation: the frame.
        starts: poses to start from; the best after minimization on the coarsest level is taken.
        light: (9, 3), or None for none yet.
        expected: pose predicted from earlier frames.
        options: scales and steps.
        first: whether tracking starts (or restarts) here, with more steps.
    """

    def at(row: int) -> PoseEnergy:
        level, others = observation.levels[row], observation.others_at(row)
        return PoseEnergy(body, surface, observation, level, light, expected, options, others=others)

    coarse = at(0)
    steps = options.first_steps if first else options.steps[0]
    candidates = [minimize(coarse, start, steps) for start in starts]
    pose, energy = min(candidates, key=lambda pair: pair[1].value)
    for row in range(1, len(observation.levels)):
        steps = options.steps[row]
        pose, energy = minimize(at(row), pose, 2 * steps if first else steps)
    return pose, energy


def extrapolated_pose(last: BodyPose, before: BodyPose | None) -> BodyPose:
    """The pose after `last` at constant velocity from `before`; joints at half of it, the expression unchanged."""
    if before is None:
        return last
    one, two = before.world_to_camera, last.world_to_camera
    turn = rotation_matrices(axis_angle(two[:3, :3] @ one[:3, :3].T))
    pose = two.clone()
    pose[:3, :3] = turn @ two[:3, :3]
    # the rotation is about the origin of the rest mesh, which moves with constant velocity
    pose[:3, 3] = 2 * two[:3, 3] - one[:3, 3]
    return replace(last, world_to_camera=pose, turns=last.turns + 0.5 * (last.turns - before.turns))


def landmark_start(body: TrackedBody, observation: RigObservation, options: RigTrackingOptions) -> BodyPose:
    """The rest pose, placed by the frame's landmarks, of the view that has most.

    Raises:
        FrameFailure: "landmarks", too few are known, or no pose fits them.
    """
    rig = body.rig
    if body.landmark_count != 68:
        raise FrameFailure("landmarks", "the rig does not have 68 landmarks to start from; rig it again")
    if observation.landmark_count < options.landmark_count:
        raise FrameFailure(
            "landmarks", f"the frame has {observation.landmark_count} known landmarks; at least "
            f"{options.landmark_count} are needed to start tracking"
        )  # fmt: skip
    view = max(observation.views, key=lambda view: int(view.landmarks.isfinite().all(dim=1).sum()))
    facing = body.at_rest(flip_y_z(torch.eye(4).to(rig.template_vertices)))
    corners, weights = body.landmarks(facing)
    points = (weights[..., None] * rig.template_vertices[corners]).sum(1)
    try:
        pose, _ = landmark_pose(points.cpu(), view.landmarks.cpu(), view.camera)
    except (ValueError, RuntimeError) as error:
        raise FrameFailure("landmarks", str(error)) from error
    pose = torch.linalg.inv(view.camera.world_to_camera.reshape(4, 4)) @ pose
    return body.at_rest(pose.to(rig.template_vertices))
