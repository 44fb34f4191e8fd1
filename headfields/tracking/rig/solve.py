"""One frame's pose: Levenberg and Marquardt's method, coarse to fine, and where to start from."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.tracking.failures import FrameFailure
from headfields.tracking.landmark_pose import landmark_pose
from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.energy import Energy, Expected, Problem
from headfields.tracking.rig.observation import Level, RigObservation
from headfields.tracking.rig.options import RigTrackingOptions
from headfields.tracking.rig.surface import RigSurface

__all__ = ["extrapolated_pose", "landmark_start", "minimize", "solve_frame"]

_ENOUGH = 1e-3
"""Part of the energy that a step has to gain for another one to be worth it."""


def minimize(problem: Problem, pose: BodyPose, steps: int, damping: float = 1e-3) -> tuple[BodyPose, Energy]:
    """At most so many steps down the energy of one level; a step that would go up is made shorter.

    Raises:
        FrameFailure: "diverged", the energy is not finite.
    """
    energy = problem(pose)
    for _ in range(steps):
        diagonal = energy.matrix.diagonal().clamp_min(1e-9)
        better = None
        for _ in range(3):
            step = torch.linalg.solve(energy.matrix + torch.diag(damping * diagonal), -energy.vector).float()
            tried = pose.moved(step, energy.center)
            found = problem(tried)
            if found.value < energy.value:
                better, damping = (tried, found), max(damping / 5, 1e-5)
                break
            damping *= 8
        if better is None:
            break
        gain = energy.value - better[1].value
        pose, energy = better
        if gain < _ENOUGH * energy.value:
            break
    if not (energy.value < float("inf") and bool(pose.world_to_camera.isfinite().all())):
        raise FrameFailure("diverged", f"the energy is {energy.value}")
    return pose, energy


def solve_frame(
    body: TrackedBody, surface: RigSurface, observation: RigObservation, starts: Sequence[BodyPose],
    light: Float[Tensor, "9 3"] | None, expected: Expected, options: RigTrackingOptions, first: bool = False,
) -> tuple[BodyPose, Energy]:  # fmt: skip
    """The pose of a frame from the best of several starts.

    Args:
        body, surface: the template. observation: the frame.
        starts: poses to start from; all of them are tried on the coarsest level.
        light: as known, or None.
        expected: what is foreseen.
        options: schedules.
        first: whether this is a start, which takes more steps.
    """

    def at(level: Level) -> Problem:
        return Problem(body, surface, observation, level, light, expected, options)

    coarse = at(observation.levels[0])
    steps = options.first_steps if first else options.steps[0]
    tried = [minimize(coarse, start, steps) for start in starts]
    pose, energy = min(tried, key=lambda pair: pair[1].value)
    for level, more in zip(observation.levels[1:], options.steps[1:], strict=True):
        pose, energy = minimize(at(level), pose, 2 * more if first else more)
    return pose, energy


def extrapolated_pose(last: BodyPose, before: BodyPose | None) -> BodyPose:
    """Where a body will be that goes on as it went from `before` to `last`; the face stays as it is."""
    if before is None:
        return last
    one, two = before.world_to_camera, last.world_to_camera
    turn = rotation_matrices(axis_angle(two[:3, :3] @ one[:3, :3].T))
    pose = two.clone()
    pose[:3, :3] = turn @ two[:3, :3]
    # the body's own frame is turned about the camera's place of its origin, which moves on as it moved
    pose[:3, 3] = 2 * two[:3, 3] - one[:3, 3]
    return replace(last, world_to_camera=pose, turns=last.turns + 0.5 * (last.turns - before.turns))


def landmark_start(body: TrackedBody, observation: RigObservation, options: RigTrackingOptions) -> BodyPose:
    """The body at rest where the frame's landmarks say.

    Raises:
        FrameFailure: "landmarks": too few are known, or no pose fits them.
    """
    rig = body.rig
    if rig.landmark_faces is None or len(rig.landmark_faces) != 68:
        raise FrameFailure("landmarks", "the rig has no 68 landmarks to start from; rig it again")
    if observation.landmark_count < options.landmark_count:
        raise FrameFailure(
            "landmarks", f"{observation.landmark_count} landmarks are known and no frame has been tracked yet; at least"
            f" {options.landmark_count} are needed to start"
        )  # fmt: skip
    points = rig.landmarks(rig.template_vertices[None])[0]
    try:
        pose, _ = landmark_pose(points.cpu(), observation.landmarks.cpu(), observation.camera)
    except (ValueError, RuntimeError) as error:
        raise FrameFailure("landmarks", str(error)) from error
    return body.at_rest(pose.to(rig.template_vertices))
