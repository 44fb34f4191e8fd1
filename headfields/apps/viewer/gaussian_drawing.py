"""Who draws avatars of Gaussians: the browser, or the program for tabs that turn out to be slow."""

import itertools
from collections import deque
from collections.abc import Hashable
from typing import Literal, get_args

__all__ = ["GaussianDrawing", "PageSpeed", "WhoDraws"]

GaussianDrawing = Literal["automatic", "browser", "program"]
"""Automatic: the browser, until a tab is slow."""

INTERVALS = 6
"""Between cameras in a row, from which a speed is known."""
PAUSE = 3.0
"""Seconds without a camera after which counting begins again: nobody moved it."""
SLOW = 10.0
"""Frames a second below which somebody who turns a head waits for every picture."""


class PageSpeed:
    """The frames a second of a tab whose camera moves.

    viser tells no frame rate, but a page sends its camera once a frame (every 20 ms at most) while it moves. Somebody
    who moves it slowly sends fewer, so the shortest of the last intervals counts: a page that is slow has no short
    one, and one that is fast soon has.

    Attributes:
        is_slow: whether the page has been slower than `SLOW`; it stays so, because what is drawn for it changes then.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=INTERVALS + 1)
        self.is_slow = False

    def camera_moved(self, now: float) -> None:
        """Counts a camera.

        Args:
            now: when it came, seconds.
        """
        if self._times and now - self._times[-1] > PAUSE:
            self._times.clear()
        self._times.append(now)
        rate = self.rate
        self.is_slow = self.is_slow or (rate is not None and rate < SLOW)

    @property
    def rate(self) -> float | None:
        """Frames a second; None as long as too few cameras have come in a row."""
        if len(self._times) <= INTERVALS:
            return None
        times = sorted(self._times)
        shortest = min(later - earlier for earlier, later in itertools.pairwise(times))
        return 1 / max(shortest, 1e-3)


class WhoDraws:
    """Whether Gaussians are pictures now. All tabs share what is shown, so the slowest decides.

    Args:
        setting: a fixed choice, or automatic.

    Raises:
        ValueError: there is no such setting.
    """

    def __init__(self, setting: GaussianDrawing = "automatic") -> None:
        if setting not in get_args(GaussianDrawing):
            raise ValueError(f"gaussians is {setting!r}; expected one of {', '.join(get_args(GaussianDrawing))}")
        self.setting = setting
        self._speeds: dict[Hashable, PageSpeed] = {}

    @property
    def is_program(self) -> bool:
        """Whether the program draws them."""
        if self.setting == "automatic":
            return any(speed.is_slow for speed in list(self._speeds.values()))
        return self.setting == "program"

    def camera_moved(self, tab: Hashable, now: float) -> float | None:
        """Counts a camera of a tab that draws Gaussians.

        Args:
            tab: which one.
            now: when it came, seconds.

        Returns:
            Its frames a second if they are why the program draws from now on, else None.
        """
        speed = self._speeds.setdefault(tab, PageSpeed())
        before = self.is_program
        speed.camera_moved(now)
        return speed.rate if self.is_program and not before else None

    def forget(self, tab: Hashable) -> None:
        """For a tab that has left."""
        self._speeds.pop(tab, None)
