"""The folder of a training run: opened for a new run or for one that is resumed, and described."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.data.errors import CaptureError
from headfields.data.live import LiveCapture
from headfields.losses.base import Loss
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder, writing
from headfields.runs.functions import identity
from headfields.runs.lock import run_lock
from headfields.training.batches import BatchSource
from headfields.training.processes import Processes
from headfields.training.state import TrainingState
from headfields.training.warn import warn
from headfields.viz.page.rigs import capture_rig


class TrainingRun:
    """A run folder and the training that writes to it; process 0 alone writes.

    Args:
        folder: the folder.
        state: what is trained.
        capture, batches: the first frame of those that are drawn is the avatar's preview.
        processes: those that train together.
        options: the trainer's arguments, which the checkpoint records.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: TrainingState,
        capture: Any,
        batches: BatchSource,
        processes: Processes,
        options: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self._state, self._capture, self._batches = state, capture, batches
        self._processes, self._options = processes, options
        self._written_config: dict[str, Any] | None = None
        self._is_own = False  # whether the run in the folder is this trainer's

    def open(self, stack: contextlib.ExitStack, resume: bool) -> None:
        """Locks the folder until the stack closes; loads its checkpoint or clears the folder for a new run."""
        folder, state = self.folder, self._state

        def prepare() -> None:
            folder.create()
            with writing(folder.path):
                stack.enter_context(run_lock(folder.path))
            folder.remove_leftovers()
            folder.check_space(checkpoint.size(state.avatar, state.ema is not None))

        self._processes.on_first(prepare)
        if resume and folder.checkpoints:
            self._resume()
        elif not self._is_own:
            self._processes.on_first(lambda: self._replace(resume))
        self._is_own = True

    def describe(self, config: Mapping[str, Any]) -> None:
        """Writes config.json, and the avatar's parts if the commands could not build them from it."""
        if self._written_config == config:
            return
        self.folder.write_config(config)
        self._written_config = dict(config)
        grows = isinstance(self._capture, LiveCapture)  # and with its frames what the preset makes of them, as regions
        if config["model"] is not None and config["capture"] is not None and not grows:
            self.folder.parts.unlink(missing_ok=True)
        elif not self.folder.parts.exists() or not self._state.progress.step:
            self._save_avatar(self.folder.parts)

    def save_first(self) -> None:
        """A checkpoint of the start, so that a run that is killed before the next one is resumed as the run it was."""
        if not self.folder.checkpoints:
            self._state.save(self.folder.checkpoint, None)

    def save_last(self) -> None:
        """The avatar's file at the end of a run; of Gaussians with the rig that moves it without its capture."""
        avatar = self._state.avatar
        if isinstance(avatar, SplatAvatar) and avatar.rig is None:
            try:
                avatar.rig = capture_rig(self._capture)
            except (ValueError, CaptureError) as error:
                warn(f"Trainer: {self.folder.avatar} has no rig, so a page of it has no sliders: {error}")
        self._save_avatar(self.folder.avatar)

    def _save_avatar(self, path: Path) -> None:
        """Writes the avatar's file with a camera and a state, so that it can be looked at without its capture."""
        avatar = self._state.avatar
        if not hasattr(avatar, "save"):
            return
        if getattr(avatar, "preview", self) is None:
            frame = self._batches.frames[:1]
            avatar.preview = self._capture.camera(frame)[0], self._capture.state(frame)
        if hasattr(avatar, "trained_on"):
            avatar.trained_on = {
                "head_frame": "keep" if getattr(self._capture, "head_frame", None) is None else "normalize",
                "mouth": getattr(self._capture, "mouth", "close"),
            }
        try:
            with writing(path):
                avatar.save(path)
        except TypeError as error:
            warn(f"Trainer: {path} is not written: {error}; checkpoints are, and trainer.avatar is trained")

    def _resume(self) -> None:
        """Loads the newest checkpoint that can be read, on every process.

        Process 0 renames those that cannot, warns of them and of options that differ, and drops log lines after the
        checkpoint: those steps will be taken again.
        """
        error: Exception | None = None
        broken: list[tuple[Path, str]] = []
        try:
            _, broken = checkpoint.load_newest(self.folder.checkpoints, self._state.load)
        except Exception as raised:
            error = raised
        self._processes.raise_on_all(error)

        def tidy() -> None:
            for path, reason in broken:
                aside = path.with_suffix(".broken")
                with writing(aside):
                    os.replace(path, aside)
                warn(f"Trainer: {reason}; it is now {aside.name}, and {self._state.last_good}")
            changes = differences(self._state.progress.extra.get("options", {}), self._options)
            if changes:
                warn(f"Trainer: {self.folder.path} continues with other options than before: {changes}")
            self.folder.rewind_log(self._state.progress.step)

        self._processes.on_first(tidy)

    def _replace(self, resume: bool) -> None:
        """Renames the checkpoint of another run in the folder and starts the log anew."""
        folder = self.folder
        if resume and folder.read_log():
            warn(f"Trainer: {folder.path} has no checkpoint to resume from; its run starts anew, at step 0")
        aside = folder.set_aside()
        if aside is not None:
            warn(
                f"Trainer: {folder.path} held another run, which this one replaces; its checkpoint is now "
                f"{aside.name}. resume=True would have continued it"
            )
        folder.rewind_log(-1)


def recorded_options(losses: Sequence[Loss], **options: Any) -> dict[str, Any]:
    """The trainer's arguments as a checkpoint records them, after a round trip through JSON."""
    texts = [
        identity(loss)
        if dataclasses.is_dataclass(loss)
        else f"{type(loss).__name__}({loss.name!r}, weight={loss.weight})"
        for loss in losses
    ]
    weights = {loss.name: loss.weight for loss in losses}
    return json.loads(json.dumps({**options, "losses": texts, "loss_weights": weights}))


def weights_digest(weights: Tensor | None) -> str | None:
    """A short hash that distinguishes sets of weights."""
    return None if weights is None else hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`name=old (now new), ...` for all entries of both that differ; empty if none do."""
    changed = [name for name in now if name in before and before[name] != now[name]]
    return ", ".join(f"{name}={before[name]!r} (now {now[name]!r})" for name in changed)
