"""What a training carries from step to step, all of which a checkpoint holds."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headfields.runs import checkpoint
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.folder import RunFolder, last_good, writing
from headfields.runs.nonfinite import BufferBackup, SkippedSteps, check_weights
from headfields.runs.progress import Progress
from headfields.runs.randomness import RandomStream
from headfields.training.callbacks import callback_states, load_callback_states
from headfields.training.optimizers import Hyperparameters


class TrainingState:
    """The avatar, its optimizer and average, random numbers, progress, and what callbacks keep.

    A run that is resumed from it takes the steps of an unbroken one.

    Args:
        avatar: what is trained.
        optimizer: of its parameters.
        ema: the moving average of its weights, or None.
        random: all random numbers of the training.
        scaler: the gradient scaler of float16, or None.
        callbacks: those of the trainer.
        folder: the run folder, or None; messages name its checkpoints.
        trained: the avatar and what is trained beside it, as one module; the avatar alone if None.

    Attributes:
        avatar, optimizer, ema, random, scaler: as above.
        progress: steps, seconds, and metrics that go on over resumptions.
        skipped: the steps that were not finite.
        trained: the avatar and what is trained beside it.
        parameters: what is trained, by name.
        backup: the buffers of before a step.
        has_average: whether the avatar carries the averaged weights, as it does between calls of `Trainer.fit`.
    """

    def __init__(
        self,
        avatar: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: ExponentialMovingAverage | None,
        random: RandomStream,
        scaler: Any,
        callbacks: Sequence[Any],
        folder: RunFolder | None,
        trained: nn.Module | None = None,
    ) -> None:
        self.avatar: Any = avatar
        self.trained = avatar if trained is None else trained
        self.optimizer, self.ema, self.random, self.scaler = optimizer, ema, random, scaler
        self._callbacks, self._folder = callbacks, folder
        self._hyperparameters = Hyperparameters(optimizer)
        self.progress, self.skipped = Progress(), SkippedSteps("frame")
        self.parameters = {name: p for name, p in self.trained.named_parameters() if p.requires_grad}
        self.backup = BufferBackup(avatar)
        self.has_average = False
        self._saved: tuple[Path, int] | None = None  # the checkpoint written or read last, and its step

    @property
    def last_good(self) -> str:
        """A clause about the newest checkpoint that exists, for messages."""
        return last_good(self._saved, self._folder)

    def resized(self) -> None:
        """Takes note of parameters and buffers of other sizes; averages of new parameters start at their values."""
        self.parameters = {name: p for name, p in self.trained.named_parameters() if p.requires_grad}
        self.backup = BufferBackup(self.avatar)
        if self.ema is not None:
            self.ema.resized(self.trained)

    def swap_average(self) -> None:
        """Exchanges the weights that are trained and their average in the avatar."""
        if self.ema is not None:
            self.ema.swap()
            self.has_average = not self.has_average

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Any]:
        """Within the `with` block the avatar carries the averaged weights, in evaluation mode; random numbers that are
        drawn in the block do not change the training."""
        training, swap = self.avatar.training, not self.has_average
        with self.random.preserved():
            if swap:
                self.swap_average()
            self.avatar.eval()
            try:
                yield self.avatar
            finally:
                self.avatar.train(training)
                if swap:
                    self.swap_average()

    def save(self, path: Path, previous: Path | None) -> None:
        """Writes a checkpoint, atomically; a file at `path` moves to `previous`.

        Raises:
            RunWriteError: it cannot be written; a file at `path` stays as it was.
            NanLossError: a weight is not finite.
        """
        check_weights(self.trained, f"{self.last_good}. Resume from there with a lower learning rate")
        extra = self.progress.extra
        if self.scaler is not None:
            extra["scaler"] = self.scaler.state_dict()
        if any(self._hyperparameters.state()):
            extra["hyperparameters"] = self._hyperparameters.state()
        if self._callbacks:
            extra["callbacks"] = callback_states(self._callbacks)
        swapped = self.ema.swapped() if self.ema is not None and self.has_average else contextlib.nullcontext()
        with swapped, writing(path):
            states = self.random.states()
            checkpoint.save(path, self.trained, self.optimizer, self.ema, states, self.progress, previous)
        self._saved = Path(path), self.progress.step

    def load(self, path: Path | str) -> None:
        """Restores a checkpoint.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is cut short, or belongs to another model.
        """
        if self.has_average:
            self.swap_average()
        self.progress, random = checkpoint.load(path, self.trained, self.optimizer, self.ema)
        self.resized()
        self.random.load(random)
        extra = self.progress.extra
        if self.scaler is not None and "scaler" in extra:
            self.scaler.load_state_dict(extra["scaler"])
        self._hyperparameters.load(extra.get("hyperparameters", []))
        load_callback_states(self._callbacks, extra.get("callbacks", {}))
        self.skipped.load(extra.get("skipped", {}))
        self._saved = Path(path), self.progress.step
