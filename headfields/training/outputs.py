"""Pictures and checkpoints of a run while it trains, at intervals and at its end."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from headfields.runs.folder import RunFolder, write_picture
from headfields.training.batches import BatchSource
from headfields.training.callbacks import Hooks
from headfields.training.evaluation import picture
from headfields.training.frames import watched_frame
from headfields.training.loggers import Loggers
from headfields.training.monitor import TrainingMonitor
from headfields.training.state import TrainingState

OVERHEAD_SHARE = 0.1
"""The largest share of the time that pictures may take, and that checkpoints may take."""


class RunOutputs:
    """Takes pictures of the watched frame and saves checkpoints.

    Args:
        state: what is saved.
        capture, batches: the watched frame is the capture's, or the first of those that are drawn.
        folder: the run folder; None writes nothing.
        hooks, loggers: are told.
        device: on which pictures are rendered.
        picture_seconds, checkpoint_seconds: the intervals.
    """

    def __init__(
        self,
        state: TrainingState,
        capture: Any,
        batches: BatchSource,
        folder: RunFolder | None,
        hooks: Hooks,
        loggers: Loggers,
        device: torch.device,
        picture_seconds: float,
        checkpoint_seconds: float,
    ) -> None:
        self._state, self._capture, self._batches, self._folder = state, capture, batches, folder
        self._hooks, self._loggers, self._device = hooks, loggers, device
        self._intervals = {"picture": picture_seconds, "checkpoint": checkpoint_seconds}
        self._last: dict[str, float] = {}
        self._cost: dict[str, float] = {}  # duration of the last one, seconds
        self._pictured: int | None = None  # the step of the last picture

    @property
    def has_folder(self) -> bool:
        """Whether the run is written to a folder, on any process."""
        return self._folder is not None

    def start_clock(self) -> None:
        """The intervals begin."""
        self._last = dict.fromkeys(self._intervals, time.perf_counter())

    def make_due(self, monitor: TrainingMonitor, before: Callable[[], None] = lambda: None) -> None:
        """Takes a picture and saves a checkpoint if they are due; between two steps, and `before` is called first."""
        if monitor.folder is not None and monitor.stepped:
            self._when_due("picture", monitor, before, self.take_picture)
            self._when_due("checkpoint", monitor, before, self.save)

    def _when_due(
        self,
        name: str,
        monitor: TrainingMonitor,
        before: Callable[[], None],
        action: Callable[[TrainingMonitor], None],
    ) -> None:
        waited = time.perf_counter() - self._last[name]
        if waited < self._intervals[name]:
            return
        if name not in self._cost and name == "picture":
            # An estimate for the first one: rendering a ray takes a third of its time in a training step.
            self._cost[name] = math.prod(self._capture.size) / max(monitor.rays_per_second, 1.0) / 3
        if waited >= self._cost.get(name, 0.0) * (1 / OVERHEAD_SHARE - 1):
            before()
            start = time.perf_counter()
            action(monitor)
            self._last[name] = time.perf_counter()
            self._cost[name] = self._last[name] - start

    def take_picture(self, monitor: TrainingMonitor) -> None:
        """Renders the watched frame with the averaged weights, once a step, and writes it to the run folder."""
        progress = self._state.progress
        if self._folder is None or self._pictured == progress.step:
            return
        frame = watched_frame(self._capture, self._batches.frames)
        with self._state.averaged() as avatar:
            image, psnr = picture(avatar, self._capture, frame, device=self._device)
        self._pictured = progress.step
        progress.best_psnr = psnr if progress.best_psnr is None else max(progress.best_psnr, psnr)
        write_picture(self._folder.images / f"step_{progress.step:06d}.png", image)
        monitor.tick()
        monitor.event("picture", frame=frame, psnr=round(psnr, 3))
        self._loggers.picture(progress.step, image, psnr)
        self._hooks.call("on_picture", image=image, psnr=psnr)

    def save(self, monitor: TrainingMonitor) -> None:
        """Saves the checkpoint of the run folder; the last one is kept as the previous."""
        if self._folder is not None:
            monitor.tick()
            self._state.save(self._folder.checkpoint, self._folder.previous_checkpoint)
            self._loggers.save()
            self._hooks.call("on_checkpoint", path=self._folder.checkpoint)
