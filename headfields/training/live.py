"""Training on a capture that is still being written: new frames join at once, with a higher share at first."""

import sys
import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.live import LiveCapture
from headfields.losses.base import check_positive

__all__ = ["LiveFrames"]

_MOST_SHARE = 0.05
"""Share of the time that looking for new frames, and reading them, may take, apart from decoding."""
_TELL_EVERY = 30.0
"""Seconds between two reports of a frame that cannot be read."""


class LiveFrames:
    """A callback of the trainer that takes the frames of a `LiveCapture` as they come.

    A new frame is drawn `boost` + 1 times as often as an old one; what it has more halves every `half_life` steps. So a
    new expression is learned at once, and old ones are not forgotten: every frame goes on being drawn.

    Args:
        every: seconds between two looks at the folder; longer where a look takes more than a twentieth of that.
        boost: what the share of a new frame has more than that of an old one, relative to it.
        half_life: steps.

    Raises:
        ValueError: an argument is out of range.
        TypeError: at the start of training: the capture is no `LiveCapture`, or the avatar has codes by frame, of which
            there would be no row for a new one.
    """

    def __init__(self, every: float | int = 0.5, boost: float | int = 3.0, half_life: float | int = 100.0) -> None:
        check_positive("LiveFrames", every=every, half_life=half_life)
        if not 0 <= boost < float("inf"):
            raise ValueError(f"LiveFrames: boost is {boost}; expected a number that is not negative")
        self.every, self.boost, self.half_life = every, boost, half_life
        self._joined: dict[int, int] = {}
        self._next, self._told = 0.0, 0.0

    def on_start(self, trainer: Any) -> None:
        """Takes the frames that came while the run was not training."""
        if not isinstance(trainer.capture, LiveCapture):
            raise TypeError(
                f"LiveFrames: the capture is a {type(trainer.capture).__name__}; open it with "
                "headfields.data.LiveCapture"
            )
        tables = [name for name, table in getattr(trainer.avatar, "codes", {}).items() if table.by == "frame"]
        if tables:
            raise TypeError(
                f"LiveFrames: the avatar has codes by frame ({', '.join(tables)}), and new frames have no row; train a "
                "model without, as insta or gaussian-avatars, or wait until the capture is whole"
            )
        self._look(trainer, new=False)

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Looks for new frames when it is time."""
        if time.monotonic() >= self._next:
            self._look(trainer, new=True)

    def weights(self, frames: Float[Tensor, " f"] | Tensor, step: int) -> Float[Tensor, " f"]:
        """How often each of F frames is drawn at a step, relative to 1 for an old one."""
        weights = torch.ones(len(frames), dtype=torch.double)
        for row, frame in enumerate(frames.tolist()):
            if frame in self._joined:
                weights[row] += self.boost * 0.5 ** ((step - self._joined[frame]) / self.half_life)
        return weights

    def _look(self, trainer: Any, new: bool) -> None:
        start, capture, step = time.monotonic(), trainer.capture, trainer.progress.step
        added = capture.refresh()
        if new:
            self._joined |= dict.fromkeys(added, step)
        # Frames whose extra share is below a hundredth are as any other, so that the list stays short for hours.
        gone = [f for f, then in self._joined.items() if self.boost * 0.5 ** ((step - then) / self.half_life) < 0.01]
        changed = bool(added or self._joined or gone)
        for frame in gone:
            del self._joined[frame]
        if changed or not new:
            frames = capture.splits["train"]
            trainer.take_frames(frames, self.weights(frames, step) if self._joined else None)
        now = time.monotonic()
        if capture.refused and now - self._told > _TELL_EVERY:
            print(f"headfields: the next frame has not joined: {capture.refused}", file=sys.stderr)
            self._told = now
        self._next = now + max(self.every, (now - start) / _MOST_SHARE)
