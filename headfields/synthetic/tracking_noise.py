"""Noise model of a monocular tracker: correlated errors of pose and expression, and spells of lag.

Our own choice. A monocular tracker's errors are correlated over a few frames, because it initializes each frame from
the previous one and smooths; depth is its weakest direction; and it lags behind fast movements.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float

from headfields.synthetic.scene.motion import ScriptedMotion

__all__ = ["TrackingNoise"]

_SPELL = 0.3  # mean duration of a spell of lag, seconds


@dataclass(frozen=True)
class TrackingNoise:
    """Errors of a tracker as standard deviations over time; zero for none.

    The defaults are of the size commonly reported for tracked heads; they are not measured on a tracker.

    Attributes:
        rotation: rotation of the head about each axis, degrees.
        translation: shift of the head along each axis across the optical axis, millimeters.
        depth: shift of the head along the optical axis, millimeters.
        expression: error of each expression weight (and so of the jaw); the result is clamped to [0, 1].
        gaze: rotation of the eyes in each direction, degrees.
        correlation: correlation time (to 1/e), seconds; 0 for independent errors in every frame.
        lag: delay during a spell of lag, seconds.
        late: fraction of time with lag, in spells of 0.3 seconds on average.
        seed: seed of the errors, independent of the capture's: the same images can have several trackings.
    """

    rotation: float | int = 0.5
    translation: float | int = 1.0
    depth: float | int = 3.0
    expression: float | int = 0.05
    gaze: float | int = 2.0
    correlation: float | int = 0.25
    lag: float | int = 0.1
    late: float | int = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < np.inf:
                raise ValueError(f"TrackingNoise: {name} is {value}; expected at least 0")
        if self.late > 1:
            raise ValueError(f"TrackingNoise: late is {self.late}; expected a fraction of time, 0 to 1")

    def times(self, factor: float | int) -> "TrackingNoise":
        """The noise with all errors and the lag scaled by `factor`; `correlation` and `late` stay."""
        sizes = ("rotation", "translation", "depth", "expression", "gaze", "lag")
        return replace(self, **{name: getattr(self, name) * factor for name in sizes})

    def track(self, motion: ScriptedMotion, rate: float | int) -> ScriptedMotion:
        """The motion as tracked, at `rate` frames per second."""
        frames = len(motion.angles)
        delayed = _resampled(motion, self._late_frames(frames, rate))
        angle, shift = np.radians(self.rotation), 1e-3 * np.array([self.translation, self.translation, self.depth])
        names = list(delayed.weights)
        errors = self.expression * self._wander(frames, len(names), rate, 3)
        return ScriptedMotion(
            angles=delayed.angles + angle * self._wander(frames, 3, rate, 1),
            shift=delayed.shift + shift * self._wander(frames, 3, rate, 2),
            weights={name: np.clip(delayed.weights[name] + errors[:, k], 0, 1) for k, name in enumerate(names)},
            gaze=delayed.gaze + np.radians(self.gaze) * self._wander(frames, 2, rate, 4),
        )

    def _wander(self, frames: int, width: int, rate: float | int, stream: int) -> Float[np.ndarray, "f w"]:
        """Gaussian noise of standard deviation 1 whose correlation falls exponentially (Ornstein-Uhlenbeck)."""
        draws = np.random.default_rng([self.seed, stream]).standard_normal((frames, width))
        keep = np.exp(-1 / (rate * self.correlation)) if self.correlation else 0.0
        for index in range(1, frames):
            draws[index] = keep * draws[index - 1] + np.sqrt(1 - keep**2) * draws[index]
        return draws

    def _late_frames(self, frames: int, rate: float | int) -> Float[np.ndarray, " f"]:
        """Lag of each frame, in frames: a stationary Markov chain of two states."""
        draws = np.random.default_rng([self.seed, 5]).random(frames)
        keep = np.exp(-1 / (rate * _SPELL * (1 - self.late))) if self.late < 1 else 0.0
        late, lags = self.late, np.zeros(frames)
        for index in range(frames):
            lagging = draws[index] < late
            lags[index] = self.lag * rate * lagging
            late = self.late + (lagging - self.late) * keep
        return lags


def _resampled(motion: ScriptedMotion, lags: np.ndarray) -> ScriptedMotion:
    """The motion delayed by `lags` frames, by linear interpolation, clamped to the first frame."""
    frames = np.arange(len(lags))
    at = np.clip(frames - lags, 0, None)

    def earlier(track: np.ndarray) -> np.ndarray:
        columns = track.reshape(len(track), -1).T
        return np.stack([np.interp(at, frames, column) for column in columns], -1).reshape(track.shape)

    weights = {name: earlier(track) for name, track in motion.weights.items()}
    return ScriptedMotion(earlier(motion.angles), earlier(motion.shift), weights, earlier(motion.gaze))
