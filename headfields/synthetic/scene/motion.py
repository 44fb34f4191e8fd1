"""Motion of a head: rotation by sums of sines, expressions by smooth random keyframes, and blinks.

Our own choice.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headfields.ops.smoothstep import cubic

__all__ = ["JAW_OPEN", "ScriptedMotion", "scripted_motion", "sum_of_sines"]

JAW_OPEN = np.radians(20.0)  # rotation of the jaw at mouth_open = 1
_YAW, _PITCH, _ROLL = np.radians([35.0, 15.0, 8.0])
_HOLD = 0.75  # mean seconds between keyframes

# Gestures: relative frequency, and weights of named expressions that occur together.
_GESTURES: list[tuple[float, dict[str, float]]] = [
    (0.6, {}),
    (2.0, {"smile": 0.9, "squint": 0.3}),
    (1.0, {"smile": 1.0, "squint": 0.5, "mouth_open": 0.45, "upper_lip_raise": 0.35}),
    (1.6, {"brow_raise": 1.0, "eye_wide": 0.5}),
    (0.8, {"brow_raise": 0.9, "mouth_open": 0.8}),
    (1.0, {"brow_furrow": 1.0, "frown": 0.5}),
    (0.8, {"squint": 0.9, "nose_wrinkle": 0.6, "upper_lip_raise": 0.4}),
    (1.2, {"mouth_open": 1.0}),
    (1.0, {"mouth_open": 0.5, "funnel": 0.5}),
    (0.8, {"pucker": 0.9}),
    (0.7, {"mouth_stretch": 0.8, "mouth_open": 0.3}),
    (0.5, {"brow_inner_raise": 0.9, "frown": 0.7, "chin_raise": 0.4}),
    (0.5, {"cheek_puff": 0.8}),
    (0.6, {"lower_lip_depress": 0.7, "mouth_open": 0.25}),
]


@dataclass(frozen=True)
class ScriptedMotion:
    """Motion of a head over F frames.

    Attributes:
        angles: (F, 3) yaw (to the head's left), pitch (nose down), roll (to its left shoulder), radians.
        shift: (F, 3) translation in the room, meters.
        weights: (F,) weights by expression name. The jaw's rotation is `JAW_OPEN * weights["mouth_open"]`.
        gaze: (F, 2) rotation of the eyes to the head's left and downward, radians.
    """

    angles: Float[np.ndarray, "f 3"]
    shift: Float[np.ndarray, "f 3"]
    weights: dict[str, Float[np.ndarray, " f"]]
    gaze: Float[np.ndarray, "f 2"]


def sum_of_sines(time: np.ndarray, periods: tuple[float, ...], random: np.random.Generator) -> np.ndarray:
    """(F,) sum of sines of incommensurate periods, in [-1, 1]."""
    share = np.array([0.62, 0.26, 0.12])[: len(periods)]
    phase = random.uniform(0, 2 * np.pi, len(share))
    period = np.array(periods) * random.uniform(0.9, 1.1, len(share))
    return (share * np.sin(2 * np.pi * time[:, None] / period + phase)).sum(1) / share.sum()


def _keyframes(time: np.ndarray, names: list[str], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights (F,) by name: random gestures of random strength, held and blended smoothly."""
    odds = np.array([chance for chance, _ in _GESTURES])
    at, values = [-_HOLD], [np.zeros(len(names))]
    order = {name: k for k, name in enumerate(names)}
    while at[-1] < time[-1] + _HOLD:
        value = np.zeros(len(names))
        for _ in range(random.integers(1, 3)):
            gesture = _GESTURES[random.choice(len(_GESTURES), p=odds / odds.sum())][1]
            strength = random.uniform(0.5, 1.0)
            lean = random.uniform(-0.35, 0.35) * (random.random() < 0.6)
            for name, weight in gesture.items():
                for side, sign in (("", 0.0), ("_left", 1.0), ("_right", -1.0)):
                    if name + side in order:
                        k = order[name + side]
                        value[k] = max(value[k], min(1.0, weight * strength * (1 + sign * lean)))
        at.append(at[-1] + _HOLD * random.uniform(0.6, 1.5))
        values.append(value)
    stamp = np.array(at)
    after = np.clip(np.searchsorted(stamp, time, side="right"), 1, len(stamp) - 1)
    share = np.clip((time - stamp[after - 1]) / (0.85 * (stamp[after] - stamp[after - 1])), 0, 1)[:, None]
    share = cubic(share)
    table = np.array(values)
    track = table[after - 1] * (1 - share) + table[after] * share
    return {name: track[:, k] for name, k in order.items()}


def scripted_motion(frames: int, rate: float, names: list[str], seed: int) -> ScriptedMotion:
    """A smooth motion of a head that looks around, talks, smiles, frowns and blinks.

    Args:
        frames: F.
        rate: frames per second; the motion is defined in seconds, so more frames or a lower rate cover more of it.
        names: the head's expressions; gestures skip names that the head lacks.
        seed: seed of the motion.
    """
    time = np.arange(frames) / rate
    random = np.random.default_rng([seed, 1])
    yaw = _YAW * sum_of_sines(time, (5.9, 2.7, 1.7), random)
    pitch = _PITCH * sum_of_sines(time, (4.3, 2.3, 1.3), random)
    roll = _ROLL * sum_of_sines(time, (6.7, 3.1, 1.9), random)
    sway = [sum_of_sines(time, (period, period / 2.3), random) for period in (7.1, 5.3, 8.3)]
    shift = np.stack(sway, -1) * [0.012, 0.006, 0.015]
    gaze = np.stack([0.22 * sum_of_sines(time, (2.9, 1.1), random), 0.10 * sum_of_sines(time, (3.7, 1.3), random)], -1)
    weights = _keyframes(time, names, np.random.default_rng([seed, 2]))

    random = np.random.default_rng([seed, 3])
    blink = np.zeros(frames)
    at = random.uniform(0.4, 1.5)
    while frames and at < time[-1] + 1:
        blink = np.maximum(blink, np.exp(-(((time - at) / 0.11) ** 4)))
        at += random.uniform(1.3, 3.2)
    for name in ("blink_left", "blink_right"):
        if name in weights:
            # A squinting eye closes by less; a wide eye relaxes while it blinks.
            squint = weights.get(name.replace("blink", "squint"), np.zeros(frames))
            weights[name] = blink * (1 - 0.3 * squint)
    for name in weights:
        if name.startswith("eye_wide"):
            weights[name] = weights[name] * (1 - blink)
    return ScriptedMotion(np.stack([yaw, pitch, roll], -1), shift, weights, gaze)
