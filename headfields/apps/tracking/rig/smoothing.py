"""The joint fit of all frames: the sum of their energies, with a penalty on second differences of the poses."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.energy import MotionPrior, PoseEnergy, motion_scales
from headfields.apps.tracking.rig.observation import RigObservation
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.ops.rotations import axis_angle

__all__ = ["smooth_together"]

_DAMPING = 1e-2


def smooth_together(
    body: TrackedBody, surface: RigSurface, poses: Mapping[int, BodyPose], light: Tensor,
    observation: Callable[[int], RigObservation], options: RigTrackingOptions,
    show: Callable[[int, int], None] = lambda step, frame: None,
    stop: Callable[[], bool] = lambda: False, cuts: Sequence[int] = (),
) -> dict[int, BodyPose] | None:  # fmt: skip
    """Poses of all frames after `options.joint_steps` Gauss-Newton steps on the sum of all energies.

    Second differences are penalized over three frames in a row, at the smallest distance of any two frames.

    Args:
        body, surface: the template.
        poses: poses by frame.
        light: (9, 3), fixed.
        observation: reads a frame.
        options: scales and steps.
        show: called with step and row of the frame.
        stop: asked before each frame whether to stop.
        cuts: frames that begin another shot; motion is not smooth across them.

    Returns:
        Poses by frame; None if stopped. Frames whose own energy grows by more than half, or is not finite, keep their
        pose.
    """

    def energy_of(observed: RigObservation) -> PoseEnergy:
        level, others = observed.levels[-1], observed.others_at(-1)
        return PoseEnergy(body, surface, observed, level, light, MotionPrior(), options, others=others)

    frames, current = sorted(poses), dict(poses)
    width = body.width
    initial_energy: dict[int, float] = {}
    spacing = min((b - a for a, b in pairwise(frames)), default=1)
    triples = [
        k for k in range(len(frames) - 2)
        if frames[k + 2] - frames[k] == 2 * spacing and not any(frames[k] < cut <= frames[k + 2] for cut in cuts)
    ]  # fmt: skip
    joints, expressions = 3 * len(body.index), len(body.expressions)
    scale = motion_scales(options.scales, joints, expressions).double()
    scale[:3] *= float(options.scales.smooth_seat)
    scale[3:] *= float(options.scales.smooth)
    stiffness = (1 / scale.square()).numpy()
    for step in range(options.joint_steps):
        band = np.zeros((2 * width + width, len(frames) * width))
        right = np.zeros(len(frames) * width)
        centers = []
        for k, frame in enumerate(frames):
            if stop():
                return None
            observed = observation(frame)
            energy = energy_of(observed)(current[frame])
            initial_energy.setdefault(frame, energy.value)
            matrix = energy.matrix + torch.diag(_DAMPING * energy.matrix.diagonal())
            if math.isfinite(energy.value) and bool(matrix.isfinite().all() and energy.vector.isfinite().all()):
                _put(band, matrix.numpy(), k * width, k * width)
                right[k * width : (k + 1) * width] = -energy.vector.numpy()
            else:  # it has no say in this step, and holds its pose
                _put(band, np.diag(stiffness), k * width, k * width)
            centers.append(energy.center)
            show(step, k)
        for k in triples:
            residual = _second_difference([current[frames[k + j]] for j in range(3)], centers[k : k + 3])
            for i, a in enumerate((1.0, -2.0, 1.0)):
                right[(k + i) * width : (k + i + 1) * width] -= a * stiffness * residual
                for j, b in enumerate((1.0, -2.0, 1.0)):
                    if j >= i:
                        _put(band, np.diag(a * b * stiffness), (k + i) * width, (k + j) * width)
        steps = solveh_banded(band, right).reshape(len(frames), width)
        for k, frame in enumerate(frames):
            current[frame] = current[frame].moved(torch.from_numpy(steps[k]).float(), centers[k])
    for frame in frames if options.joint_steps else ():
        observed = observation(frame)
        energy = energy_of(observed)(current[frame])
        if not energy.value <= 1.5 * initial_energy[frame] + 1.0:
            current[frame] = poses[frame]
    return {frame: replace(current[frame]) for frame in poses}


def _second_difference(poses: list[BodyPose], centers: list[Tensor]) -> np.ndarray:
    """The second difference (P,) of three poses, in the parameters of a step."""
    one, two, three = (pose.world_to_camera for pose in poses)
    turn = axis_angle(three[:3, :3] @ two[:3, :3].T) - axis_angle(two[:3, :3] @ one[:3, :3].T)
    # centers also move with the joints, so one point of the rest mesh is followed
    point = two[:3, :3].T @ (centers[1] - two[:3, 3])
    first, middle, last = (pose[:3, :3] @ point + pose[:3, 3] for pose in (one, two, three))
    parts = [turn, first - 2 * middle + last]
    parts += [(poses[0].turns - 2 * poses[1].turns + poses[2].turns).flatten()]
    parts += [poses[0].expression - 2 * poses[1].expression + poses[2].expression]
    return torch.cat(parts).double().numpy()


def _put(band: np.ndarray, block: np.ndarray, row: int, column: int) -> None:
    """Adds a block of a symmetric matrix to its upper band, in LAPACK's storage; drops entries below the diagonal."""
    height = band.shape[0]
    i, j = np.meshgrid(np.arange(len(block)), np.arange(len(block)), indexing="ij")
    keep = (row + i) <= (column + j)
    np.add.at(band, (height - 1 + (row + i - column - j)[keep], (column + j)[keep]), block[keep])
