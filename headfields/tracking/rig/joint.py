"""All frames together: each one's own energy, and second differences that are small. Our own choice."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from headfields.ops.rotations import axis_angle
from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.energy import Expected, Problem, motion_scales
from headfields.tracking.rig.observation import RigObservation
from headfields.tracking.rig.options import RigTrackingOptions
from headfields.tracking.rig.surface import RigSurface

__all__ = ["smooth_together"]

_DAMPING = 1e-2


def smooth_together(
    body: TrackedBody, surface: RigSurface, poses: Mapping[int, BodyPose], light: Tensor,
    observation: Callable[[int], RigObservation], options: RigTrackingOptions,
    show: Callable[[int, int], None] = lambda step, frame: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[int, BodyPose] | None:  # fmt: skip
    """Poses of all frames after `options.joint_steps` steps of Gauss and Newton on the sum of all energies.

    Neighbors are frames as far apart as any two are least; where one is missing nothing is asked to be smooth.

    Args:
        body, surface: the template. poses: by frame. light: (9, 3), which stays.
        observation: reads a frame. options: scales and steps.
        show: told of each step and frame. stop: asked before each frame whether to give up.

    Returns:
        By frame; None if it was stopped. Frames whose own energy would grow by more than half keep their pose.
    """
    frames, now = sorted(poses), dict(poses)
    width = body.width
    begin: dict[int, float] = {}
    apart = min((b - a for a, b in pairwise(frames)), default=1)
    triples = [k for k in range(len(frames) - 2) if frames[k + 2] - frames[k] == 2 * apart]
    joints, expressions = 3 * len(body.index), len(body.expressions)
    scale = motion_scales(options.scales, joints, expressions).double() * float(options.scales.smooth)
    stiff = (1 / scale.square()).numpy()
    for step in range(options.joint_steps):
        band = np.zeros((2 * width + width, len(frames) * width))
        right = np.zeros(len(frames) * width)
        centers = []
        for k, frame in enumerate(frames):
            if stop():
                return None
            seen = observation(frame)
            energy = Problem(body, surface, seen, seen.levels[-1], light, Expected(), options)(now[frame])
            begin.setdefault(frame, energy.value)
            matrix = energy.matrix + torch.diag(_DAMPING * energy.matrix.diagonal())
            _put(band, matrix.numpy(), k * width, k * width)
            right[k * width : (k + 1) * width] = -energy.vector.numpy()
            centers.append(energy.center)
            show(step, k)
        for k in triples:
            residual = _second_difference([now[frames[k + j]] for j in range(3)], centers[k : k + 3])
            for i, a in enumerate((1.0, -2.0, 1.0)):
                right[(k + i) * width : (k + i + 1) * width] -= a * stiff * residual
                for j, b in enumerate((1.0, -2.0, 1.0)):
                    if j >= i:
                        _put(band, np.diag(a * b * stiff), (k + i) * width, (k + j) * width)
        found = solveh_banded(band, right).reshape(len(frames), width)
        for k, frame in enumerate(frames):
            now[frame] = now[frame].moved(torch.from_numpy(found[k]).float(), centers[k])
    for frame in frames if options.joint_steps else ():
        seen = observation(frame)
        energy = Problem(body, surface, seen, seen.levels[-1], light, Expected(), options)(now[frame])
        if not energy.value <= 1.5 * begin[frame] + 1.0:
            now[frame] = poses[frame]
    return {frame: replace(now[frame]) for frame in poses}


def _second_difference(poses: list[BodyPose], centers: list[Tensor]) -> np.ndarray:
    one, two, three = (pose.world_to_camera for pose in poses)
    turn = axis_angle(three[:3, :3] @ two[:3, :3].T) - axis_angle(two[:3, :3] @ one[:3, :3].T)
    # centers move with joints as well as with the whole: followed as one point of the body at rest
    point = two[:3, :3].T @ (centers[1] - two[:3, 3])
    first, middle, last = (pose[:3, :3] @ point + pose[:3, 3] for pose in (one, two, three))
    parts = [turn, first - 2 * middle + last]
    parts += [(poses[0].turns - 2 * poses[1].turns + poses[2].turns).flatten()]
    parts += [poses[0].expression - 2 * poses[1].expression + poses[2].expression]
    return torch.cat(parts).double().numpy()


def _put(band: np.ndarray, block: np.ndarray, row: int, column: int) -> None:
    """Adds a block of a symmetric matrix to its upper band (LAPACK's storage); below the diagonal nothing is kept."""
    height = band.shape[0]
    i, j = np.meshgrid(np.arange(len(block)), np.arange(len(block)), indexing="ij")
    keep = (row + i) <= (column + j)
    np.add.at(band, (height - 1 + (row + i - column - j)[keep], (column + j)[keep]), block[keep])
