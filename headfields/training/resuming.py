"""What happens to a run folder that holds a run already: it is gone on with, or makes way."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder, writing
from headfields.training import options


def go_on(trainer: Any, folder: RunFolder, now: Mapping[str, Any]) -> None:
    """Loads the newest checkpoint that can be read into a `Trainer`, on every process.

    Process 0 puts those aside that cannot, warns of them and of options that differ from `now`, and drops from the log
    what comes after the checkpoint: those steps are about to be taken again.

    Raises:
        BrokenFileError: no checkpoint can be read.
        ValueError: it belongs to another model.
    """
    error: Exception | None = None
    broken: list[tuple[Path, str]] = []
    try:
        _, broken = checkpoint.first_whole(folder.checkpoints, trainer.load)
    except Exception as raised:
        error = raised
    trainer.ranks.all_or_none(error)

    def tidy() -> None:
        for path, reason in broken:
            aside = path.with_suffix(".broken")
            with writing(aside):
                os.replace(path, aside)
            options.warn(f"Trainer: {reason}; it is now {aside.name}, and {trainer.last_good}")
        changed = options.differences(trainer.progress.extra.get("options", {}), now)
        if changed:
            options.warn(f"Trainer: {folder.path} goes on with other options than before: {changed}")
        folder.rewind_log(trainer.progress.step)

    trainer.ranks.first_does(tidy)


def make_way(folder: RunFolder) -> None:
    """A new run begins in the folder: a checkpoint that is there is put aside, and the log starts anew."""
    if folder.checkpoints:
        aside = folder.checkpoint.with_name("replaced.safetensors")
        with writing(aside):
            os.replace(folder.checkpoints[0], aside)
            folder.previous_checkpoint.unlink(missing_ok=True)
        options.warn(
            f"Trainer: {folder.path} held another run, which this one replaces; its checkpoint is now {aside.name}. "
            "resume=True would have gone on with it"
        )
    folder.rewind_log(-1)
