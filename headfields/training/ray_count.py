"""The number of rays of a step, which follows the number of samples that they have."""

from headfields.training.state import TrainingState


class RayCount:
    """Rays of a step: as many as give a target number of samples, or a fixed number.

    The number is part of the checkpoint, so that a resumed run takes the steps of an unbroken one.

    Args:
        state: holds the number.
        start: rays of the first step; later ones have at least an eighth as many.
        samples: target number of samples of a step; None keeps `start`.
        most: largest number of rays; None: four times `start`.
    """

    def __init__(self, state: TrainingState, start: int, samples: int | None, most: int | None = None) -> None:
        self._state, self._start, self._samples = state, start, samples
        self._most = 4 * start if most is None else most

    @property
    def now(self) -> int:
        """The number of rays that the next step renders."""
        return self._start if self._samples is None else int(self._state.progress.extra.get("rays", self._start))

    def follow(self, rays: int, samples: float) -> None:
        """Moves a fifth of the way to the number that gives the target, after a step of so many rays and samples."""
        if self._samples is not None and rays and samples:
            self._state.progress.extra["rays"] = self._bounded(0.8 * rays + 0.2 * rays * self._samples / samples)

    def jump(self, rays: int, samples: float) -> float:
        """Moves all the way after steps of so many rays and samples, if that is more than a tenth; the factor."""
        if self._samples is None or not samples:
            return 1.0
        before, target = self.now, self._bounded(rays / samples * self._samples)
        if abs(target - before) <= 0.1 * before:
            return 1.0
        self._state.progress.extra["rays"] = target
        return target / before

    def _bounded(self, rays: float) -> int:
        return int(min(max(rays, self._start / 8, 1), self._most))
