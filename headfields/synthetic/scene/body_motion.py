"""Motion of a person on a turning chair: a turn with a static face, or talking with motion of head and torso."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.ops.rotations import rotation_matrices
from headfields.synthetic.scene.motion import JAW_OPEN, scripted_motion, sum_of_sines

__all__ = ["HELD_OUT", "PARTS", "BodyMotion", "Kind", "chair_motion", "talk_motion"]

Kind = Literal["chair", "talk"]
PARTS = ("torso", "neck", "head", "jaw")
"""Joints that move relative to the chair, by their names in `RiggedTemplate.joints`."""
HELD_OUT = ("mouth_left", "mouth_right", "nose_wrinkle", "cheek_puff")
"""Expressions that occur only in test frames."""

_CHAIR_GAPS = np.radians([[12, 30], [82, 100], [170, 188], [262, 280]])  # yaw of the chair in test frames
_TALK_BLOCK = 6  # every sixth stretch of a talking sequence is for testing


@dataclass(frozen=True)
class BodyMotion:
    """F frames.

    Attributes:
        yaw: (F,) of the chair, to the person's left, radians, not wrapped.
        shift: (F, 3) of the body in the room, meters.
        rotations: (F, 3) axis-angle of each joint in `PARTS`, radians.
        expression: (F, E).
        test: (F,) mask of the test frames.
    """

    yaw: Float[Tensor, " f"]
    shift: Float[Tensor, "f 3"]
    rotations: dict[str, Float[Tensor, "f 3"]]
    expression: Float[Tensor, "f e"]
    test: Bool[Tensor, " f"]

    @property
    def body_to_room(self) -> Float[Tensor, "f 3 3"]:
        """Rotations (F, 3, 3) from body to room."""
        turn = torch.zeros(len(self.yaw), 3)
        turn[:, 1] = self.yaw
        return rotation_matrices(turn)


def chair_motion(frames: int, width: int, seed: int) -> BodyMotion:
    """One full turn with a static face and a sway of about a degree; four ranges of yaw are test frames.

    Args:
        frames: F.
        width: E, the number of expression coefficients, all zero.
        seed: seed of the sway.
    """
    random = np.random.default_rng([seed, 11])
    share = np.arange(frames) / max(frames, 1)
    yaw = 2 * np.pi * share
    sway = {
        name: np.radians(size) * np.stack([sum_of_sines(12 * share, (p, p / 2.3), random) for p in (7.1, 5.3, 6.1)], -1)
        for name, size in (("torso", 1.0), ("neck", 0.8), ("head", 1.0))
    }
    shift = np.stack([sum_of_sines(12 * share, (period, period / 2.3), random) for period in (8.1, 6.3, 7.7)], -1)
    test = np.zeros(frames, bool)
    for low, high in _CHAIR_GAPS:
        test |= (yaw >= low) & (yaw < high)
    rotations = {name: _tensor(sway.get(name, np.zeros((frames, 3)))) for name in PARTS}
    return BodyMotion(
        yaw=_tensor(yaw),
        shift=_tensor(shift * [0.003, 0.001, 0.003]),
        rotations=rotations,
        expression=torch.zeros(frames, width),
        test=torch.from_numpy(test),
    )


def talk_motion(frames: int, names: tuple[str, ...], width: int, rate: float, seed: int) -> BodyMotion:
    """Talking and grimacing with motion of head, neck and torso, on a chair that turns once.

    Every sixth stretch is for testing; `HELD_OUT` expressions occur only there.

    Args:
        frames: F.
        names: names of the first expressions. Without names, the first twenty coefficients move.
        width: E, the number of expression coefficients.
        rate: frames per second.
        seed: seed of the motion.
    """
    random = np.random.default_rng([seed, 12])
    time = np.arange(frames) / rate
    length = max(frames, 1) / rate
    block = (np.arange(frames) * 4 * _TALK_BLOCK / max(frames, 1)).astype(int) % _TALK_BLOCK
    test = block == _TALK_BLOCK - 1
    motion = scripted_motion(frames, rate, list(names), seed)
    expression = np.zeros((frames, width))
    jaw = np.zeros(frames)
    if names:
        for k, name in enumerate(names):
            expression[:, k] = motion.weights[name] * (name not in HELD_OUT)
        jaw = motion.weights.get("mouth_open", jaw) * JAW_OPEN
        own = [k for k, name in enumerate(names) if name in HELD_OUT]
    else:
        moving = min(width, 20)
        for k in range(moving):
            expression[:, k] = 0.8 * sum_of_sines(time, (random.uniform(1, 3), 1.3, 0.7), random)
        own = list(range(moving, min(width, moving + 4)))
    # Talking: on top of the gestures the jaw oscillates 2.3 times per second, with an amplitude that comes and goes.
    amplitude = np.clip(sum_of_sines(time, (3.1, 1.7), random) + 0.3, 0, 1)
    chatter = (0.5 + 0.5 * np.sin(2 * np.pi * 2.3 * time + 1.0)) * amplitude
    jaw = jaw + np.radians(7.0) * chatter
    for number, k in enumerate(own):
        swell = np.zeros(frames)
        for at in range(number % 4, 4, 2):
            middle = (at + (_TALK_BLOCK - 0.5) / _TALK_BLOCK) / 4 * length
            swell += np.exp(-(((time - middle) / (0.3 * length / (4 * _TALK_BLOCK))) ** 2))
        expression[:, k] = swell * test

    def angles(x: float, y: float, z: float, slow: float) -> Tensor:
        sizes = np.radians([x, y, z])
        periods = ((4.3, 2.3), (5.9, 2.7), (6.7, 3.1))
        return _tensor(sizes * np.stack([sum_of_sines(time / slow, p, random) for p in periods], -1))

    rotations = {
        "torso": angles(4.0, 6.0, 4.0, 1.2), "neck": angles(7.0, 16.0, 5.0, 1.0), "head": angles(9.0, 18.0, 6.0, 1.0),
        "jaw": _tensor(np.stack([jaw, np.radians(1.5) * sum_of_sines(time, (2.9, 1.1), random), 0 * jaw], -1)),
    }  # fmt: skip
    sway = np.stack([sum_of_sines(time, (period, period / 2.3), random) for period in (7.1, 5.3, 8.3)], -1)
    yaw = 2 * np.pi * time / length + np.radians(8.0) * (sum_of_sines(time, (5.1, 3.3), random) if frames else time)
    yaw = yaw - (yaw[0] if frames else 0.0)
    return BodyMotion(
        _tensor(yaw), _tensor(sway * [0.010, 0.004, 0.012]), rotations, _tensor(expression), torch.from_numpy(test)
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
